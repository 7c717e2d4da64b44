/* work.h: work of a driver that takes time goes to libuv's threads. */
#pragma once
#include <uv.h>

struct works { /* of one driver; its loop thread only */
    uv_loop_t *loop;
    unsigned count;             /* under way */
    void (*done)(void *driver); /* after each: it may be the last of a driver that closes */
    void *driver;
};

/* run on a thread of the pool, then after on the loop thread. While the driver closes, after is still called: it must look at its `closing` and only free
 * what it has. */
void work_start(struct works *, void (*run)(void *arg), void (*after)(void *arg), void *arg);
