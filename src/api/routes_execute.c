/* POST …/execute: code in a context, answered whole or as a stream of events. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/live.h"
#include "api/metrics.h"
#include "api/trace/trace.h"
#include "cell/execution.h"

struct run {
    struct request *rq;
    struct live live;  /* live.ex NULL: it ended */
    struct stream *st; /* NULL: one answer at the end */
    enum event_format format;
    struct utf8_tail out, err;
    long long sizes[2]; /* bytes of stdout and stderr that a stream carried */
    bool streamed;
    bool detach; /* the code runs on when the client goes */
};

static void run_free(struct run *r) {
    live_remove(api_of(r->rq), &r->live);
    request_release(r->rq);
    free(r);
}

/* Nobody listens any more. An execution that shall run on keeps its handle here, so that others can still feed and
 * interrupt it by its id; its result waits under …/executions/{eid}. */
static void leave(struct run *r) {
    r->st = NULL;
    if (r->detach && !request_stopping(r->rq)) return;
    span_fail(trace_span(r->rq), request_stopping(r->rq) ? "the daemon stopped" : "the client hung up");
    execution_detach(r->live.ex, !request_stopping(r->rq));
    run_free(r);
}

static void client_gone(void *arg) {
    struct run *r = arg;
    struct err e;
    if (r->detach || request_stopping(r->rq) || !r->rq->conn)
        leave(r);
    else
        (void)execution_interrupt(r->live.ex, &e); /* its end is still answered: half-closed clients read on */
}

static void stream_gone(void *arg) {
    struct run *r = arg;
    execution_pause(r->live.ex, false);
    leave(r);
}

static void stream_closed_half(void *arg) {
    struct run *r = arg;
    struct err e;
    if (!r->detach) {
        (void)execution_interrupt(r->live.ex, &e);
        return;
    }
    execution_pause(r->live.ex, false);
    stream_abort(r->st);
    leave(r);
}

static void stream_drained(void *arg) {
    struct run *r = arg;
    execution_pause(r->live.ex, false);
}

static void beat(void *arg) {
    struct run *r = arg;
    event_keepalive(r->st, r->format);
}

/* {"type":"stdout","text":"…"}; what cuts a character waits for the rest. */
static void send_text(struct run *r, const char *type, struct utf8_tail *tail, const void *bytes, size_t n, bool last) {
    struct buf b = {0};
    buf_printf(&b, "{\"type\":\"%s\",\"text\":", type);
    if (json_put_bytes(&b, tail, bytes, n, last)) {
        buf_str(&b, "}");
        event_send(r->st, r->format, type, b.data, b.len);
    }
    buf_free(&b);
    if (stream_full(r->st) && !last) execution_pause(r->live.ex, true);
}

/* The fields of `json` behind a "type". */
static void send_json(struct run *r, const char *type, struct json_object *json) {
    struct buf b = {0}, fields = {0};
    json_put(&fields, json);
    buf_printf(&b, "{\"type\":\"%s\"", type);
    if (fields.len > 2) {
        buf_str(&b, ",");
        buf_append(&b, fields.data + 1, fields.len - 1); /* without its opening brace */
    } else {
        buf_str(&b, "}");
    }
    event_send(r->st, r->format, type, b.data, b.len);
    buf_free(&b);
    buf_free(&fields);
}

static void count(struct run *r, struct json_object *execution) {
    metrics_execution(api_of(r->rq)->metrics, json_object_get_string(json_field(execution, "exit")),
                      json_object_get_int64(json_field(execution, "duration_ms")));
}

/* What the stream has shown already is not sent again; GET …/executions/{eid} has it whole. */
static void send_end(struct run *r, struct json_object *execution) {
    static const char *const shown[] = {"results", "stdout", "stderr", "text", "png"};
    struct json_object *end = json_object_new_object();
    json_object_object_foreach(execution, name, value) {
        bool skip = false;
        for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) skip |= !strcmp(name, shown[i]);
        if (!skip) json_set(end, name, value ? json_object_get(value) : NULL);
    }
    send_json(r, "end", end);
    json_object_put(end);
}

