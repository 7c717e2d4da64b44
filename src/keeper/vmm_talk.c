#include "keeper/vmm_talk.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdpass.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/vmm_process.h"

bool vmm_fell;
static int loop_fd = -1;

int vmm_open(struct err *e) {
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    return loop_fd < 0 ? err_sys(e, errno, "epoll") : 0;
}

int vmm_loop_fd(void) { return loop_fd; }

void vmm_loop(void) {
    for (int i = 0; i < 64; i++) { /* one at a time: what is told may end another watch. The rest is told at the next call */
        struct epoll_event event;
        if (epoll_wait(loop_fd, &event, 1, 0) != 1) return;
        struct watch *w = event.data.ptr;
        w->ready(w);
    }
}

int watch_add(struct watch *w, struct err *e) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = w};
    return epoll_ctl(loop_fd, EPOLL_CTL_ADD, w->fd, &event) ? err_sys(e, errno, "watch a monitor") : 0;
}

void watch_end(struct watch *w) {
    if (w->fd >= 0) (void)epoll_ctl(loop_fd, EPOLL_CTL_DEL, w->fd, NULL); /* close alone does not: a child of the keeper may have it open as well */
    close_fd(&w->fd);
}

void vmm_take(struct vmm *to, struct vmm *from) {
    if (from->watch.fd >= 0) (void)epoll_ctl(loop_fd, EPOLL_CTL_DEL, from->watch.fd, NULL);
    *to = *from;
    to->watch.ready = NULL;
    from->watch.fd = -1;
    from->group[0] = 0;
    from->over = true;
}

/* ---- messages ---- */

static struct {
    struct vmm_message m;
    char text[VMM_TEXT_MAX + 1];
} in; /* one at a time; not on the stack: it is large */

void vmm_lost(struct vmm *v, const char *why) {
    if (v->over) return;
    v->over = vmm_fell = true;
    (void)snprintf(v->why, sizeof v->why, "%s", why);
    if (v->group[0]) cgroup_kill(v->group);
    log_warn("monitor %d: %s", v->pid, why);
}

/* One packet into `in`: 1, 0 when there is none now, -1 when none will come (v->over is set then). creds (may be NULL): who sent it. */
int vmm_receive(struct vmm *v, struct ucred *creds) {
    /* no room for descriptors behind the credentials, so the kernel drops any that come */
    union {
        char space[CMSG_SPACE(sizeof(struct ucred))];
        struct cmsghdr align;
    } control;
    struct iovec iov[] = {{&in.m, sizeof in.m}, {in.text, VMM_TEXT_MAX}};
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = creds ? control.space : NULL, .msg_controllen = creds ? sizeof control.space : 0};
    const ssize_t got = recvmsg(v->watch.fd, &h, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) return vmm_lost(v, "it has ended"), -1;
    if (got < (ssize_t)sizeof in.m || h.msg_flags & MSG_TRUNC || in.m.bytes != (size_t)got - sizeof in.m) return vmm_lost(v, "it sent a message that is none"), -1;
    in.text[in.m.bytes] = 0;
    const struct cmsghdr *c = creds ? CMSG_FIRSTHDR(&h) : NULL;
    if (creds) *creds = (struct ucred){0};
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof *creds)) memcpy(creds, CMSG_DATA(c), sizeof *creds);
    return 1;
}

const struct vmm_message *vmm_received(const char **text) {
    *text = in.text;
    return &in.m;
}

int vmm_refused(const struct vmm_message *m, const char *text, struct err *e) {
    const int number = m->status > 0 && m->status < 4096 ? m->status : EIO;
    err_set(e, number == EBADMSG ? ERR_IMAGE : err_code_of_errno(number), "%.200s", text[0] ? text : "the monitor refused it without a word");
    e->sys_errno = number;
    return -1;
}

