/* GET …/exec/pty: a terminal over a WebSocket. Binary messages are the bytes of the terminal, both ways.
 *
 *   client  binary: keys · text {"resize":{"rows","cols"}}
 *   daemon  binary: screen · text {"exit":n|null,"signal","status"} · text {"error","code"}, then it closes */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/trace/trace.h"
#include "api/websocket.h"
#include "cell/process.h"

#define KEYS_WAITING_MAX (256u * 1024) /* typed or pasted, not read by the program yet */

struct terminal {
    struct request *rq;
    struct websocket *ws;
    struct process *process;
    struct json_object *body;
    struct buf keys;
    long long size; /* bytes of the screen */
};

static void say(struct terminal *t, struct json_object *taken) {
    struct buf b = {0};
    json_put(&b, taken);
    websocket_send(t->ws, true, b.data, b.len);
    buf_free(&b);
    json_object_put(taken);
}

static void say_error(struct terminal *t, const struct err *e) {
    struct json_object *out = json_object_new_object();
    json_set_text(out, "error", e->text);
    json_set_text(out, "code", e->code);
    say(t, out);
}

static void feed(struct terminal *t) {
    if (t->keys.len) buf_consume(&t->keys, process_stdin(t->process, t->keys.data, t->keys.len));
    websocket_hold(t->ws, t->keys.len > KEYS_WAITING_MAX);
}

static void ended(struct terminal *t, struct json_object *end, const struct err *e) {
    struct span *span = trace_span(t->rq);
    t->process = NULL;
    span_number(span, "cella.stdout.bytes", t->size);
    if (e)
        span_fail(span, e->code);
    else
        span_process(span, end);
    if (e) {
        say_error(t, e);
    } else {
        struct json_object *out = json_object_new_object(), *code = json_field(end, "exit_code");
        struct json_object *signo = json_field(end, "signal"), *word = json_field(end, "exit");
        json_set(out, "exit", code ? json_object_get(code) : NULL);
        json_set(out, "signal", signo ? json_object_get(signo) : NULL);
        json_set(out, "status", word ? json_object_get(word) : NULL);
        say(t, out);
    }
    websocket_finish(t->ws, 1000, "");
}

static void on_process(void *arg, struct process *p, enum process_event event, struct json_object *json,
                       const void *bytes, size_t n, struct err *e) {
    struct terminal *t = arg;
    switch (event) {
    case PROCESS_START: span_process(trace_span(t->rq), json); break;
    case PROCESS_STDOUT:
    case PROCESS_STDERR:
        t->size += (long long)n;
        websocket_send(t->ws, false, bytes, n);
        if (websocket_full(t->ws)) process_pause(p, true);
        break;
    case PROCESS_STDIN_DRAINED: feed(t); break;
    case PROCESS_END: ended(t, json, e); break;
    }
}

static int resize(struct terminal *t, struct json_object *message, struct err *e) {
    long long rows = 0, cols = 0;
    struct json_object *size = json_field(message, "resize");
    if (!json_object_is_type(size, json_type_object))
        return err_hint(e, ERR_INVALID, "send {\"resize\":{\"rows\":24,\"cols\":80}}",
                        "text messages must be a resize");
    if (json_get_int(size, "rows", 1, 1000, &rows, e) < 0 || json_get_int(size, "cols", 1, 1000, &cols, e) < 0)
        return -1;
    if (!rows || !cols) return err_set(e, ERR_INVALID, "\"resize\" needs rows and cols");
    return process_resize(t->process, (int)rows, (int)cols, e);
}

static void on_message(void *arg, struct websocket *ws, bool text, const uint8_t *bytes, size_t n) {
    struct terminal *t = arg;
    struct err e;
    (void)ws;
    cell_touch(t->rq->cell);
    if (!t->process) return;
    if (!text) {
        buf_append(&t->keys, bytes, n);
        feed(t);
        return;
    }
    struct json_object *message = NULL;
    if (json_parse_object((const char *)bytes, n, &message, &e) < 0 || resize(t, message, &e) < 0) say_error(t, &e);
    json_object_put(message);
}

static void on_opened(void *arg, struct websocket *ws) {
    struct terminal *t = arg;
    struct err e;
    t->ws = ws;
    t->process = process_start(t->rq->cell, t->body, on_process, t, &e);
    if (t->process) return;
    span_fail(trace_span(t->rq), e.code);
    say_error(t, &e);
    websocket_finish(ws, 1011, "the terminal did not start");
}

static void on_drained(void *arg, struct websocket *ws) {
    struct terminal *t = arg;
    (void)ws;
    if (t->process) process_pause(t->process, false);
}

static void on_closed(void *arg) {
    struct terminal *t = arg;
    if (t->process) {
        span_fail(trace_span(t->rq), request_stopping(t->rq) ? "the daemon stopped" : "the client hung up");
        process_detach(t->process, !request_stopping(t->rq));
    }
    buf_free(&t->keys);
    json_object_put(t->body);
    request_release(t->rq);
    free(t);
}

static struct json_object *terminal_body(struct request *rq, struct err *e) {
    long long rows, cols;
    if (query_number(&rq->query, "rows", 1, 1000, 24, &rows, e) < 0 ||
        query_number(&rq->query, "cols", 1, 1000, 80, &cols, e) < 0)
        return NULL;
    struct json_object *body = json_object_new_object(), *pty = json_object_new_object(),
                       *env = json_object_new_object();
    const char *cmd = request_query(rq, "cmd"), *cwd = request_query(rq, "cwd"), *user = request_query(rq, "user");
    json_set_int(pty, "rows", rows);
    json_set_int(pty, "cols", cols);
    json_set(body, "pty", pty);
    json_set_text(env, "TERM", "xterm-256color");
    json_set(body, "env", env);
    json_set_flag(body, "stdin", true);
    if (cmd && *cmd) {
        json_set_text(body, "cmd", cmd);
    } else {
        struct json_object *argv = json_object_new_array();
        json_object_array_add(argv, json_object_new_string("/bin/bash"));
        json_object_array_add(argv, json_object_new_string("-l"));
        json_set(body, "cmd", argv);
    }
    if (cwd) json_set_text(body, "cwd", cwd);
    if (user) json_set_text(body, "user", user);
    return body;
}

void handle_exec_pty(struct request *rq) {
    static const struct websocket_ops ops = {
        .opened = on_opened, .message = on_message, .drained = on_drained, .closed = on_closed};
    struct err e;
    trace_start(rq, "cella.exec");
    struct json_object *body = terminal_body(rq, &e);
    span_code(trace_span(rq), body);
    if (!body) {
        reply_err(rq, &e);
        return;
    }
    struct terminal *t = calloc(1, sizeof *t);
    if (!t) abort();
    *t = (struct terminal){.rq = request_hold(rq), .body = body};
    if (websocket_accept(rq, &ops, t)) return;
    json_object_put(body);
    request_release(rq);
    free(t);
}
