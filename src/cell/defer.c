#include "cell/defer.h"

#include <stdlib.h>

struct defer_queue {
    uv_idle_t idle; /* runs while something is queued; the loop does not sleep then */
    struct deferred *first, **last;
};

static void unlink_one(struct defer_queue *q, struct deferred *d) {
    *d->place = d->next;
    if (d->next)
        d->next->place = d->place;
    else
        q->last = d->place;
    d->next = NULL;
    d->place = NULL;
}

static void on_idle(uv_idle_t *h) {
    struct defer_queue *q = h->data;
    struct deferred end = {0}; /* what is queued from here on waits for the next turn */
    defer(q, &end, NULL);
    while (q->first && q->first != &end) {
        struct deferred *d = q->first;
        unlink_one(q, d);
        d->run(d);
    }
    if (end.place) unlink_one(q, &end);
    if (!q->first) uv_idle_stop(h);
}

struct defer_queue *defer_open(uv_loop_t *loop) {
    struct defer_queue *q = calloc(1, sizeof *q);
    if (!q) abort();
    q->last = &q->first;
    uv_idle_init(loop, &q->idle);
    q->idle.data = q;
    return q;
}

static void closed(uv_handle_t *h) { free(h->data); }

void defer_close(struct defer_queue *q) {
    while (q->first) unlink_one(q, q->first);
    uv_close((uv_handle_t *)&q->idle, closed);
}

void defer(struct defer_queue *q, struct deferred *d, void (*run)(struct deferred *)) {
    d->run = run;
    if (d->place) return;
    if (!q->first) uv_idle_start(&q->idle, on_idle);
    d->next = NULL;
    d->place = q->last;
    *q->last = d;
    q->last = &d->next;
}

void defer_cancel(struct defer_queue *q, struct deferred *d) {
    if (d->place) unlink_one(q, d);
}
