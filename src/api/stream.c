#include "api/stream.h"

#include <stdlib.h>
#include <string.h>

#include "api/http_internal.h"
#include "api/reply.h"
#include "base/clock.h"

/* libmicrohttpd asks for up to this much at once where the length is known; chunked bodies go through the
 * connection's own memory, 15 KiB at a time. */
#define BLOCK (64u * 1024)

struct stream {
    struct request *rq;
    struct stream_ops ops;
    void *arg;
    char *data; /* bytes [from, to) wait for the client */
    size_t from, to, room;
    uint64_t size, sent;
    bool ended, aborted, over, was_full; /* over: the writer was told or has finished */
    void (*beat)(void *arg);
    int64_t beat_ms, wrote_ms;
};

static void writer_over(struct stream *st) {
    if (st->over) return;
    st->over = true;
    if (st->ops.gone) st->ops.gone(st->arg);
}

static ssize_t give(struct stream *st, char *out, size_t max) {
    size_t n = st->to - st->from;
    if (n > max) n = max;
    memcpy(out, st->data + st->from, n);
    st->from += n;
    st->sent += n;
    st->rq->sent_bytes += n;
    if (st->from == st->to) st->from = st->to = 0;
    if (st->over) return (ssize_t)n;
    if (st->ops.taken) st->ops.taken(st->arg, n);
    if (st->was_full && st->to - st->from <= STREAM_LOW) {
        st->was_full = false;
        if (st->ops.drained) st->ops.drained(st->arg);
    }
    return (ssize_t)n;
}

static ssize_t read_stream(void *arg, uint64_t position, char *out, size_t max) {
    struct stream *st = arg;
    (void)position;
    if (st->aborted || st->rq->cut) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (st->to > st->from) return give(st, out, max);
    if (st->ended) {
        bool whole = st->size == UINT64_MAX || st->sent == st->size;
        return whole ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
    }
    request_suspend(st->rq);
    return 0;
}

struct stream *stream_open(struct request *rq, unsigned status, const char *content_type, uint64_t size,
                           const struct stream_ops *ops, void *arg) {
    struct stream *st = calloc(1, sizeof *st);
    if (!st) abort();
    st->rq = rq;
    st->ops = *ops;
    st->arg = arg;
    st->size = size;
    st->wrote_ms = monotonic_ms();
    rq->stream = st;
    reply_response(rq, status, MHD_create_response_from_callback(size, BLOCK, read_stream, st, NULL));
    reply_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    reply_header(rq, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    reply_header(rq, "X-Accel-Buffering", "no");
    if (!rq->peer) return st; /* request_completed came first: writes are dropped */
    if (rq->peer->hung_up)
        stream_hangup(st);
    else
        http_peer_watch(rq->peer);
    return st;
}

static void make_room(struct stream *st, size_t n) {
    if (st->from && st->to + n > st->room) {
        memmove(st->data, st->data + st->from, st->to - st->from);
        st->to -= st->from;
        st->from = 0;
    }
    if (st->to + n <= st->room) return;
    size_t room = st->room ? st->room : 1024;
    while (room < st->to + n) room *= 2;
    char *data = realloc(st->data, room);
    if (!data) abort();
    st->data = data;
    st->room = room;
}

void stream_write(struct stream *st, const void *bytes, size_t n) {
    if (!n || st->ended || st->aborted || !st->rq->conn) return;
    make_room(st, n);
    memcpy(st->data + st->to, bytes, n);
    st->to += n;
    st->wrote_ms = monotonic_ms();
    if (st->to - st->from > STREAM_HIGH) st->was_full = true;
    request_resume(st->rq);
}

bool stream_full(const struct stream *st) { return st->was_full; }
size_t stream_waiting(const struct stream *st) { return st->to - st->from; }

void stream_end(struct stream *st) {
    st->ended = st->over = true;
    request_resume(st->rq);
}

void stream_abort(struct stream *st) {
    st->aborted = st->over = true;
    request_resume(st->rq);
}

void stream_heartbeat_every(struct stream *st, int64_t ms, void (*beat)(void *arg)) {
    st->beat = beat;
    st->beat_ms = ms;
}
void stream_heartbeat(struct stream *st, void (*beat)(void *arg)) { stream_heartbeat_every(st, STREAM_HEARTBEAT_MS, beat); }

void stream_beat(struct stream *st, int64_t now_ms) {
    if (st->beat && !st->over && now_ms - st->wrote_ms >= st->beat_ms) st->beat(st->arg);
}

void stream_hangup(struct stream *st) {
    if (st->over) return;
    if (st->ops.hangup && !st->rq->server->closing) {
        st->ops.hangup(st->arg);
        return;
    }
    st->aborted = true;
    writer_over(st);
    request_resume(st->rq);
}

void stream_lost(struct stream *st) { writer_over(st); }

void stream_free(struct stream *st) {
    free(st->data);
    free(st);
}
