#include "cell/deadline.h"

#include <stdlib.h>

#include "base/clock.h"

struct deadlines {
    uv_timer_t timer;
    struct deadline **heap; /* heap[1] is the earliest */
    size_t count, room;
};

static void place(struct deadlines *d, size_t pos, struct deadline *one) {
    d->heap[pos] = one;
    one->pos = pos;
}

static void sift_up(struct deadlines *d, size_t pos) {
    struct deadline *one = d->heap[pos];
    for (; pos > 1 && d->heap[pos / 2]->at_ms > one->at_ms; pos /= 2) place(d, pos, d->heap[pos / 2]);
    place(d, pos, one);
}

static void sift_down(struct deadlines *d, size_t pos) {
    struct deadline *one = d->heap[pos];
    for (size_t child; (child = pos * 2) <= d->count; pos = child) {
        if (child < d->count && d->heap[child + 1]->at_ms < d->heap[child]->at_ms) child++;
        if (d->heap[child]->at_ms >= one->at_ms) break;
        place(d, pos, d->heap[child]);
    }
    place(d, pos, one);
}

static void take(struct deadlines *d, struct deadline *one) {
    size_t pos = one->pos;
    struct deadline *last = d->heap[d->count--];
    one->pos = 0;
    if (last == one) return;
    place(d, pos, last);
    sift_up(d, pos);
    sift_down(d, last->pos);
}

static void on_timer(uv_timer_t *t);

static void arm(struct deadlines *d) {
    if (!d->count) {
        uv_timer_stop(&d->timer);
        return;
    }
    int64_t in = d->heap[1]->at_ms - monotonic_ms();
    uv_update_time(d->timer.loop);
    uv_timer_start(&d->timer, on_timer, in > 0 ? (uint64_t)in : 0, 0);
}

static void on_timer(uv_timer_t *t) {
    struct deadlines *d = t->data;
    int64_t now = monotonic_ms();
    /* Whatever fire() sets for "now" waits for the next turn: the loop is never starved. */
    for (size_t left = d->count; left && d->count && d->heap[1]->at_ms <= now; left--) {
        struct deadline *one = d->heap[1];
        take(d, one);
        one->fire(one);
    }
    arm(d);
}

struct deadlines *deadlines_open(uv_loop_t *loop) {
    struct deadlines *d = calloc(1, sizeof *d);
    if (!d) abort();
    uv_timer_init(loop, &d->timer);
    d->timer.data = d;
    return d;
}

static void closed(uv_handle_t *h) { free(h->data); }

void deadlines_close(struct deadlines *d) {
    for (size_t i = 1; i <= d->count; i++) d->heap[i]->pos = 0;
    d->count = 0;
    free(d->heap);
    uv_close((uv_handle_t *)&d->timer, closed);
}

void deadline_set(struct deadlines *d, struct deadline *one, int64_t at_ms, void (*fire)(struct deadline *)) {
    if (one->pos) take(d, one);
    if (d->count + 2 > d->room) {
        size_t room = d->room ? d->room * 2 : 64;
        struct deadline **heap = realloc(d->heap, room * sizeof *heap);
        if (!heap) abort();
        d->heap = heap;
        d->room = room;
    }
    one->at_ms = at_ms;
    one->fire = fire;
    place(d, ++d->count, one);
    sift_up(d, d->count);
    if (one->pos == 1) arm(d);
}

/* The loop timer is left as it is: at worst it fires once for nothing. */
void deadline_unset(struct deadlines *d, struct deadline *one) {
    if (one->pos) take(d, one);
}
