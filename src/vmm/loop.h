/* loop.h: the loop thread waits here for everything outside the guest (epoll).
 *
 * A watch belongs to the module that owns its descriptor. It is told once and then silent until loop_watch is called again, so that a side whose
 * queue is full is not asked for ever. loop_watch may be called by any thread (with the device's lock held); the rest by the loop thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/err.h"

struct watch {
    int fd;
    bool added;
    void (*ready)(struct watch *, uint32_t events);
};
struct loop {
    int epoll_fd;
    bool over;
};

int loop_make(struct loop *, struct err *); /* also in a forked process: epoll descriptors are shared with the parent */
/* Tell me once about these events (0: changes nothing, a watch that was told is silent). */
void loop_watch(struct loop *, struct watch *, uint32_t events);
/* Before its descriptor is closed. */
void loop_forget(struct loop *, struct watch *);
/* Serve until over is set. */
void loop_run(struct loop *);
