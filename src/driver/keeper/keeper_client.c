#include "driver/keeper/keeper_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define RECONNECT_MS 200
#define ANSWERS_PER_TURN 64 /* then other work of the loop gets its turn */

struct call {
    struct call *next;
    struct keeper_client *from; /* NULL: its handle was closed, the answer is thrown away */
    uint64_t tag;
    keeper_answer done;
    void *arg;
    struct keeper_request request;
    int fd[KEEPER_CALL_FDS]; /* go with the request; -1: none */
    bool sent;
};

struct keeper_client { /* a handle */
    struct keeper_client *next;
    struct link *link;
    struct keeper_client_events events;
};

struct link { /* the connection */
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t retry;
    int fd, handles; /* handles still open in the loop */
    bool closing;
    char path[108];
    uint64_t next_tag;
    struct call *first, *last; /* in the order of the calls; the keeper answers nearly in that order */
    size_t pending;
    struct keeper_client *clients; /* in the order in which they joined */
};

static void on_ready(uv_poll_t *, int, int);
static void on_retry(uv_timer_t *);

static int dial(const char *path, struct err *e) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
        err_sys(e, errno, "connect to the keeper at %s", path);
        e->code = ERR_UNAVAILABLE;
        e->hint = "start Cella with `cella up`";
        return -1;
    }
    return steal_fd(&fd);
}

static void want(struct link *k) {
    bool unsent = false;
    for (struct call *c = k->first; c && !unsent; c = c->next) unsent = !c->sent;
    uv_poll_start(&k->poll, UV_READABLE | (unsent ? UV_WRITABLE : 0), on_ready);
}

static int attach(struct link *k, struct err *e) {
    k->fd = dial(k->path, e);
    if (k->fd < 0) return -1;
    uv_poll_init(k->loop, &k->poll, k->fd);
    k->poll.data = k;
    k->handles++;
    want(k);
    return 0;
}

static void finish(struct link *k) {
    if (!k->handles && k->closing) free(k);
}
static void on_poll_closed(uv_handle_t *h) {
    struct link *k = h->data;
    k->handles--;
    if (k->closing) finish(k);
    else uv_timer_start(&k->retry, on_retry, RECONNECT_MS, 0);
}
static void on_timer_closed(uv_handle_t *h) {
    struct link *k = h->data;
    k->handles--;
    finish(k);
}

static void close_fds(struct call *c) {
    for (int i = 0; i < KEEPER_CALL_FDS; i++) close_fd(&c->fd[i]);
}

static void fail_all(struct link *k) {
    struct call *c = k->first;
    k->first = k->last = NULL;
    k->pending = 0;
    while (c) {
        struct call *next = c->next;
        struct err e;
        close_fds(c);
        err_hint(&e, ERR_UNAVAILABLE, "the keeper's log says why; `cella up` starts it again", "the keeper is gone");
        if (c->from) c->done(c->arg, &e, NULL, NULL, 0);
        free(c);
        c = next; /* an answer may call again: that call is on the new list */
    }
}

static void lost(struct link *k) {
    log_error("the keeper is gone: its cells are lost");
    uv_poll_stop(&k->poll);
    close_fd(&k->fd);
    uv_close((uv_handle_t *)&k->poll, on_poll_closed);
    fail_all(k);
    for (struct keeper_client *c = k->clients; c; c = c->next) c->events.on_lost(c->events.arg);
}

static void on_retry(uv_timer_t *t) {
    struct link *k = t->data;
    struct err e;
    if (attach(k, &e)) {
        fail_all(k); /* what was asked since */
        uv_timer_start(&k->retry, on_retry, RECONNECT_MS, 0);
        return;
    }
    log_info("a keeper answers again");
    for (struct keeper_client *c = k->clients; c; c = c->next) c->events.on_back(c->events.arg);
}

static ssize_t send_one(struct link *k, struct call *c) {
    struct iovec iov = {&c->request, sizeof c->request};
    union {
        char space[CMSG_SPACE(KEEPER_CALL_FDS * sizeof(int))];
        struct cmsghdr align;
    } control = {.space = {0}};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    size_t n = 0;
    while (n < KEEPER_CALL_FDS && c->fd[n] >= 0) n++;
    if (n) {
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(h), c->fd, n * sizeof(int));
    }
    return sendmsg(k->fd, &m, MSG_NOSIGNAL);
}

static bool send_unsent(struct link *k) {
    for (struct call *c = k->first; c; c = c->next) {
        if (c->sent) continue;
        if (send_one(k, c) < 0) return errno == EAGAIN || errno == EINTR;
        c->sent = true;
        close_fds(c);
    }
    return true;
}

static struct call *take(struct link *k, uint64_t tag) {
    struct call *before = NULL;
    for (struct call *c = k->first; c; before = c, c = c->next) {
        if (c->tag != tag) continue;
        if (before) before->next = c->next;
        else k->first = c->next;
        if (k->last == c) k->last = before;
        k->pending--;
        return c;
    }
    return NULL;
}

static const char *code_of(int error) {
    switch (error) { /* keeper/server.c: refusals that no failed call is behind */
    case EAGAIN: return ERR_UNAVAILABLE;
    case EBUSY: return ERR_CONFLICT;
    case EUSERS: return ERR_LIMIT;
    case EOPNOTSUPP: return ERR_UNSUPPORTED;
    case EBADMSG: return ERR_IMAGE;
    case EFBIG: return ERR_TOO_LARGE;
    default: return err_code_of_errno(error);
    }
}

static void discard(const int *fds, size_t n) {
    for (size_t i = 0; i < n; i++) close(fds[i]);
}

