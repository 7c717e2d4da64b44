/* defer.h: things to do on the next turn of the loop, because a callback never comes from inside the call that took it.
 * Private to this floor; loop thread. A deferred is a member of whatever it belongs to; zeroed memory is an idle one;
 * its owner cancels it before freeing itself. */
#pragma once
#include <uv.h>

struct deferred {
    struct deferred *next, **place; /* place NULL: not queued */
    void (*run)(struct deferred *);
};
struct defer_queue;

struct defer_queue *defer_open(uv_loop_t *loop);
void defer_close(struct defer_queue *); /* forgets what is queued */
/* In the order of the calls. Queued already: stays where it is, with the new function. */
void defer(struct defer_queue *, struct deferred *, void (*run)(struct deferred *));
void defer_cancel(struct defer_queue *, struct deferred *);
