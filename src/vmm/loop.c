#include "vmm/loop.h"

#include <errno.h>
#include <unistd.h>

int loop_make(struct loop *l, struct err *e) {
    l->over = false;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return l->epoll_fd < 0 ? err_sys(e, errno, "epoll") : 0;
}

void loop_watch(struct loop *l, struct watch *w, uint32_t events) {
    struct epoll_event e = {.events = events | EPOLLONESHOT, .data.ptr = w};
    if (w->fd < 0 || !events) return; /* it was told once, so it is silent already; armed for nothing, a hang-up would be told for ever */
    (void)epoll_ctl(l->epoll_fd, w->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &e);
    w->added = true;
}

void loop_forget(struct loop *l, struct watch *w) {
    if (w->added) (void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    w->added = false;
}

void loop_run(struct loop *l) {
    while (!l->over) {
        struct epoll_event e; /* one at a time: what is told may forget another watch */
        const int n = epoll_wait(l->epoll_fd, &e, 1, -1);
        if (n < 0 && errno != EINTR) return;
        if (n == 1) {
            struct watch *w = e.data.ptr;
            w->ready(w, e.events);
        }
    }
}
