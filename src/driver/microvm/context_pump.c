#include "driver/microvm/context_pump.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "wire/frame.h"
#include "wire/machine_proto.h"

#define PIECES_PER_TURN 16 /* at most 1 MiB of one context between two looks at the others */
#define LAST_MS 3000       /* after the end of a context: its connection follows at once, unless the guest lies */

enum { CONN, STREAM, OUT, ERR, POLLS };

struct context_pump {
    uv_poll_t poll[POLLS];
    uv_timer_t timer;
    int fd[POLLS];
    int wanted[POLLS];
    int handles;
    struct context_pump_events events;
    bool carried;    /* and nothing of it was read yet */
    bool last, over, closed;
    bool deaf;       /* the guest takes nothing any more; what it sent is still to be read */
    const char *why;
    /* towards the domain: one piece, or a packet being joined */
    uint8_t *in;     /* WIRE_PACKET_MAX bytes */
    size_t in_len, in_done;
    int in_to;       /* STREAM, OUT or ERR while it waits to be written; CONN: nothing does */
    /* towards the guest: one packet, sent in one or two pieces */
    uint8_t *out;    /* one byte, then WIRE_PACKET_MAX */
    size_t out_len, out_done;
};

static void on_poll(uv_poll_t *, int, int);

/* ---- life ---- */

static void on_closed(uv_handle_t *h) {
    struct context_pump *p = h->data;
    if (--p->handles) return;
    free(p->in);
    free(p->out);
    free(p);
}

static void let_go(struct context_pump *p) {
    for (int i = 0; i < POLLS; i++) {
        if (p->fd[i] < 0) continue;
        uv_poll_stop(&p->poll[i]);
        uv_close((uv_handle_t *)&p->poll[i], on_closed);
        close_fd(&p->fd[i]);
    }
}

static void on_timer(uv_timer_t *t) {
    struct context_pump *p = t->data;
    if (p->over) {
        p->events.on_end(p->events.arg, p->why);
        return;
    }
    if (p->in_to != CONN) { /* it is the domain that takes its time */
        uv_timer_start(t, on_timer, LAST_MS, 0);
        return;
    }
    p->over = true;
    let_go(p);
    p->events.on_end(p->events.arg, "its connection outlived it");
}

static void end(struct context_pump *p, const char *why) {
    if (p->over || p->closed) return;
    p->over = true;
    p->why = why;
    let_go(p);
    uv_timer_start(&p->timer, on_timer, 0, 0);
}

void context_pump_close(struct context_pump *p) {
    if (p->closed) return;
    p->closed = p->over = true;
    let_go(p);
    uv_timer_stop(&p->timer);
    uv_close((uv_handle_t *)&p->timer, on_closed);
}

void context_pump_last(struct context_pump *p) {
    p->last = true;
    if (!p->over) uv_timer_start(&p->timer, on_timer, LAST_MS, 0);
}

/* ---- towards the domain ---- */

/* True: there is room for the next piece. False: it waits, or the pump is over. */
static bool write_in(struct context_pump *p) {
    if (p->in_to == CONN) return true;
    const int fd = p->fd[p->in_to];
    while (p->in_done < p->in_len) {
        const ssize_t n = p->in_to == STREAM ? send(fd, p->in, p->in_len, MSG_NOSIGNAL | MSG_DONTWAIT) : write(fd, p->in + p->in_done, p->in_len - p->in_done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) end(p, NULL); /* the domain has closed its end */
        if (n <= 0) return false;
        p->in_done += (size_t)n; /* a packet goes whole or not at all */
    }
    p->in_to = CONN;
    p->in_len = p->in_done = 0;
    return true;
}

static const char *take_stream(struct context_pump *p, const uint8_t *bytes, size_t n, bool more) {
    const bool first = p->carried;
    p->carried = false;
    /* The second piece of a packet whose first one somebody else has read: no packet is that short. */
    if (first && !more && n < WIRE_HEAD) return NULL;
    if (p->in_len + n > WIRE_PACKET_MAX) return "it sent a packet that is too long";
    memcpy(p->in + p->in_len, bytes, n);
    p->in_len += n;
    if (!more) p->in_to = STREAM;
    return NULL;
}

/* NULL, or how it broke the protocol. */
static const char *take_piece(struct context_pump *p, const uint8_t *piece, size_t n) {
    const uint8_t tag = piece[0];
    if (n > MACHINE_PIECE_MAX + 1) return "it sent a piece that is too long";
    if (n == 1) return "it sent an empty piece";
    if ((tag & ~MACHINE_PIECE_MORE) == MACHINE_PIECE_STREAM) return take_stream(p, piece + 1, n - 1, tag & MACHINE_PIECE_MORE);
    if (tag != MACHINE_PIECE_STDOUT && tag != MACHINE_PIECE_STDERR) return "it sent a piece of an unknown kind";
    if (p->in_len) return "it printed in the middle of a packet";
    memcpy(p->in, piece + 1, n - 1);
    p->in_len = n - 1;
    p->in_to = tag == MACHINE_PIECE_STDOUT ? OUT : ERR;
    return NULL;
}

