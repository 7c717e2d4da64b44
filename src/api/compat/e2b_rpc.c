#include "api/compat/e2b_rpc.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "api/http_internal.h"
#include "api/json_text.h"
#include "api/reply.h"
#include "api/stream.h"

#define TYPE_UNARY "application/json"
#define TYPE_STREAM "application/connect+json"

/* ---- answers ---- */

static void unary_error(struct request *rq, unsigned status, const struct err *e) {
    struct buf b = {0};
    (void)status; /* the code decides: it and the status belong together in this protocol */
    rpc_put_error(&b, e);
    reply_buf(rq, rpc_status(e->code), TYPE_UNARY, &b);
}

static void framed_end(struct request *rq, struct buf *frames, const struct err *e) {
    struct buf end = {0};
    rpc_put_end(&end, e);
    rpc_put_frame(frames, RPC_FLAG_END, end.data, end.len);
    buf_free(&end);
    reply_buf(rq, 200, TYPE_STREAM, frames);
}

static void stream_error(struct request *rq, unsigned status, const struct err *e) {
    struct buf frames = {0};
    (void)status;
    framed_end(rq, &frames, e);
}

void rpc_answer(struct request *rq, struct json_object *taken) {
    if (rq->reply_error != stream_error) {
        reply_json(rq, 200, taken);
        return;
    }
    struct buf text = {0}, frames = {0};
    json_put(&text, taken);
    json_object_put(taken);
    rpc_put_frame(&frames, 0, text.data, text.len);
    framed_end(rq, &frames, NULL);
    buf_free(&text);
}

/* ---- the message of a call ---- */

struct collect {
    struct request *rq;
    rpc_handler handler;
    bool framed;
    struct buf bytes;
};

static void collect_free(struct collect *c) {
    buf_free(&c->bytes);
    free(c);
}

static void collect_gone(void *arg) { collect_free(arg); }

static void collect_fail(struct collect *c, const struct err *e) {
    struct request *rq = c->rq;
    rq->gone = NULL;
    collect_free(c);
    reply_err(rq, e);
}

static size_t collect_write(void *arg, const void *bytes, size_t n) {
    struct collect *c = arg;
    struct err e;
    if (c->bytes.len + n <= RPC_MESSAGE_MAX + RPC_FRAME_HEAD) {
        buf_append(&c->bytes, bytes, n);
    } else {
        err_set(&e, ERR_TOO_LARGE, "a message may have at most %u bytes", RPC_MESSAGE_MAX);
        collect_fail(c, &e);
    }
    return n;
}

static int only_message(struct collect *c, struct json_object **out, struct err *e) {
    if (!c->framed) {
        if (json_parse_object(c->bytes.data ? c->bytes.data : "", c->bytes.len, out, e) < 0) return -1;
        if (!*out) *out = json_object_new_object();
        return 0;
    }
    struct rpc_frames frames = {.bytes = c->bytes};
    struct json_object *more = NULL;
    int got = rpc_frames_next(&frames, out, e), again = got > 0 ? rpc_frames_next(&frames, &more, e) : 0;
    if (got > 0 && again == 0 && !rpc_frames_partial(&frames)) return 0;
    json_object_put(*out);
    json_object_put(more);
    *out = NULL;
    if (got < 0 || again < 0) return -1;
    return err_set(e, ERR_INVALID, "the call needs exactly one whole message");
}

static void collect_end(void *arg) {
    struct collect *c = arg;
    struct request *rq = c->rq;
    struct json_object *message = NULL;
    struct err e;
    if (only_message(c, &message, &e) < 0) {
        collect_fail(c, &e);
        return;
    }
    rpc_handler handler = c->handler;
    rq->gone = NULL;
    collect_free(c);
    handler(rq, message);
    json_object_put(message);
}

