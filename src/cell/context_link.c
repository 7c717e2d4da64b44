#include "cell/context_link.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "cell/seqpacket.h"
#include "cell/text.h"
#include "wire/context_proto.h"
#include "wire/frame.h"

#define PIPE_CHUNK 65536
#define PIPE_PER_TURN (4 * PIPE_CHUNK) /* a flood leaves the loop to others after this much */

struct pipe_end {
    struct context_link *link;
    struct poller *poller; /* NULL after its end */
    bool is_err;
};
struct context_link {
    struct context_link_events events;
    struct seqpacket *control;
    struct pipe_end pipes[2];
    struct buf join;
    size_t *unfinished; /* of the whole cell; this link's part is join.len */
    uint16_t join_type;
    uint32_t join_execution;
    int busy; /* callbacks on the stack: the memory stays until they are back */
    bool paused, ended, closed, replays;
};

/* The packet that is being made. One is enough: it is filled and sent within one call of the domain. */
static uint8_t packet[WIRE_PACKET_MAX];
static size_t packet_len;

static void leave(struct context_link *l) {
    if (--l->busy > 0 || !l->closed) return;
    buf_free(&l->join);
    free(l);
}

static void finish(struct context_link *l, const char *why) {
    if (l->ended || l->closed) return;
    l->ended = true;
    l->events.on_end(l->events.arg, why);
}

/* ---- the pipes ---- */

static void pipe_ended(struct pipe_end *p) {
    poller_close(p->poller);
    p->poller = NULL;
}

/* Read until the pipe is empty or `most` bytes were handed over. */
static void read_pipe(struct pipe_end *p, size_t most) {
    static char chunk[PIPE_CHUNK];
    struct context_link *l = p->link;
    for (size_t got = 0; got < most && p->poller && !l->closed;) {
        ssize_t n = read(poller_fd(p->poller), chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            pipe_ended(p);
            return;
        }
        got += (size_t)n;
        l->events.on_output(l->events.arg, p->is_err, chunk, (size_t)n);
        if ((size_t)n < sizeof chunk) return; /* it was empty then: saves the read that says so */
    }
}

static void on_pipe(void *arg, int events) {
    (void)events;
    struct pipe_end *p = arg;
    struct context_link *l = p->link;
    l->busy++;
    if (!l->paused) read_pipe(p, PIPE_PER_TURN);
    leave(l);
}

static void read_both(struct context_link *l) {
    for (int i = 0; i < 2; i++) {
        struct pipe_end *p = &l->pipes[i];
        if (!p->poller) continue;
        int capacity = fcntl(poller_fd(p->poller), F_GETPIPE_SZ); /* the code may have widened it */
        read_pipe(p, capacity > 0 ? (size_t)capacity : PIPE_CHUNK);
    }
}

/* ---- the control stream ---- */

static void on_json(struct context_link *l, uint16_t type, uint16_t flags, uint32_t execution, const void *bytes,
                    size_t n) {
    struct json_object *json = text_parse_object(bytes, n, CONTEXT_VALUES_MAX);
    if (!json) {
        finish(l, "it sent something that is not JSON");
        return;
    }
    l->events.on_frame(l->events.arg, type, flags, execution, json);
    json_object_put(json);
}

static void on_frame(struct context_link *l, const struct frame *f) {
    if (f->type < CONTEXT_READY || f->type > CONTEXT_VARIABLES) {
        finish(l, "it sent a message of an unknown type");
        return;
    }
    if (l->replays && !(f->flags & FRAME_REPLAY) && f->type != CONTEXT_STATUS && f->type != CONTEXT_READY) return;
    bool joining = l->join.len > 0, more = f->flags & FRAME_MORE;
    if (joining && (f->type != l->join_type || f->channel != l->join_execution)) {
        finish(l, "it mixed two unfinished messages");
        return;
    }
    uint16_t flags = (uint16_t)(f->flags & ~FRAME_MORE);
    if (!joining && !more) {
        on_json(l, f->type, flags, f->channel, f->payload, f->length);
        return;
    }
    if (l->join.len + f->length > CONTEXT_JSON_MAX) {
        finish(l, "it sent a message that is too long");
        return;
    }
    if (*l->unfinished + f->length > CONTEXT_UNFINISHED_MAX) {
        finish(l, "the contexts of this sandbox have too much unfinished at once");
        return;
    }
    l->join_type = f->type;
    l->join_execution = f->channel;
    buf_append(&l->join, f->payload, f->length);
    *l->unfinished += f->length;
    if (more) return;
    struct buf whole = l->join;
    l->join = (struct buf){0};
    *l->unfinished -= whole.len;
    on_json(l, f->type, flags, f->channel, whole.data, whole.len);
    buf_free(&whole);
}

