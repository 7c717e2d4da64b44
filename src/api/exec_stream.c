#include "api/exec_stream.h"

#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/trace/trace.h"
#include "cell/process.h"

struct watch {
    struct request *rq;
    struct process *process; /* NULL: over */
    struct stream *st;
    enum event_format format;
    struct utf8_tail out, err;
    long long sizes[2]; /* bytes of stdout and stderr */
    bool attached; /* we only watch: the process is not ours to end */
};

static void watch_free(struct watch *w) {
    request_release(w->rq);
    free(w);
}

static void send_json(struct watch *w, const char *type, struct json_object *json) {
    struct buf b = {0}, fields = {0};
    json_put(&fields, json);
    buf_printf(&b, "{\"type\":\"%s\"%s%s", type, fields.len > 2 ? "," : "}", fields.len > 2 ? fields.data + 1 : "");
    event_send(w->st, w->format, type, b.data, b.len);
    buf_free(&b);
    buf_free(&fields);
}

static void send_chunk(struct watch *w, const char *type, struct utf8_tail *tail, const void *bytes, size_t n,
                       bool last) {
    struct buf b = {0};
    buf_printf(&b, "{\"type\":\"%s\",\"chunk\":", type);
    if (json_put_bytes(&b, tail, bytes, n, last)) {
        buf_str(&b, "}");
        event_send(w->st, w->format, type, b.data, b.len);
    }
    buf_free(&b);
    if (stream_full(w->st) && !last) process_pause(w->process, true);
}

static void send_error(struct watch *w, const struct err *e) {
    struct json_object *json = json_object_new_object();
    json_set_text(json, "error", e->text);
    json_set_text(json, "code", e->code);
    json_set_text(json, "hint", e->hint);
    send_json(w, "error", json);
    json_object_put(json);
}

/* Readers of server-sent events that know only numbers take a missing exit code for 0: they hear an error behind it. */
static void send_no_code(struct watch *w, struct json_object *end) {
    struct err e;
    const char *how = json_object_get_string(json_field(end, "exit"));
    if (w->format != FORMAT_SSE || json_field(end, "exit_code")) return;
    if (how && strcmp(how, "timeout") == 0)
        err_set(&e, "timeout", "timeout: the command did not end within its time limit");
    else
        err_set(&e, "killed", "the command did not exit by itself: %s", how ? how : "unknown");
    send_error(w, &e);
}

static void ended(struct watch *w, struct json_object *json, struct err *e) {
    struct span *span = trace_span(w->rq);
    if (e)
        span_fail(span, e->code);
    else
        span_process(span, json);
    span_number(span, "cella.stdout.bytes", w->sizes[0]);
    span_number(span, "cella.stderr.bytes", w->sizes[1]);
    send_chunk(w, "stdout", &w->out, NULL, 0, true);
    send_chunk(w, "stderr", &w->err, NULL, 0, true);
    if (e) {
        send_error(w, e);
    } else {
        send_json(w, "exit", json);
        send_no_code(w, json);
    }
    stream_end(w->st);
    watch_free(w);
}

static void send_start(struct watch *w, struct json_object *json) {
    struct json_object *start = trace_event(w->rq, json);
    span_process(trace_span(w->rq), start);
    send_json(w, "start", start);
    json_object_put(start);
}

static void on_event(void *arg, struct process *p, enum process_event event, struct json_object *json,
                     const void *bytes, size_t n, struct err *e) {
    struct watch *w = arg;
    (void)p;
    if (event == PROCESS_STDOUT || event == PROCESS_STDERR) w->sizes[event == PROCESS_STDERR] += (long long)n;
    switch (event) {
    case PROCESS_START: send_start(w, json); break;
    case PROCESS_STDOUT: send_chunk(w, "stdout", &w->out, bytes, n, false); break;
    case PROCESS_STDERR: send_chunk(w, "stderr", &w->err, bytes, n, false); break;
    case PROCESS_STDIN_DRAINED: break;
    case PROCESS_END: ended(w, json, e); break;
    }
}

static void drained(void *arg) {
    struct watch *w = arg;
    process_pause(w->process, false);
}

static void gone(void *arg) {
    struct watch *w = arg;
    process_detach(w->process, !w->attached && !request_stopping(w->rq));
    watch_free(w);
}

static void beat(void *arg) {
    struct watch *w = arg;
    event_keepalive(w->st, w->format);
}

static void open_stream(struct watch *w) {
    static const struct stream_ops ops = {.drained = drained, .gone = gone};
    w->st = stream_open(w->rq, 200, event_content_type(w->format), UINT64_MAX, &ops, w);
    stream_heartbeat(w->st, beat);
}

static struct watch *watch_new(struct request *rq, enum event_format format, bool attached) {
    struct watch *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct watch){.rq = request_hold(rq), .format = format, .attached = attached};
    return w;
}

static void go(struct watch *w, const struct err *e) {
    if (w->process) {
        open_stream(w);
        return;
    }
    reply_err(w->rq, e);
    watch_free(w);
}

void exec_stream_start(struct request *rq, enum event_format format) {
    struct err e;
    struct watch *w = watch_new(rq, format, false);
    if (!rq->body) rq->body = json_object_new_object();
    w->process = process_start(rq->cell, rq->body, on_event, w, &e);
    go(w, &e);
}

void exec_stream_attach(struct request *rq, enum event_format format, const char *id_or_pid) {
    struct err e;
    struct watch *w = watch_new(rq, format, true);
    w->process = process_attach(rq->cell, id_or_pid, on_event, w, &e);
    go(w, &e);
}