/* The codec that is spoken, and nothing packed. */
static bool accepts(struct request *rq, const char *wanted) {
    struct err e;
    const char *type = request_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE);
    const char *packed = request_header(rq, strcmp(wanted, TYPE_UNARY) ? "Connect-Content-Encoding" : MHD_HTTP_HEADER_CONTENT_ENCODING);
    size_t n = type ? strcspn(type, "; \t") : 0;
    if (n != strlen(wanted) || strncasecmp(type, wanted, n) != 0) {
        err_set(&e, ERR_INVALID, "this call takes %s", wanted);
        reply_err_as(rq, 415, &e);
        return false;
    }
    if (packed && strcasecmp(packed, "identity") != 0) {
        err_set(&e, ERR_UNSUPPORTED, "compressed messages are not supported");
        reply_err(rq, &e);
        return false;
    }
    return true;
}

static void collect(struct request *rq, rpc_handler handler, bool framed) {
    if (!accepts(rq, framed ? TYPE_STREAM : TYPE_UNARY)) return;
    rq->reply_error = framed ? stream_error : unary_error;
    struct collect *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct collect){.rq = rq, .handler = handler, .framed = framed};
    rq->sink = (struct body_sink){.write = collect_write, .end = collect_end, .arg = c};
    rq->gone = collect_gone; /* no watch: while a body comes the library itself sees the hang-up */
    rq->gone_arg = c;
}

void rpc_unary(struct request *rq, rpc_handler handler) { collect(rq, handler, false); }
void rpc_streaming(struct request *rq, rpc_handler handler) { collect(rq, handler, true); }

/* ---- messages that come one by one ---- */

struct feed {
    struct request *rq;
    struct rpc_frames frames;
    struct rpc_input in;
};

static void feed_free(struct feed *f) {
    buf_free(&f->frames.bytes);
    free(f);
}

static void feed_gone(void *arg) {
    struct feed *f = arg;
    struct rpc_input in = f->in;
    feed_free(f);
    in.gone(in.arg);
}

static void feed_fail(struct feed *f, const struct err *e) {
    struct request *rq = f->rq;
    rq->gone = NULL;
    f->in.gone(f->in.arg);
    feed_free(f);
    reply_err(rq, e);
}

/* 1: all taken, 0: the call is over. */
static int feed_messages(struct feed *f) {
    struct json_object *message;
    struct err e;
    int got;
    while ((got = rpc_frames_next(&f->frames, &message, &e)) > 0) {
        bool goes_on = f->in.message(f->in.arg, message);
        json_object_put(message);
        if (goes_on) continue;
        f->rq->gone = NULL;
        feed_free(f);
        return 0;
    }
    if (got < 0) feed_fail(f, &e);
    return got == 0;
}

/* Such a body has no pace: whoever types into a program may think for minutes between two messages. */
static void no_hurry(struct request *rq) {
    if (rq->peer) http_peer_enter(rq->peer, PEER_BUSY);
}

static size_t feed_write(void *arg, const void *bytes, size_t n) {
    struct feed *f = arg;
    no_hurry(f->rq);
    if (f->in.full(f->in.arg)) return 0;
    rpc_frames_feed(&f->frames, bytes, n);
    (void)feed_messages(f);
    return n;
}

static void feed_end(void *arg) {
    struct feed *f = arg;
    struct err e;
    if (rpc_frames_partial(&f->frames)) {
        err_set(&e, ERR_INVALID, "the stream ended in the middle of a message");
        feed_fail(f, &e);
        return;
    }
    struct rpc_input in = f->in;
    f->rq->gone = NULL;
    feed_free(f);
    in.end(in.arg);
}

void rpc_client_streaming(struct request *rq, const struct rpc_input *in) {
    if (!accepts(rq, TYPE_STREAM)) {
        in->gone(in->arg);
        return;
    }
    rq->reply_error = stream_error;
    struct feed *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct feed){.rq = rq, .in = *in};
    no_hurry(rq);
    rq->sink = (struct body_sink){.write = feed_write, .end = feed_end, .arg = f};
    rq->gone = feed_gone;
    rq->gone_arg = f;
}

/* ---- streams of answers ---- */

struct rpc_stream {
    struct stream *st;
    struct request *rq; /* held */
    struct rpc_stream_ops ops;
    void *arg;
    uv_timer_t *timer; /* NULL: no deadline */
    bool opening, lost;
};

