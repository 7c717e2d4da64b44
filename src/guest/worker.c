#include "guest/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "guest/loop.h"
#include "guest/reap.h"
#include "guest/stream.h"
#include "guest/work.h"
#include "wire/guest_proto.h"

struct worker {
    struct channel *channel; /* NULL after a reset */
    struct reap child;
    struct loop_watch link;
    struct loop_timer undo;
    struct buf pending; /* DATA of the worker that waits for credit */
    struct buf input;   /* DATA of the daemon that the link has not taken */
    struct buf end;     /* END payload */
    bool input_eof, changes, watching, closing, ended, reaped;
    int wait_status;
};

static void worker_flow(struct worker *w) {
    bool room = !w->ended && !w->pending.len && !stream_full();
    bool input = w->input.len || w->input_eof;
    loop_watch(&w->link, (room ? (uint32_t)EPOLLIN : 0u) | (input ? (uint32_t)EPOLLOUT : 0u));
}

static void worker_free(struct worker *w) {
    reap_remove(&w->child);
    loop_cancel(&w->undo);
    loop_close(&w->link);
    buf_free(&w->pending);
    buf_free(&w->input);
    buf_free(&w->end);
    loop_free(w);
}

/* The worker went away without a word. */
static void tell_loss(struct worker *w) {
    struct err e;
    if (w->closing && w->watching) {
        channel_end(w->channel, "{}", 2);
        return;
    }
    if (w->closing)
        err_set(&e, ERR_CONFLICT, "closed before the operation had ended");
    else if (WIFSIGNALED(w->wait_status))
        err_set(&e, ERR_LOST, "the file operation was killed (signal %d)%s", WTERMSIG(w->wait_status),
                WTERMSIG(w->wait_status) == SIGKILL ? ": the cell may be out of memory" : "");
    else
        err_set(&e, ERR_INTERNAL, "the file operation ended without a result (status %d)", WEXITSTATUS(w->wait_status));
    channel_fail(w->channel, &e);
}

/* END goes out when all DATA has and the worker has spoken, or has gone without speaking. */
static void worker_check_end(struct worker *w) {
    if (w->pending.len || !(w->ended || (w->reaped && w->link.fd < 0))) {
        worker_flow(w);
        return;
    }
    if (w->channel) {
        if (w->end.len)
            channel_end(w->channel, w->end.data, w->end.len);
        else if (w->reaped)
            tell_loss(w);
        else
            return; /* child_ended comes back */
    }
    worker_free(w);
}

static void pending_push(struct worker *w) {
    size_t at = 0;
    while (w->channel && at < w->pending.len && w->channel->credit && !stream_full()) {
        size_t n = w->pending.len - at;
        if (n > w->channel->credit) n = w->channel->credit;
        channel_send(w->channel, GUEST_DATA, w->pending.data + at, n);
        at += n;
    }
    buf_consume(&w->pending, w->channel ? at : w->pending.len);
}

static void worker_distrust(struct worker *w, const char *why) {
    log_warn("a file worker broke the protocol: %s", why);
    (void)kill(w->child.pid, SIGKILL);
    loop_close(&w->link);
    buf_clear(&w->end);
}

static void take_frame(struct worker *w, const uint8_t *packet, size_t len) {
    struct frame f;
    size_t at = 0;
    if (frame_next(packet, len, &at, &f) != 1 || at != len)
        worker_distrust(w, "malformed packet");
    else if (f.type == GUEST_DATA)
        buf_append(&w->pending, f.payload, w->closing ? 0 : f.length);
    else if (f.type == GUEST_REPLY && w->channel)
        stream_frame(GUEST_REPLY, f.flags & FRAME_MORE, w->channel->number, f.payload, f.length);
    else if (f.type == GUEST_END && w->end.len + f.length <= GUEST_REPLY_MAX) {
        buf_append(&w->end, f.payload, f.length);
        w->ended = !(f.flags & FRAME_MORE);
    } else if (f.type != GUEST_REPLY)
        worker_distrust(w, "unexpected frame");
}

static void link_read(struct worker *w) {
    static uint8_t packet[WIRE_PACKET_MAX];
    ssize_t n = recv(w->link.fd, packet, sizeof packet, MSG_DONTWAIT);
    /* ECONNRESET: it ended with input unread; what it had said before is still there to be read. */
    if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET)) return;
    if (n <= 0)
        loop_close(&w->link);
    else
        take_frame(w, packet, (size_t)n);
}

