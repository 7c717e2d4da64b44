#include "guest/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

#define ROUND_EVENTS 64 /* events taken per round; the rest waits for the next one, so no descriptor starves another */

struct dead {
    struct dead *next;
    void *memory;
};

static int epoll_fd = -1;
static struct loop_timer *timers;
static struct dead *dead_list;

int loop_open(struct err *e) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return epoll_fd < 0 ? err_sys(e, errno, "epoll_create1") : 0;
}

void loop_watch(struct loop_watch *w, uint32_t events) {
    if (w->fd < 0 || events == w->events) return;
    int op = !w->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    struct epoll_event ev = {.events = events, .data.ptr = w};
    /* Only a descriptor that epoll cannot watch or the kernel's watch limit makes this fail, and both leave the guest
     * deaf on a channel it answers for: better a cell reported lost than one that hangs. */
    if (epoll_ctl(epoll_fd, op, w->fd, &ev) < 0) abort();
    w->events = events;
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
    if (!timers) return -1;
    int64_t first = timers->at_ms, now = monotonic_ms();
    for (struct loop_timer *t = timers; t; t = t->next)
        if (t->at_ms < first) first = t->at_ms;
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
        if (w->events) w->ready(w->arg, ev[i].events);
    }
    fire_due();
    while (dead_list) {
        struct dead *d = dead_list;
        dead_list = d->next;
        free(d->memory);
        free(d);
    }
    return 0;
}