static void timer_closed(uv_handle_t *timer) { free(timer); }

static void stream_over(struct rpc_stream *s) {
    if (s->timer) uv_close((uv_handle_t *)s->timer, timer_closed);
    request_release(s->rq);
    free(s);
}

void rpc_end(struct rpc_stream *s, const struct err *e) {
    struct buf body = {0}, frame = {0};
    rpc_put_end(&body, e);
    rpc_put_frame(&frame, RPC_FLAG_END, body.data, body.len);
    stream_write(s->st, frame.data, frame.len);
    stream_end(s->st);
    buf_free(&body);
    buf_free(&frame);
    stream_over(s);
}

static void on_gone(void *arg) {
    struct rpc_stream *s = arg;
    if (s->opening) { /* inside stream_open */
        s->lost = true;
        return;
    }
    struct rpc_stream_ops ops = s->ops;
    void *ops_arg = s->arg;
    stream_over(s);
    ops.gone(ops_arg);
}

static void on_drained(void *arg) {
    struct rpc_stream *s = arg;
    if (s->ops.drained) s->ops.drained(s->arg);
}

static void on_beat(void *arg) {
    struct rpc_stream *s = arg;
    rpc_send(s, s->ops.keepalive, strlen(s->ops.keepalive));
}

static void on_deadline(uv_timer_t *timer) {
    struct rpc_stream *s = timer->data;
    struct rpc_stream_ops ops = s->ops;
    void *arg = s->arg;
    struct err e;
    err_set(&e, ERR_TIMEOUT_REQUEST, "the time that the call was given is over");
    rpc_end(s, &e);
    ops.gone(arg);
}

static void set_deadline(struct rpc_stream *s, int64_t ms) {
    s->timer = calloc(1, sizeof *s->timer);
    if (!s->timer) abort();
    uv_timer_init(s->rq->server->config.loop, s->timer);
    s->timer->data = s;
    uv_timer_start(s->timer, on_deadline, (uint64_t)ms, 0);
}

struct rpc_stream *rpc_open(struct request *rq, bool timed, const struct rpc_stream_ops *ops, void *arg) {
    static const struct stream_ops stream_ops = {.drained = on_drained, .gone = on_gone};
    int64_t ms = 0;
    struct err e;
    struct rpc_stream *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct rpc_stream){.rq = request_hold(rq), .ops = *ops, .arg = arg, .opening = true};
    if (timed && rpc_timeout(request_header(rq, "Connect-Timeout-Ms"), &ms, &e) == 0 && ms) set_deadline(s, ms);
    s->st = stream_open(rq, 200, TYPE_STREAM, UINT64_MAX, &stream_ops, s);
    s->opening = false;
    if (s->lost) {
        stream_over(s);
        return NULL;
    }
    stream_heartbeat(s->st, on_beat);
    return s;
}

void rpc_send(struct rpc_stream *s, const char *json, size_t n) {
    struct buf frame = {0};
    rpc_put_frame(&frame, 0, json, n);
    stream_write(s->st, frame.data, frame.len);
    buf_free(&frame);
}

bool rpc_full(const struct rpc_stream *s) { return stream_full(s->st); }

bool rpc_timeout_of(struct request *rq, int64_t *ms) {
    struct err e;
    if (rpc_timeout(request_header(rq, "Connect-Timeout-Ms"), ms, &e) == 0) return true;
    reply_err(rq, &e);
    return false;
}

/* ---- fields ---- */

int rpc_text(struct json_object *o, const char *name, const char **out, struct err *e) {
    *out = NULL;
    if (json_get_text(o, name, out, e) < 0) return -1;
    if (!*out) *out = "";
    return 0;
}

int rpc_object(struct json_object *o, const char *name, struct json_object **out, struct err *e) {
    *out = json_field(o, name);
    if (!*out || json_object_is_type(*out, json_type_object)) return 0;
    return err_set(e, ERR_INVALID, "\"%s\" must be an object", name);
}
