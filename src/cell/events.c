/* Events: a ring in memory for subscribers and the newest, the store for the rest. Rows are written a moment later in
 * one transaction: an event is a record of what happened, not the thing itself. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/domain.h"

#define RING 1024
#define FLUSH_MS 50

struct world_subscription {
    struct world_subscription *next;
    struct events *events;
    char cell_id[CELL_ID_MAX]; /* "": all */
    world_event_cb cb;
    void *arg;
    uint64_t seen; /* sequence of the newest event delivered */
    bool dead;
};
struct entry {
    struct json_object *json;
    int64_t ts_ms;
    char cell_id[CELL_ID_MAX];
};
struct events {
    struct world *world;
    struct entry ring[RING];
    uint64_t count, saved; /* how many there ever were, how many are in the store */
    struct world_subscription *subscriptions;
    struct deadline flush;
    struct deferred deliver;
    bool delivering;
};

static void flush(struct events *e) {
    struct world *w = e->world;
    struct err err;
    if (e->saved == e->count) return;
    store_begin(w->config.store);
    for (; e->saved < e->count; e->saved++) {
        struct entry *x = &e->ring[e->saved % RING];
        if (store_event_add(w->config.store, x->ts_ms, x->cell_id,
                            json_object_to_json_string_ext(x->json, JSON_C_TO_STRING_NOSLASHESCAPE), &err) < 0)
            log_warn("event not stored: %s", err.text);
    }
    store_commit(w->config.store);
}
static void on_flush(struct deadline *d) { flush(container_of(d, struct events, flush)); }

static void drop_dead(struct events *e) {
    for (struct world_subscription **at = &e->subscriptions; *at;) {
        struct world_subscription *s = *at;
        if (s->dead) {
            *at = s->next;
            free(s);
        } else
            at = &s->next;
    }
}

/* Subscribers are called on the next turn: an event may happen inside a call of theirs. */
static void on_deliver(struct deferred *d) {
    struct events *e = container_of(d, struct events, deliver);
    e->delivering = true;
    for (struct world_subscription *s = e->subscriptions; s; s = s->next) {
        if (s->seen + RING < e->count) s->seen = e->count - RING;
        while (!s->dead && s->seen < e->count) {
            struct entry *x = &e->ring[s->seen++ % RING];
            if (!s->cell_id[0] || strcmp(s->cell_id, x->cell_id) == 0) s->cb(s->arg, x->json);
        }
    }
    e->delivering = false;
    drop_dead(e);
}

void world_event(struct world *w, const char *cell_id, const char *type, const char *code, const char *message,
                 struct json_object *metadata) {
    struct events *e = w->events;
    int64_t now = wall_ms();
    char ts[32];
    format_time(ts, now);
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "ts", json_object_new_string(ts));
    json_object_object_add(o, "sandbox_id", json_object_new_string(cell_id));
    json_object_object_add(o, "type", json_object_new_string(type));
    json_object_object_add(o, "code", code ? json_object_new_string(code) : NULL);
    json_object_object_add(o, "message", message ? json_object_new_string(message) : NULL);
    json_object_object_add(o, "metadata", metadata ? metadata : json_object_new_object());
    if (e->count - e->saved == RING) flush(e); /* the oldest of the ring must be in the store before it goes */
    struct entry *x = &e->ring[e->count++ % RING];
    json_object_put(x->json);
    *x = (struct entry){.json = o, .ts_ms = now};
    memcpy(x->cell_id, cell_id, strnlen(cell_id, sizeof x->cell_id - 1));
    if (!e->flush.pos) deadline_set(w->deadlines, &e->flush, monotonic_ms() + FLUSH_MS, on_flush);
    if (e->subscriptions) defer(w->defers, &e->deliver, on_deliver);
}

struct events *events_open(struct world *w) {
    struct events *e = calloc(1, sizeof *e);
    if (!e) abort();
    e->world = w;
    return e;
}

void events_close(struct events *e) {
    flush(e);
    deadline_unset(e->world->deadlines, &e->flush);
    defer_cancel(e->world->defers, &e->deliver);
    for (struct world_subscription *s = e->subscriptions; s; s = s->next) s->dead = true;
    drop_dead(e);
    for (size_t i = 0; i < RING; i++) json_object_put(e->ring[i].json);
    free(e);
}

struct world_subscription *world_subscribe(struct world *w, const char *cell_id, world_event_cb cb, void *arg) {
    struct world_subscription *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct world_subscription){
        .events = w->events, .cb = cb, .arg = arg, .seen = w->events->count, .next = w->events->subscriptions};
    if (cell_id) memcpy(s->cell_id, cell_id, strnlen(cell_id, sizeof s->cell_id - 1));
    w->events->subscriptions = s;
    return s;
}

void world_unsubscribe(struct world_subscription *s) {
    s->dead = true;
    if (!s->events->delivering) drop_dead(s->events);
}

static int add_row(void *arg, const char *json) {
    struct json_object *o = json_tokener_parse(json);
    if (o) json_object_array_add(arg, o);
    return 0;
}

struct json_object *world_events(struct world *w, const char *cell_id, int tail) {
    struct err err;
    struct json_object *list = json_object_new_array();
    flush(w->events);
    if (store_event_each(w->config.store, cell_id, tail, add_row, list, &err) < 0)
        log_warn("events not read: %s", err.text);
    return list;
}
