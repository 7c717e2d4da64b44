#include "guest/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

#define RETRY_MS 20 /* between two attempts to watch a descriptor that epoll had no memory for */
#define ROUND_EVENTS                                                                                                   \
    64 /* events taken per round; the rest waits for the next one, so no descriptor starves another                    \
        */

struct dead {
    struct dead *next;
    void *memory;
};

static int epoll_fd = -1;
static struct loop_timer *timers;
static struct dead *dead_list;
static struct loop_watch *waiting_watches;

int loop_open(struct err *e) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return epoll_fd < 0 ? err_sys(e, errno, "epoll_create1") : 0;
}

/* True when epoll now holds what is wanted. */
static bool apply(struct loop_watch *w) {
    if (w->events == w->held) return true;
    int op = !w->held ? EPOLL_CTL_ADD : w->events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    struct epoll_event ev = {.events = w->events, .data.ptr = w};
    if (epoll_ctl(epoll_fd, op, w->fd, &ev) == 0) {
        w->held = w->events;
        return true;
    }
    /* A cell that has filled its memory makes the kernel refuse these; anything else is a mistake of this program. */
    if (errno != ENOMEM && errno != ENOSPC) abort();
    return false;
}

static void stop_waiting(struct loop_watch *w) {
    if (!w->waiting) return;
    w->waiting = false;
    for (struct loop_watch **p = &waiting_watches; *p; p = &(*p)->next_waiting)
        if (*p == w) {
            *p = w->next_waiting;
            return;
        }
}

void loop_watch(struct loop_watch *w, uint32_t events) {
    if (w->fd < 0) return;
    w->events = events;
    if (apply(w)) {
        stop_waiting(w);
    } else if (!w->waiting) {
        w->waiting = true;
        w->next_waiting = waiting_watches;
        waiting_watches = w;
    }
}

static void try_waiting(void) {
    for (struct loop_watch *w = waiting_watches, *next; w; w = next) {
        next = w->next_waiting;
        if (apply(w)) stop_waiting(w);
    }
}

void loop_close(struct loop_watch *w) {
    if (w->fd < 0) return;
    loop_watch(w, 0);
    close(w->fd);
    w->fd = -1;
}

void loop_after(struct loop_timer *t, int delay_ms) {
    t->at_ms = monotonic_ms() + delay_ms;
    if (t->armed) return;
    t->armed = true;
    t->next = timers;
    timers = t;
}

void loop_cancel(struct loop_timer *t) {
    if (!t->armed) return;
    t->armed = false;
    for (struct loop_timer **p = &timers; *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            return;
        }
}

void loop_free(void *p) {
    struct dead *d = malloc(sizeof *d);
    if (!d) abort();
    *d = (struct dead){.next = dead_list, .memory = p};
    dead_list = d;
}

static int next_timeout_ms(void) {
    if (!timers && !waiting_watches) return -1;
    int64_t now = monotonic_ms(), first = waiting_watches ? now + RETRY_MS : INT64_MAX;
    for (struct loop_timer *t = timers; t; t = t->next)
        if (t->at_ms < first) first = t->at_ms;
    if (first > now + INT_MAX) return INT_MAX;
    return first <= now ? 0 : (int)(first - now);
}

static void fire_due(void) {
    int64_t now = monotonic_ms();
    for (struct loop_timer *t = timers; t;) {
        if (t->at_ms > now) {
            t = t->next;
            continue;
        }
        loop_cancel(t);
        t->fire(t->arg);
        t = timers; /* the callback may have changed the list */
    }
}

int loop_round(struct err *e) {
    struct epoll_event ev[ROUND_EVENTS];
    int n = epoll_wait(epoll_fd, ev, ROUND_EVENTS, next_timeout_ms());
    if (n < 0 && errno != EINTR) return err_sys(e, errno, "epoll_wait");
    for (int i = 0; i < n; i++) {
        struct loop_watch *w = ev[i].data.ptr;
        if (w->held && w->events) w->ready(w->arg, ev[i].events);
    }
    fire_due();
    try_waiting();
    while (dead_list) {
        struct dead *d = dead_list;
        dead_list = d->next;
        free(d->memory);
        free(d);
    }
    return 0;
}
