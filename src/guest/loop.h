/* loop.h: the one event loop of the guest: descriptors (epoll, level triggered), timers, and memory that is freed only
 * when no event of the current round can point at it any more. Single-threaded; nothing here blocks but loop_round().
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/err.h"

/* A descriptor under watch. Set fd, ready and arg, then loop_watch(). Lives inside its owner, which hands its memory to
 * loop_free(), never to free(): an event of the same round may still name it. */
struct loop_watch {
    int fd;
    uint32_t events; /* what is wanted; 0: not watched */
    uint32_t held;   /* what epoll holds now */
    bool waiting;    /* epoll had no memory for it: tried again soon */
    struct loop_watch *next_waiting;
    void (*ready)(void *arg, uint32_t events);
    void *arg;
};

struct loop_timer {
    int64_t at_ms; /* monotonic; meaningful while armed */
    bool armed;
    void (*fire)(void *arg);
    void *arg;
    struct loop_timer *next;
};

int loop_open(struct err *e);
/* Watch w->fd for exactly `events`; 0 takes it out (a descriptor with no wanted event must be out: epoll reports a
 * hang-up whether asked or not, and the loop would spin). When the cell is out of memory the watch begins late. */
void loop_watch(struct loop_watch *w, uint32_t events);
/* Stop watching, close the descriptor, fd = -1. Always before close(): a forked child may still share the open file. */
void loop_close(struct loop_watch *w);
void loop_after(struct loop_timer *t, int delay_ms);
void loop_cancel(struct loop_timer *t);
/* free(p) at the end of this round. */
void loop_free(void *p);
/* Wait for events, run their callbacks and the due timers, free what was handed to loop_free. -1 when epoll fails. */
int loop_round(struct err *e);
