/* POST …/exec {code, language}: the dialect that answers with one NDJSON event per line of output and an exit event.
 * Python runs in the cell's default context (state stays), bash in a fresh process. These clients count on one at a time in
 * a sandbox, in the order they asked: the others wait here. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/live.h"
#include "api/metrics.h"
#include "api/trace/trace.h"
#include "base/clock.h"
#include "cell/execution.h"
#include "cell/process.h"

#define LINE_MAX_BYTES (64u * 1024) /* a longer line goes out in pieces */

struct lines {
    struct lines *next; /* all of them, in the order they came */
    bool waiting;
    struct request *rq;
    struct live live;
    struct process *process;
    struct stream *st;
    struct buf held[2]; /* the unfinished line of stdout and stderr */
    long long seq;
};

static const char *const names[2] = {"stdout", "stderr"};

static struct lines *all; /* loop thread */

static void begin(struct lines *);

static struct lines *first_of(const struct cell *cell) {
    struct lines *l = all;
    while (l && l->rq->cell != cell) l = l->next;
    return l;
}

static void lines_free(struct lines *l) {
    struct request *rq = l->rq;
    struct lines **at = &all, *next;
    while (*at != l) at = &(*at)->next;
    *at = l->next;
    live_remove(api_of(rq), &l->live);
    buf_free(&l->held[0]);
    buf_free(&l->held[1]);
    free(l);
    next = first_of(rq->cell);
    if (next && next->waiting && !request_stopping(next->rq)) begin(next);
    request_release(rq);
}

static void pause_source(struct lines *l, bool paused) {
    if (l->live.ex)
        execution_pause(l->live.ex, paused);
    else if (l->process)
        process_pause(l->process, paused);
}

static void put_line(struct lines *l, int stream, const char *text, size_t n) {
    struct buf b = {0};
    struct utf8_tail tail = {0};
    buf_printf(&b, "{\"type\":\"%s\",\"data\":", names[stream]);
    if (!json_put_bytes(&b, &tail, text, n, true)) buf_str(&b, "\"\"");
    buf_printf(&b, ",\"seq\":%lld,\"ts\":%ld}\n", l->seq++, wall_ms());
    stream_write(l->st, b.data, b.len);
    buf_free(&b);
}

static void put_output(struct lines *l, int stream, const char *bytes, size_t n) {
    struct buf *held = &l->held[stream];
    while (n) {
        const char *newline = memchr(bytes, '\n', n);
        size_t take = newline ? (size_t)(newline - bytes) : n;
        buf_append(held, bytes, take);
        if (newline || held->len >= LINE_MAX_BYTES) {
            put_line(l, stream, held->data, held->len);
            buf_clear(held);
        }
        take += newline != NULL;
        bytes += take;
        n -= take;
    }
    if (stream_full(l->st)) pause_source(l, true);
}

static void finish(struct lines *l, struct json_object *code, const char *exit) {
    struct json_object *last = json_object_new_object();
    for (int i = 0; i < 2; i++)
        if (l->held[i].len) put_line(l, i, l->held[i].data, l->held[i].len);
    json_set_text(last, "type", "exit");
    json_set(last, "data", code); /* null when nothing exited: see "exit" */
    json_set_int(last, "seq", l->seq++);
    json_set_int(last, "ts", wall_ms());
    json_set_text(last, "exit", exit);
    struct buf b = {0};
    json_put(&b, last);
    buf_str(&b, "\n");
    stream_write(l->st, b.data, b.len);
    buf_free(&b);
    json_object_put(last);
    stream_end(l->st);
    lines_free(l);
}

static void put_text_of(struct lines *l, int stream, struct json_object *value) {
    if (!json_object_is_type(value, json_type_string)) return;
    put_output(l, stream, json_object_get_string(value), (size_t)json_object_get_string_len(value));
    put_output(l, stream, "\n", 1);
}