static void input_push(struct worker *w) {
    static uint8_t packet[WORK_CHUNK + WIRE_HEAD];
    while (w->link.fd >= 0 && (w->input.len || w->input_eof)) {
        size_t n = w->input.len < WORK_CHUNK ? w->input.len : WORK_CHUNK, len = 0;
        bool eof = w->input_eof && n == w->input.len;
        (void)frame_put(packet, &len, GUEST_DATA, eof ? FRAME_EOF : 0, 0, w->input.data, n);
        ssize_t sent = send(w->link.fd, packet, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) break; /* it has gone: its END or its death says why */
        buf_consume(&w->input, n);
        if (eof) w->input_eof = false;
        if (w->channel) channel_consumed(w->channel, n);
    }
    if (w->input.len && w->channel) channel_consumed(w->channel, w->input.len);
    buf_clear(&w->input);
    w->input_eof = false;
}

static void link_ready(void *arg, uint32_t events) {
    struct worker *w = arg;
    if (events & EPOLLOUT) input_push(w);
    if (w->link.fd >= 0 && !w->pending.len && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) link_read(w);
    pending_push(w);
    worker_check_end(w);
}

static void child_ended(void *arg, int status) {
    struct worker *w = arg;
    w->reaped = true;
    w->wait_status = status;
    worker_check_end(w); /* what it had sent before is still in the link, and is read until its end */
}

static void on_data(struct channel *c, const uint8_t *bytes, size_t n, bool eof) {
    struct worker *w = c->impl;
    if (w->link.fd < 0 || w->closing || w->ended) {
        channel_consumed(c, n);
        return;
    }
    buf_append(&w->input, bytes, n);
    w->input_eof |= eof;
    input_push(w);
    worker_flow(w);
}

static void undo_over(void *arg) { (void)kill(((struct worker *)arg)->child.pid, SIGKILL); }

static void worker_stop(struct worker *w) {
    if (w->closing) return;
    w->closing = true;
    buf_clear(&w->pending);
    buf_clear(&w->input);
    w->input_eof = false;
    if (w->reaped) return;
    if (w->changes) {
        if (w->link.fd >= 0) (void)shutdown(w->link.fd, SHUT_WR);
        loop_after(&w->undo, WORKER_UNDO_MS);
    } else
        (void)kill(w->child.pid, SIGKILL);
}

static void on_close(struct channel *c) {
    struct worker *w = c->impl;
    worker_stop(w);
    worker_check_end(w);
}

static void on_flow(struct channel *c) {
    struct worker *w = c->impl;
    pending_push(w);
    worker_check_end(w);
}

static void on_forget(struct channel *c) {
    struct worker *w = c->impl;
    worker_stop(w);
    w->channel = NULL;
    worker_check_end(w);
}

static const struct channel_ops worker_ops = {.data = on_data, .close = on_close, .flow = on_flow, .forget = on_forget};

static bool op_changes(enum op op) {
    return op == OP_WRITE || op == OP_MKDIR || op == OP_MOVE || op == OP_REMOVE || op == OP_TAR_PUT;
}

void worker_start(struct channel *c, const struct request *r) {
    struct err e;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        err_set(&e, ERR_LIMIT, "cannot start a file operation: %s", strerror(errno));
        channel_fail(c, &e);
        return;
    }
    pid_t pid = fork();
    if (pid == 0) work_run(pair[1], r);
    close(pair[1]);
    if (pid < 0) {
        err_set(&e, ERR_LIMIT, "cannot start a file operation: %s", strerror(errno));
        close(pair[0]);
        channel_fail(c, &e);
        return;
    }
    struct worker *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct worker){
        .channel = c,
        .child = {.pid = pid, .ended = child_ended, .arg = w},
        .link = {.fd = pair[0], .ready = link_ready, .arg = w},
        .undo = {.fire = undo_over, .arg = w},
        .changes = op_changes(r->op),
        .watching = r->op == OP_WATCH,
    };
    c->ops = &worker_ops;
    c->impl = w;
    reap_add(&w->child);
    worker_flow(w);
}