static void on_packet(void *arg, const uint8_t *bytes, size_t n) {
    struct context_link *l = arg;
    struct frame f;
    size_t at = 0;
    int got = 0;
    l->busy++;
    read_both(l); /* everything printed before these frames were sent */
    while (!l->closed && !l->ended && (got = frame_next(bytes, n, &at, &f)) == 1) on_frame(l, &f);
    if (got < 0) finish(l, "it sent a malformed packet");
    leave(l);
}

static void on_stream_end(void *arg, const char *why) {
    struct context_link *l = arg;
    l->busy++;
    finish(l, why);
    leave(l);
}

/* ---- what the domain calls ---- */

static void refresh(struct context_link *l) {
    for (int i = 0; i < 2; i++)
        if (l->pipes[i].poller) poller_want(l->pipes[i].poller, l->paused ? 0 : UV_READABLE);
}

struct context_link *context_link_open(uv_loop_t *loop, const struct context_ends *ends,
                                       const struct context_link_events *events, size_t *unfinished) {
    struct context_link *l = calloc(1, sizeof *l);
    if (!l) abort();
    l->events = *events;
    l->unfinished = unfinished;
    l->control = seqpacket_open(loop, ends->control_fd, &(struct seqpacket_events){on_packet, on_stream_end, NULL, l});
    for (int i = 0; i < 2; i++) {
        struct pipe_end *p = &l->pipes[i];
        *p = (struct pipe_end){.link = l, .is_err = i};
        p->poller = poller_open(loop, i ? ends->stderr_fd : ends->stdout_fd, on_pipe, p);
    }
    refresh(l);
    return l;
}

void context_link_close(struct context_link *l) {
    if (l->closed) return;
    l->closed = true;
    l->busy++;
    *l->unfinished -= l->join.len; /* now: the cell may be gone when the memory goes */
    buf_free(&l->join);
    seqpacket_close(l->control);
    for (int i = 0; i < 2; i++)
        if (l->pipes[i].poller) pipe_ended(&l->pipes[i]);
    leave(l);
}

void context_link_put(struct context_link *l, uint16_t type, uint16_t flags, uint32_t execution, const void *payload,
                      size_t n) {
    const uint8_t *p = payload;
    do {
        if (packet_len + WIRE_HEAD >= WIRE_PACKET_MAX) context_link_send(l);
        size_t room = WIRE_PACKET_MAX - packet_len;
        size_t part = n > room - WIRE_HEAD ? room - WIRE_HEAD : n;
        frame_put(packet, &packet_len, type, (uint16_t)(part < n ? flags | FRAME_MORE : flags), execution, p, part);
        p = p ? p + part : p;
        n -= part;
    } while (n);
}

void context_link_send(struct context_link *l) {
    if (packet_len && !l->closed)
        seqpacket_send(l->control, packet, packet_len); /* a stream that fails reports its end itself */
    packet_len = 0;
}

void context_link_pause(struct context_link *l, bool paused) {
    if (l->closed || l->paused == paused) return;
    l->paused = paused;
    seqpacket_pause(l->control, paused);
    refresh(l);
}

void context_link_rest(struct context_link *l, struct context_rest *rest) {
    *rest = (struct context_rest){l->join, l->join_type, l->join_execution};
    *l->unfinished -= l->join.len;
    l->join = (struct buf){0};
}

void context_link_go_on(struct context_link *l, struct context_rest *rest) {
    l->join = rest->join;
    l->join_type = rest->type;
    l->join_execution = rest->execution;
    *l->unfinished += l->join.len;
    *rest = (struct context_rest){0};
}

void context_link_replays(struct context_link *l, bool replays) { l->replays = replays; }

void context_link_drain(struct context_link *l) {
    if (l->closed) return;
    l->busy++;
    seqpacket_drain(l->control);
    if (!l->closed) read_both(l);
    leave(l);
}
