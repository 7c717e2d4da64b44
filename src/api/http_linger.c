#include "api/http_linger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* Dropped in one go, so that a fast sender does not hold up the others: the loop comes back for the rest. */
#define BITE (1u << 20)

struct lingerer {
    struct lingering *all;
    struct lingerer *next, *prev;
    int fd;
    uint64_t dropped;
    int64_t until_ms;
    unsigned handles; /* that are not closed yet */
    bool ending;
    uv_poll_t poll;
    uv_timer_t timer;
};

static void on_closed(uv_handle_t *handle) {
    struct lingerer *l = handle->data;
    if (--l->handles) return;
    (void)close(l->fd);
    free(l);
}

static void end(struct lingerer *l) {
    if (l->ending) return;
    l->ending = true;
    if (l->prev)
        l->prev->next = l->next;
    else
        l->all->list = l->next;
    if (l->next) l->next->prev = l->prev;
    l->all->count--;
    uv_close((uv_handle_t *)&l->poll, on_closed);
    uv_close((uv_handle_t *)&l->timer, on_closed);
}

static void on_time(uv_timer_t *timer) { end(timer->data); }

static void wait_on(struct lingerer *l) {
    int64_t left = l->until_ms - monotonic_ms();
    if (left > LINGER_QUIET_MS) left = LINGER_QUIET_MS;
    (void)uv_timer_start(&l->timer, on_time, left > 0 ? (uint64_t)left : 0, 0);
}

static void on_bytes(uv_poll_t *poll, int status, int events) {
    struct lingerer *l = poll->data;
    (void)events;
    /* MSG_TRUNC: the kernel throws them away itself (tcp(7)). */
    ssize_t n = status < 0 ? 0 : recv(l->fd, NULL, BITE, MSG_TRUNC | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) l->dropped += (uint64_t)n;
    if (n <= 0 || l->dropped > LINGER_BYTES)
        end(l);
    else
        wait_on(l);
}

void linger_begin(struct lingering *all, uv_loop_t *loop, int fd) {
    if (all->count >= LINGERING_MAX) {
        log_debug("http: too many connections linger, one is closed with bytes unread");
        return;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return;
    struct lingerer *l = calloc(1, sizeof *l);
    if (!l) abort();
    *l = (struct lingerer){.all = all, .next = all->list, .fd = copy, .until_ms = monotonic_ms() + LINGER_MS, .handles = 2};
    if (shutdown(copy, SHUT_WR) < 0 || uv_poll_init(loop, &l->poll, copy) < 0) { /* not connected any more */
        (void)close(copy);
        free(l);
        return;
    }
    if (l->next) l->next->prev = l;
    all->list = l;
    all->count++;
    (void)uv_timer_init(loop, &l->timer);
    l->poll.data = l->timer.data = l;
    if (uv_poll_start(&l->poll, UV_READABLE, on_bytes) < 0)
        end(l);
    else
        wait_on(l);
}

void linger_end_all(struct lingering *all) {
    while (all->list) end(all->list);
}
