/* deadline.h: many timers of the domain on one loop timer. Private to this floor; loop thread.
 *
 * A deadline is a member of whatever it belongs to; zeroed memory is an unset one. Its owner unsets it before freeing
 * itself. fire() runs on the loop, after the deadline was unset, and may set it again. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct deadline {
    int64_t at_ms; /* monotonic_ms() */
    size_t pos;    /* place in the heap, from 1; 0: not set */
    void (*fire)(struct deadline *);
};
struct deadlines;

struct deadlines *deadlines_open(uv_loop_t *loop);
void deadlines_close(struct deadlines *); /* unsets all */
void deadline_set(struct deadlines *, struct deadline *, int64_t at_ms, void (*fire)(struct deadline *));
void deadline_unset(struct deadlines *, struct deadline *);

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