/* An event, or the answer to vmm.later. */
static void take(struct vmm *v) {
    if (in.m.type == VMM_ENDED && !in.m.seq) {
        if (v->over) return;
        v->over = vmm_fell = true;
        (void)snprintf(v->why, sizeof v->why, "the guest has ended: %.120s", in.text);
    } else if (v->later && in.m.seq == v->later && v->on_later) {
        v->later = 0;
        v->on_later(v, in.m.status < 0 || in.m.status > 4095 ? EIO : in.m.status, in.m.arg, in.text);
    }
}

void vmm_hear(struct vmm *v) {
    for (int i = 0; i < 64 && v->watch.fd >= 0 && !v->over; i++) {
        if (vmm_receive(v, NULL) <= 0) break;
        take(v);
    }
    if (!v->over || !v->later || !v->on_later) return;
    static const uint64_t none[6];
    v->later = 0;
    v->on_later(v, EPIPE, none, v->why);
}

static int late(struct vmm *v, int limit_ms, struct err *e) {
    char why[64];
    (void)snprintf(why, sizeof why, "it did not answer within %d ms", limit_ms);
    vmm_lost(v, why);
    err_set(e, ERR_LOST, "the monitor of the machine did not answer within %d ms and was killed", limit_ms);
    e->sys_errno = ETIMEDOUT;
    return -1;
}

int vmm_readable(struct vmm *v, int64_t until_ms, int limit_ms, struct err *e) {
    for (;;) {
        struct pollfd p = {v->watch.fd, POLLIN, 0};
        const int64_t left = until_ms - monotonic_ms();
        if (left <= 0) return late(v, limit_ms, e); /* also one that talks without end */
        const int n = poll(&p, 1, (int)left);
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return late(v, limit_ms, e);
    }
}

static int gone(const struct vmm *v, struct err *e) {
    err_set(e, ERR_LOST, "the machine is gone: %s", v->why[0] ? v->why : "it has ended");
    e->sys_errno = EPIPE;
    return -1;
}

uint32_t vmm_send(struct vmm *v, enum vmm_type type, const struct vmm_ask *a, struct err *e) {
    static const struct vmm_ask nothing;
    if (!a) a = &nothing;
    if (v->watch.fd < 0 || v->over) return gone(v, e), 0;
    struct {
        struct vmm_message m;
        char text[1024];
    } out = {.m = {.type = type, .seq = ++v->seq ? v->seq : ++v->seq, .arg = {a->arg[0], a->arg[1], a->arg[2]}}};
    const size_t n = a->text ? strlen(a->text) : 0;
    if (n > sizeof out.text) return err_set(e, ERR_INVALID, "a text of %zu bytes for a monitor", n), 0;
    if (n) memcpy(out.text, a->text, n);
    out.m.bytes = (uint32_t)n;
    if (!fdpass_send(v->watch.fd, &out, sizeof out.m + n, a->fd, a->fds, MSG_DONTWAIT)) return out.m.seq;
    vmm_lost(v, errno == EAGAIN ? "it does not read its requests" : "it has ended");
    return gone(v, e), 0;
}

int vmm_wait(struct vmm *v, uint32_t seq, enum vmm_type type, int limit_ms, uint64_t arg[6], struct err *e) {
    const int64_t until = monotonic_ms() + limit_ms;
    if (!seq) return -1; /* vmm_send() said why */
    for (;;) {
        const int got = v->watch.fd < 0 ? -1 : vmm_receive(v, NULL);
        if (got < 0) return gone(v, e);
        if (!got || in.m.seq != seq) {
            if (got) take(v);
            if (vmm_readable(v, until, limit_ms, e)) return -1;
            continue;
        }
        if (in.m.type != type) {
            vmm_lost(v, "it answered something else");
            return gone(v, e);
        }
        if (in.m.status) return vmm_refused(&in.m, in.text, e);
        if (arg) memcpy(arg, in.m.arg, sizeof in.m.arg);
        return 0;
    }
}

int vmm_ask(struct vmm *v, enum vmm_type type, const struct vmm_ask *a, int limit_ms, uint64_t arg[6], struct err *e) {
    const uint32_t seq = vmm_send(v, type, a, e);
    return seq ? vmm_wait(v, seq, type, limit_ms, arg, e) : -1;
}