static void tell(struct link *k, const struct keeper_reply *r, const int *fds, size_t n) {
    for (struct keeper_client *c = k->clients; c; c = c->next)
        if (c->events.on_event(c->events.arg, r, fds, n)) return;
    discard(fds, n);
}

static void deliver(struct link *k, const struct keeper_reply *r, const int *fds, size_t n) {
    struct call *c = r->tag ? take(k, r->tag) : NULL;
    if (!r->tag) {
        tell(k, r, fds, n);
    } else if (!c || !c->from) {
        discard(fds, n);
    } else if (r->error) {
        struct err e;
        discard(fds, n);
        err_set(&e, code_of(r->error), "%.*s", (int)sizeof r->text, r->text);
        e.sys_errno = r->error;
        c->done(c->arg, &e, NULL, NULL, 0);
    } else {
        c->done(c->arg, NULL, r, fds, n);
    }
    free(c);
}

/* One message. 1 read, 0 nothing there, -1 the connection is over. */
static int read_one(struct link *k) {
    struct keeper_reply r;
    struct iovec iov = {&r, sizeof r};
    union {
        char space[CMSG_SPACE(KEEPER_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t got = recvmsg(k->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got != (ssize_t)sizeof r || r.magic != KEEPER_MAGIC || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) return -1;
    int fds[KEEPER_FDS_MAX];
    size_t n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(c), n * sizeof(int));
    }
    deliver(k, &r, fds, n);
    return 1;
}

static void quiet(struct link *k) {
    for (struct keeper_client *c = k->clients; c; c = c->next)
        if (c->events.on_quiet) c->events.on_quiet(c->events.arg);
}

static void on_ready(uv_poll_t *p, int status, int events) {
    struct link *k = p->data;
    int got = 1;
    if (status < 0) {
        lost(k);
        return;
    }
    size_t pending = k->pending;
    for (int i = 0; (events & UV_READABLE) && i < ANSWERS_PER_TURN && got > 0 && !k->closing && k->fd >= 0; i++) got = read_one(k);
    if (k->closing || k->fd < 0) return;
    if (pending && !k->pending && got >= 0) quiet(k);
    if (got < 0 || !send_unsent(k)) {
        lost(k);
        return;
    }
    want(k);
}

static struct keeper_client *handle_new(struct link *k, const struct keeper_client_events *events) {
    struct keeper_client *c = calloc(1, sizeof *c), **at = &k->clients;
    if (!c) abort();
    *c = (struct keeper_client){.link = k, .events = *events};
    while (*at) at = &(*at)->next;
    *at = c;
    return c;
}

struct keeper_client *keeper_client_open(uv_loop_t *loop, const char *path, const struct keeper_client_events *events, struct err *e) {
    if (strlen(path) >= sizeof ((struct link *)0)->path) return err_set(e, ERR_INVALID, "socket path %s is too long", path), NULL;
    struct link *k = calloc(1, sizeof *k);
    if (!k) return err_sys(e, ENOMEM, "keeper client"), NULL;
    k->loop = loop;
    k->next_tag = 1;
    k->fd = -1;
    (void)snprintf(k->path, sizeof k->path, "%s", path);
    if (attach(k, e)) {
        free(k);
        return NULL;
    }
    uv_timer_init(loop, &k->retry);
    k->retry.data = k;
    k->handles++;
    return handle_new(k, events);
}

struct keeper_client *keeper_client_join(struct keeper_client *other, const struct keeper_client_events *events) { return handle_new(other->link, events); }

void keeper_call(struct keeper_client *h, struct keeper_request *q, keeper_answer done, void *arg) { keeper_call_fds(h, q, NULL, 0, done, arg); }
void keeper_call_fd(struct keeper_client *h, struct keeper_request *q, int fd, keeper_answer done, void *arg) { keeper_call_fds(h, q, &fd, 1, done, arg); }

void keeper_call_fds(struct keeper_client *h, struct keeper_request *q, const int *fds, size_t n, keeper_answer done, void *arg) {
    struct link *k = h->link;
    struct call *c = calloc(1, sizeof *c);
    if (!c) abort();
    for (size_t i = 0; i < KEEPER_CALL_FDS; i++) c->fd[i] = i < n ? fds[i] : -1;
    q->magic = KEEPER_MAGIC;
    q->tag = c->tag = k->next_tag++;
    c->from = h;
    c->request = *q;
    c->done = done;
    c->arg = arg;
    if (k->last) k->last->next = c;
    else k->first = c;
    k->last = c;
    k->pending++;
    if (k->fd < 0) return; /* sent if a keeper is back at the next try, else it fails then */
    if (!send_unsent(k)) return; /* the poll sees the end of the connection and fails everything */
    want(k);
}

size_t keeper_client_pending(const struct keeper_client *h) { return h->link->pending; }

static void link_close(struct link *k) {
    k->closing = true;
    for (struct call *c = k->first, *next; c; c = next) {
        next = c->next;
        close_fds(c);
        free(c);
    }
    k->first = k->last = NULL;
    if (k->fd >= 0) {
        uv_poll_stop(&k->poll);
        uv_close((uv_handle_t *)&k->poll, on_poll_closed);
        close_fd(&k->fd);
    }
    uv_timer_stop(&k->retry);
    uv_close((uv_handle_t *)&k->retry, on_timer_closed);
}

void keeper_client_close(struct keeper_client *h) {
    struct link *k = h->link;
    struct keeper_client **at = &k->clients;
    while (*at != h) at = &(*at)->next;
    *at = h->next;
    for (struct call *c = k->first; c; c = c->next)
        if (c->from == h) c->from = NULL;
    free(h);
    if (!k->clients) link_close(k);
}
