/* filesystem.Filesystem: changes as a stream (WatchDir), or kept here until they are asked for (CreateWatcher, GetWatcherEvents,
 * RemoveWatcher: clients that cannot wait on a stream). */
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_filesystem_events.h"
#include "api/compat/e2b_rpc.h"
#include "api/handlers.h"
#include "base/id.h"

/* ---- WatchDir ---- */

struct watch {
    struct request *rq;
    struct fs_events *events; /* NULL: over */
    struct rpc_stream *st;    /* NULL: not open yet */
};

static void watch_free(struct watch *w) {
    request_release(w->rq);
    free(w);
}

static void stream_gone(void *arg) {
    struct watch *w = arg;
    fs_events_close(w->events);
    watch_free(w);
}

static void stream_drained(void *arg) { fs_events_more(((struct watch *)arg)->events); }

static void send_object(struct rpc_stream *st, struct json_object *taken) {
    struct buf b = {0};
    json_put(&b, taken);
    rpc_send(st, b.data, b.len);
    buf_free(&b);
    json_object_put(taken);
}

static void watch_start(void *arg) {
    static const struct rpc_stream_ops ops = {.keepalive = "{\"keepalive\":{}}", .drained = stream_drained, .gone = stream_gone};
    struct watch *w = arg;
    w->st = rpc_open(w->rq, true, &ops, w);
    if (w->st)
        rpc_send(w->st, "{\"start\":{}}", 12);
    else
        stream_gone(w);
}

static void watch_event(void *arg, struct json_object *event) {
    struct json_object *out = json_object_new_object();
    json_set(out, "filesystem", json_object_get(event));
    send_object(((struct watch *)arg)->st, out);
}

static bool watch_full(void *arg) {
    struct watch *w = arg;
    return w->st && rpc_full(w->st);
}

static void watch_end(void *arg, const struct err *e) {
    struct watch *w = arg;
    if (w->st)
        rpc_end(w->st, e);
    else
        reply_err(w->rq, e);
    watch_free(w);
}

/* The client hung up before the guest answered. */
static void early_gone(void *arg) {
    struct watch *w = arg;
    struct err e;
    err_set(&e, ERR_UNAVAILABLE, "the watch was given up before it began");
    reply_err(w->rq, &e);
    stream_gone(w);
}

static void watch_dir(struct request *rq, struct json_object *message) {
    struct err e;
    const char *user = e2b_user(rq);
    if (!user) return;
    struct watch *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct watch){.rq = request_hold(rq)};
    const struct fs_events_to to = {watch_start, watch_event, watch_full, watch_end, w};
    w->events = fs_events_open(rq->cell, user, message, &to, &e);
    if (w->events) {
        request_on_gone(rq, early_gone, w);
        return;
    }
    reply_err(rq, &e);
    watch_free(w);
}
void e2b_fs_watch_dir(struct request *rq) { rpc_streaming(rq, watch_dir); }

/* ---- watchers ---- */

#define WATCHERS_MAX 64  /* of one cell */
#define EVENTS_MAX 16384 /* kept by one; then its watch is held until they are fetched */

struct watcher {
    struct watcher *next;
    char id[40], cell_id[CELL_ID_MAX];
    struct fs_events *events; /* NULL: over, `why` says so once more */
    struct json_object *list; /* not fetched yet */
    struct request *rq;       /* the CreateWatcher that waits for its start */
    struct err why;
};

/* All watchers of all cells; few. Loop thread, like everything here. */
static struct watcher *watchers;

static void watcher_free(struct watcher *w) {
    struct watcher **at = &watchers;
    while (*at && *at != w) at = &(*at)->next;
    if (*at) *at = w->next;
    if (w->events) fs_events_close(w->events);
    json_object_put(w->list);
    if (w->rq) request_release(w->rq);
    free(w);
}

static void kept_start(void *arg) {
    struct watcher *w = arg;
    struct json_object *out = json_object_new_object();
    json_set_text(out, "watcherId", w->id);
    rpc_answer(w->rq, out);
    request_release(w->rq);
    w->rq = NULL;
}

static void kept_event(void *arg, struct json_object *event) {
    struct watcher *w = arg;
    json_object_array_add(w->list, json_object_get(event));
}

static bool kept_full(void *arg) { return json_object_array_length(((struct watcher *)arg)->list) >= EVENTS_MAX; }

static void kept_end(void *arg, const struct err *e) {
    struct watcher *w = arg;
    w->events = NULL;
    w->why = *e;
    if (w->rq) reply_err(w->rq, e);
    /* A sandbox that is gone asks no more; one that lives hears at its next question why nothing comes. */
    if (w->rq || strcmp(e->code, ERR_LIMIT) != 0) watcher_free(w);
}

/* Those of ended cells that had ended before them. Returns how many this cell has. */
static unsigned sweep(struct request *rq) {
    unsigned n = 0;
    struct err e;
    for (struct watcher *w = watchers, *next; w; w = next) {
        next = w->next;
        n += strcmp(w->cell_id, cell_id(rq->cell)) == 0;
        if (!w->events && !cell_find(api_of(rq)->world, w->cell_id, &e)) watcher_free(w);
    }
    return n;
}

static void create_watcher(struct request *rq, struct json_object *message) {
    struct err e;
    const char *user = e2b_user(rq);
    if (!user) return;
    if (sweep(rq) >= WATCHERS_MAX) {
        err_set(&e, ERR_LIMIT, "a sandbox may have at most %d watchers", WATCHERS_MAX);
        reply_err(rq, &e);
        return;
    }
    struct watcher *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct watcher){.next = watchers, .rq = request_hold(rq), .list = json_object_new_array()};
    watchers = w;
    id_make(w->id, "w");
    (void)snprintf(w->cell_id, sizeof w->cell_id, "%s", cell_id(rq->cell));
    const struct fs_events_to to = {kept_start, kept_event, kept_full, kept_end, w};
    w->events = fs_events_open(rq->cell, user, message, &to, &e);
    if (w->events) return;
    reply_err(rq, &e);
    watcher_free(w);
}
void e2b_fs_create_watcher(struct request *rq) { rpc_unary(rq, create_watcher); }

/* NULL after a reply. */
static struct watcher *asked(struct request *rq, struct json_object *message) {
    struct err e;
    const char *id;
    if (rpc_text(message, "watcherId", &id, &e) == 0) {
        for (struct watcher *w = watchers; w; w = w->next)
            if (!w->rq && strcmp(w->id, id) == 0 && strcmp(w->cell_id, cell_id(rq->cell)) == 0) return w;
        err_set(&e, ERR_NOT_FOUND, "the sandbox has no watcher of that id");
    }
    reply_err(rq, &e);
    return NULL;
}

static void get_events(struct request *rq, struct json_object *message) {
    struct watcher *w = asked(rq, message);
    if (!w) return;
    if (!w->events && !json_object_array_length(w->list)) {
        reply_err(rq, &w->why);
        watcher_free(w);
        return;
    }
    struct json_object *out = json_object_new_object();
    json_set(out, "events", w->list);
    w->list = json_object_new_array();
    rpc_answer(rq, out);
    if (w->events) fs_events_more(w->events);
}
void e2b_fs_watcher_events(struct request *rq) { rpc_unary(rq, get_events); }

static void remove_watcher(struct request *rq, struct json_object *message) {
    struct watcher *w = asked(rq, message);
    if (!w) return;
    watcher_free(w);
    rpc_answer(rq, json_object_new_object());
}
void e2b_fs_remove_watcher(struct request *rq) { rpc_unary(rq, remove_watcher); }