static void on_execution(void *arg, struct execution *ex, enum execution_event event, struct json_object *json,
                         const void *bytes, size_t n) {
    struct lines *l = arg;
    (void)ex;
    switch (event) {
    case EXECUTION_STDOUT: put_output(l, 0, bytes, n); break;
    case EXECUTION_STDERR: put_output(l, 1, bytes, n); break;
    case EXECUTION_RESULT: put_text_of(l, 0, json_field(json_field(json, "data"), "text/plain")); break;
    case EXECUTION_ERROR: put_text_of(l, 1, json_field(json, "traceback")); break;
    case EXECUTION_END:
        metrics_execution(api_of(l->rq)->metrics, json_object_get_string(json_field(json, "exit")),
                          json_object_get_int64(json_field(json, "duration_ms")));
        span_execution(trace_span(l->rq), json);
        finish(l, exit_number(json), json_object_get_string(json_field(json, "exit")));
        break;
    case EXECUTION_START:
    case EXECUTION_DISPLAY:
    case EXECUTION_INPUT_REQUEST: break;
    }
}

static void on_process(void *arg, struct process *p, enum process_event event, struct json_object *json,
                       const void *bytes, size_t n, struct err *e) {
    struct lines *l = arg;
    (void)p;
    if (event == PROCESS_STDOUT || event == PROCESS_STDERR) {
        put_output(l, event == PROCESS_STDERR, bytes, n);
    } else if (event == PROCESS_END) {
        struct json_object *code = json_field(json, "exit_code");
        if (e) put_output(l, 1, e->text, strlen(e->text));
        span_process(trace_span(l->rq), json);
        finish(l, code ? json_object_get(code) : NULL, e ? "error" : json_object_get_string(json_field(json, "exit")));
    }
}

static void drained(void *arg) { pause_source(arg, false); }

static void gone(void *arg) {
    struct lines *l = arg;
    bool stop = !request_stopping(l->rq);
    if (l->live.ex)
        execution_detach(l->live.ex, stop);
    else
        process_detach(l->process, stop);
    lines_free(l);
}

static struct json_object *bash_body(struct request *rq, const char *code) {
    struct json_object *body = json_object_new_object(), *argv = json_object_new_array();
    json_object_array_add(argv, json_object_new_string("/bin/bash"));
    json_object_array_add(argv, json_object_new_string("-c"));
    json_object_array_add(argv, json_object_new_string(code));
    json_set(body, "cmd", argv);
    struct json_object *timeout = json_field(rq->body, "timeout_seconds");
    if (timeout) json_set(body, "timeout_seconds", json_object_get(timeout));
    return body;
}

static int start(struct lines *l, struct err *e) {
    struct request *rq = l->rq;
    const char *language = NULL, *code = NULL;
    if (json_get_text(rq->body, "language", &language, e) < 0 || json_get_text(rq->body, "code", &code, e) < 0)
        return -1;
    bool shell = language && (!strcmp(language, "bash") || !strcmp(language, "sh") || !strcmp(language, "shell"));
    if (!shell) {
        struct execution *ex = execution_start(rq->cell, rq->body, false, true, on_execution, l, e);
        if (ex) live_add(api_of(rq), &l->live, ex, rq->cell);
        return ex ? 0 : -1;
    }
    if (!code || strlen(code) != (size_t)json_object_get_string_len(json_field(rq->body, "code")))
        return err_set(e, ERR_INVALID, "\"code\" must be a string without NUL characters");
    struct json_object *body = bash_body(rq, code);
    l->process = process_start(rq->cell, body, on_process, l, e);
    json_object_put(body);
    return l->process ? 0 : -1;
}

static void begin(struct lines *l) {
    static const struct stream_ops ops = {.drained = drained, .gone = gone};
    struct err e;
    l->waiting = false;
    if (start(l, &e) < 0) {
        reply_err(l->rq, &e);
        lines_free(l);
        return;
    }
    l->st = stream_open(l->rq, 200, TYPE_NDJSON, UINT64_MAX, &ops, l);
}

static void gone_waiting(void *arg) {
    struct lines *l = arg;
    struct err e;
    err_set(&e, ERR_UNAVAILABLE, "the code was given up before its turn came");
    reply_err(l->rq, &e);
    lines_free(l);
}

void exec_code_as_lines(struct request *rq) {
    struct lines *l = calloc(1, sizeof *l), **end = &all;
    bool busy = first_of(rq->cell) != NULL;
    if (!l) abort();
    trace_start(rq, "cella.execute");
    span_code(trace_span(rq), rq->body);
    l->rq = request_hold(rq);
    l->waiting = true;
    while (*end) end = &(*end)->next;
    *end = l;
    if (busy)
        request_on_gone(rq, gone_waiting, l);
    else
        begin(l);
}