static void ended(struct run *r, struct json_object *execution) {
    count(r, execution);
    span_execution(trace_span(r->rq), execution);
    if (r->streamed) {
        span_number(trace_span(r->rq), "cella.stdout.bytes", r->sizes[0]);
        span_number(trace_span(r->rq), "cella.stderr.bytes", r->sizes[1]);
    }
    if (r->st) {
        send_text(r, "stdout", &r->out, NULL, 0, true);
        send_text(r, "stderr", &r->err, NULL, 0, true);
        send_end(r, execution);
        stream_end(r->st);
    } else if (!reply_given(r->rq)) { /* a detached stream has had its reply */
        reply_json(r->rq, 200, json_object_get(execution));
    }
    run_free(r);
}

static void send_start(struct run *r, struct json_object *json) {
    struct json_object *start = trace_event(r->rq, json);
    send_json(r, "start", start);
    json_object_put(start);
}

static void on_event(void *arg, struct execution *ex, enum execution_event event, struct json_object *json,
                     const void *bytes, size_t n) {
    struct run *r = arg;
    (void)ex;
    if (event == EXECUTION_END) {
        ended(r, json);
        return;
    }
    if (event == EXECUTION_STDOUT || event == EXECUTION_STDERR) r->sizes[event == EXECUTION_STDERR] += (long long)n;
    if (!r->st) return;
    switch (event) {
    case EXECUTION_START: send_start(r, json); break;
    case EXECUTION_STDOUT: send_text(r, "stdout", &r->out, bytes, n, false); break;
    case EXECUTION_STDERR: send_text(r, "stderr", &r->err, bytes, n, false); break;
    case EXECUTION_DISPLAY: send_json(r, "display", json); break;
    case EXECUTION_RESULT: send_json(r, "result", json); break;
    case EXECUTION_ERROR: send_json(r, "error", json); break;
    case EXECUTION_INPUT_REQUEST: send_json(r, "input_request", json); break;
    case EXECUTION_END: break;
    }
}

/* Which form of answer: "stream": true in the body, or the Accept header. */
static int form(struct request *rq, enum event_format *out, struct err *e) {
    bool stream = false;
    if (json_get_flag(rq->body, "stream", &stream, e) < 0) return -1;
    *out = event_format_asked(rq);
    if (json_field(rq->body, "stream") && !stream)
        *out = FORMAT_NONE;
    else if (stream && *out == FORMAT_NONE)
        *out = FORMAT_NDJSON;
    return 0;
}

static const struct stream_ops ops = {.drained = stream_drained, .gone = stream_gone, .hangup = stream_closed_half};

void handle_execute(struct request *rq) {
    struct err e;
    enum event_format format;
    bool detach;
    if (!flag_of(rq, "detach", &detach)) return;
    if (!rq->body) rq->body = json_object_new_object();
    trace_start(rq, "cella.execute");
    span_code(trace_span(rq), rq->body);
    if (form(rq, &format, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct run *r = calloc(1, sizeof *r);
    if (!r) abort();
    *r = (struct run){.rq = request_hold(rq), .format = format, .detach = detach, .streamed = format != FORMAT_NONE};
    bool streamed = r->streamed;
    struct execution *ex = execution_start(rq->cell, rq->body, true, !streamed, on_event, r, &e);
    if (!ex) {
        reply_err(rq, &e);
        run_free(r);
        return;
    }
    live_add(api_of(rq), &r->live, ex, rq->cell);
    if (!streamed) {
        request_on_gone(rq, client_gone, r);
        return;
    }
    r->st = stream_open(rq, 200, event_content_type(format), UINT64_MAX, &ops, r);
    stream_heartbeat(r->st, beat);
}