/* True: there may be more. */
static bool read_piece(struct context_pump *p) {
    static uint8_t piece[MACHINE_PIECE_MAX + 2]; /* one more: a longer packet shows */
    const ssize_t n = recv(p->fd[CONN], piece, sizeof piece, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) return true;
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0) {
        end(p, p->in_len ? "its stream ended in the middle of a packet" : NULL);
        return false;
    }
    if (p->last) uv_timer_start(&p->timer, on_timer, LAST_MS, 0);
    const char *wrong = take_piece(p, piece, (size_t)n);
    if (wrong) end(p, wrong);
    return !wrong && write_in(p);
}

/* ---- towards the guest ---- */

/* True: the packet is gone. */
static bool send_out(struct context_pump *p) {
    while (p->out_done < p->out_len) {
        const size_t left = p->out_len - p->out_done, n = left > MACHINE_PIECE_MAX ? MACHINE_PIECE_MAX : left;
        uint8_t *piece = p->out + p->out_done, under = *piece; /* the byte before the contents is free, or was sent already */
        *piece = (uint8_t)(MACHINE_PIECE_STREAM | (n < left ? MACHINE_PIECE_MORE : 0));
        const ssize_t sent = send(p->fd[CONN], piece, n + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        *piece = under;
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) return false;
        if (sent < 0) {
            p->deaf = true;
            break;
        }
        p->out_done += n;
    }
    p->out_len = p->out_done = 0;
    return true;
}

static bool read_stream(struct context_pump *p) {
    const ssize_t n = recv(p->fd[STREAM], p->out + 1, WIRE_PACKET_MAX, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && errno == EINTR) return true;
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0 || n > WIRE_PACKET_MAX) { /* the domain has closed its end */
        end(p, NULL);
        return false;
    }
    p->out_len = (size_t)n;
    p->out_done = 0;
    return send_out(p) && !p->deaf;
}

/* ---- the loop ---- */

static void want(struct context_pump *p, int which, int events) {
    if (p->wanted[which] == events) return;
    p->wanted[which] = events;
    if (events) uv_poll_start(&p->poll[which], events, on_poll);
    else uv_poll_stop(&p->poll[which]);
}

static void refresh(struct context_pump *p) {
    if (p->over) return;
    const bool in = p->in_to != CONN, out = p->out_len > 0;
    want(p, CONN, (in ? 0 : UV_READABLE) | (out ? UV_WRITABLE : 0));
    want(p, STREAM, (out || p->deaf ? 0 : UV_READABLE) | (p->in_to == STREAM ? UV_WRITABLE : 0));
    want(p, OUT, p->in_to == OUT ? UV_WRITABLE : 0);
    want(p, ERR, p->in_to == ERR ? UV_WRITABLE : 0);
}

static void on_poll(uv_poll_t *h, int status, int events) {
    struct context_pump *p = h->data;
    const int which = (int)(h - p->poll);
    if (status < 0) events = UV_READABLE | UV_WRITABLE; /* the call itself says what it is */
    if (p->in_to != CONN && (which == p->in_to || status < 0)) (void)write_in(p);
    if (which == CONN && p->out_len && (events & UV_WRITABLE) && !p->over) (void)send_out(p);
    for (int i = 0; which == CONN && (events & UV_READABLE) && i < PIECES_PER_TURN && !p->over && p->in_to == CONN && read_piece(p); i++) continue;
    for (int i = 0; which == STREAM && (events & UV_READABLE) && i < PIECES_PER_TURN && !p->over && !p->out_len && read_stream(p); i++) continue;
    refresh(p);
}

static int make_ends(struct context_pump *p, struct context_ends *ends, struct err *e) {
    int stream[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, stream) || pipe2(out, O_NONBLOCK | O_CLOEXEC) || pipe2(err, O_NONBLOCK | O_CLOEXEC)) {
        err_sys(e, errno, "streams of a context");
        for (int i = 0; i < 2; i++) close_fd(&stream[i]), close_fd(&out[i]), close_fd(&err[i]);
        return -1;
    }
    *ends = (struct context_ends){stream[0], out[0], err[0]};
    p->fd[STREAM] = stream[1];
    p->fd[OUT] = out[1];
    p->fd[ERR] = err[1];
    return 0;
}

struct context_pump *context_pump_open(uv_loop_t *loop, int conn, bool carried, const struct context_pump_events *events, struct context_ends *ends, struct err *e) {
    struct context_pump *p = calloc(1, sizeof *p);
    if (!p || !(p->in = malloc(WIRE_PACKET_MAX)) || !(p->out = malloc(WIRE_PACKET_MAX + 1))) abort();
    p->events = *events;
    p->carried = carried;
    p->in_to = CONN;
    p->fd[CONN] = conn;
    if (make_ends(p, ends, e)) {
        close(conn);
        free(p->in);
        free(p->out);
        free(p);
        return NULL;
    }
    for (int i = 0; i < POLLS; i++) {
        if (uv_poll_init(loop, &p->poll[i], p->fd[i])) abort(); /* descriptors of our own */
        p->poll[i].data = p;
    }
    uv_timer_init(loop, &p->timer);
    p->timer.data = p;
    p->handles = POLLS + 1;
    refresh(p);
    return p;
}
