/* Events of the daemon or of one cell: the newest ones as an array, or followed as server-sent events. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "cell/world.h"

struct follower {
    struct request *rq;
    struct world_subscription *subscription;
    struct stream *st;
    enum event_format format;
    char owner[KEY_ID_MAX]; /* "": sees everything */
};

/* A key hears only of its own cells. A cell that is gone belongs to nobody any more: its last event was sent before. */
static bool may_see(struct world *world, const char *owner, struct json_object *event) {
    struct err e;
    const char *id = json_object_get_string(json_field(event, "sandbox_id"));
    if (!*owner) return true;
    struct cell *cell = id ? cell_find(world, id, &e) : NULL;
    return cell && strcmp(cell_owner(cell), owner) == 0;
}

static void put_event(struct follower *f, struct json_object *event) {
    struct buf b = {0};
    json_put(&b, event);
    event_send(f->st, f->format, "event", b.data, b.len);
    buf_free(&b);
}

static void follower_free(struct follower *f) {
    world_unsubscribe(f->subscription);
    request_release(f->rq);
    free(f);
}

static void on_event(void *arg, struct json_object *event) {
    struct follower *f = arg;
    if (!may_see(api_of(f->rq)->world, f->owner, event)) return;
    put_event(f, event);
    if (!stream_full(f->st)) return;
    stream_abort(f->st); /* events do not wait: a follower that does not read is cut and may come back with ?tail= */
    follower_free(f);
}

static void gone(void *arg) { follower_free(arg); }

static void beat(void *arg) {
    struct follower *f = arg;
    event_keepalive(f->st, f->format);
}

static void follow(struct request *rq, const char *cell, struct json_object *past) {
    static const struct stream_ops ops = {.gone = gone};
    struct follower *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct follower){.rq = request_hold(rq), .format = event_format_asked(rq)};
    if (f->format == FORMAT_NONE) f->format = FORMAT_SSE;
    if (!cell) (void)snprintf(f->owner, sizeof f->owner, "%s", rq->key_id);
    f->subscription = world_subscribe(api_of(rq)->world, cell, on_event, f);
    f->st = stream_open(rq, 200, event_content_type(f->format), UINT64_MAX, &ops, f);
    stream_heartbeat(f->st, beat);
    event_keepalive(f->st, f->format); /* the head goes out now: the client knows that it follows */
    for (size_t i = 0; i < json_object_array_length(past); i++) put_event(f, json_object_array_get_idx(past, i));
}

static struct json_object *visible(struct request *rq, struct json_object *taken) {
    if (!rq->key_id[0]) return taken;
    struct json_object *out = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(taken); i++) {
        struct json_object *event = json_object_array_get_idx(taken, i);
        if (may_see(api_of(rq)->world, rq->key_id, event)) json_object_array_add(out, json_object_get(event));
    }
    json_object_put(taken);
    return out;
}

static void answer(struct request *rq, const char *cell) {
    struct err e;
    bool follows;
    long long tail;
    if (!flag_of(rq, "follow", &follows)) return;
    if (query_number(&rq->query, "tail", 0, 10000, follows ? 0 : 100, &tail, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *past = tail ? world_events(api_of(rq)->world, cell, (int)tail) : json_object_new_array();
    if (!cell) past = visible(rq, past);
    if (!follows) {
        reply_json(rq, 200, past);
        return;
    }
    follow(rq, cell, past);
    json_object_put(past);
}

void handle_events(struct request *rq) { answer(rq, NULL); }
void handle_cell_events(struct request *rq) { answer(rq, cell_id(rq->cell)); }
