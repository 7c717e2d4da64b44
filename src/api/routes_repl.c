/* The same runs in the words of clients that speak of REPLs and sessions: a session is a context. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/live.h"
#include "api/metrics.h"
#include "api/trace/trace.h"
#include "cell/execution.h"

struct repl {
    struct request *rq;
    struct live live;
    bool session; /* …/repl/sessions/{sid}/run: other field names */
    char language[16];
};

static void repl_free(struct repl *r) {
    live_remove(api_of(r->rq), &r->live);
    request_release(r->rq);
    free(r);
}

/* 0 and 1 as these clients expect them; a run that did not end by itself has no code: null. */
struct json_object *exit_number(struct json_object *execution) {
    struct json_object *code = json_field(execution, "exit_code");
    const char *exit = json_object_get_string(json_field(execution, "exit"));
    if (code) return json_object_get(code);
    if (exit && strcmp(exit, "ok") == 0) return json_object_new_int(0);
    if (exit && strcmp(exit, "error") == 0) return json_object_new_int(1);
    return NULL;
}

static void copy(struct json_object *out, struct json_object *from, const char *name) {
    struct json_object *value = json_field(from, name);
    json_set(out, name, value ? json_object_get(value) : NULL);
}

/* These clients know only stdout and stderr: the value of the last expression and a traceback belong there. */
static struct json_object *joined(const char *text, const char *more) {
    struct buf b = {0};
    buf_str(&b, text ? text : "");
    if (more && *more) {
        if (b.len && b.data[b.len - 1] != '\n') buf_str(&b, "\n");
        buf_str(&b, more);
        if (b.data[b.len - 1] != '\n') buf_str(&b, "\n");
    }
    struct json_object *value = json_object_new_string_len(b.data ? b.data : "", (int)b.len);
    buf_free(&b);
    return value;
}

/* Each result as the bare map of MIME types that sessions' clients read, every value as text. */
static struct json_object *bundles(struct json_object *results) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(results); i++) {
        struct json_object *data = json_field(json_object_array_get_idx(results, i), "data"), *out = json_object_new_object();
        if (json_object_is_type(data, json_type_object)) {
            json_object_object_foreach(data, type, value) {
                bool text = json_object_is_type(value, json_type_string);
                json_set(out, type, text ? json_object_get(value) : json_object_new_string(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)));
            }
        }
        json_object_array_add(list, out);
    }
    return list;
}

/* "ZeroDivisionError: division by zero" */
static struct json_object *error_line(struct json_object *error) {
    const char *name = json_object_get_string(json_field(error, "name")), *value = json_object_get_string(json_field(error, "value"));
    struct buf b = {0};
    if (!error) return NULL;
    buf_printf(&b, "%s%s%s", name ? name : "Error", value && *value ? ": " : "", value ? value : "");
    struct json_object *line = json_object_new_string_len(b.data, (int)b.len);
    buf_free(&b);
    return line;
}

static struct json_object *in_their_words(struct repl *r, struct json_object *execution) {
    struct json_object *out = json_object_new_object(), *error = json_field(execution, "error");
    const char *value = r->session ? NULL : json_object_get_string(json_field(execution, "text"));
    const char *traceback = error ? json_object_get_string(json_field(error, "traceback")) : NULL;
    json_set(out, "stdout", joined(json_object_get_string(json_field(execution, "stdout")), value));
    json_set(out, "stderr",
             joined(json_object_get_string(json_field(execution, "stderr")), r->session ? NULL : traceback));
    copy(out, execution, "duration_ms");
    copy(out, execution, "truncated");
    json_set(out, r->session ? "exit" : "exit_code", exit_number(execution));
    json_set_text(out, "status", json_object_get_string(json_field(execution, "exit")));
    if (r->session) {
        json_set(out, "results", bundles(json_field(execution, "results")));
        json_set(out, "error", error_line(error));
        json_set(out, "traceback", traceback ? json_object_new_string(traceback) : NULL);
    } else {
        copy(out, execution, "error");
        json_set_text(out, "language", r->language);
    }
    return out;
}

/* A session's clients take a missing code for 0. What did not end by itself is an error to them, with what it printed until then. */
static bool ended_by_itself(struct json_object *execution) {
    const char *exit = json_object_get_string(json_field(execution, "exit"));
    return exit && (strcmp(exit, "ok") == 0 || strcmp(exit, "error") == 0);
}

static void reply_stopped(struct repl *r, struct json_object *execution) {
    const char *exit = json_object_get_string(json_field(execution, "exit"));
    bool timeout = exit && strcmp(exit, "timeout") == 0;
    struct json_object *out = in_their_words(r, execution);
    struct buf text = {0};
    buf_printf(&text, timeout ? "timeout: the code was interrupted" : "the code did not end by itself: %s", exit ? exit : "lost");
    json_set_text(out, "error", text.data);
    json_set_text(out, "code", exit ? exit : "lost");
    json_set_text(out, "hint", json_object_get_boolean(json_field(execution, "context_restarted")) ? "the session was started afresh" : "the session keeps its state");
    buf_free(&text);
    reply_json(r->rq, timeout ? 504 : 500, out);
}

static void on_event(void *arg, struct execution *ex, enum execution_event event, struct json_object *json,
                     const void *bytes, size_t n) {
    struct repl *r = arg;
    (void)ex;
    (void)bytes;
    (void)n;
    if (event != EXECUTION_END) return;
    metrics_execution(api_of(r->rq)->metrics, json_object_get_string(json_field(json, "exit")),
                      json_object_get_int64(json_field(json, "duration_ms")));
    span_execution(trace_span(r->rq), json);
    if (r->session && !ended_by_itself(json))
        reply_stopped(r, json);
    else
        reply_json(r->rq, 200, in_their_words(r, json));
    repl_free(r);
}

static void gone(void *arg) {
    struct repl *r = arg;
    struct err e;
    if (!request_stopping(r->rq) && r->rq->conn) {
        (void)execution_interrupt(r->live.ex, &e);
        return;
    }
    execution_detach(r->live.ex, !request_stopping(r->rq));
    repl_free(r);
}

static void start(struct request *rq, struct json_object *body, bool session, const char *language) {
    struct err e;
    struct repl *r = calloc(1, sizeof *r);
    if (!r) abort();
    *r = (struct repl){.rq = request_hold(rq), .session = session};
    (void)snprintf(r->language, sizeof r->language, "%s", language ? language : "python");
    trace_start(rq, "cella.execute");
    span_code(trace_span(rq), body);
    struct execution *ex = execution_start(rq->cell, body, true, true, on_event, r, &e);
    if (!ex) {
        reply_err(rq, &e);
        repl_free(r);
        return;
    }
    live_add(api_of(rq), &r->live, ex, rq->cell);
    request_on_gone(rq, gone, r);
}

void handle_repl(struct request *rq) {
    struct err e;
    const char *language = NULL;
    if (!rq->body) rq->body = json_object_new_object();
    if (json_get_text(rq->body, "language", &language, &e) < 0)
        reply_err(rq, &e);
    else
        start(rq, rq->body, false, language);
}

void handle_repl_languages(struct request *rq) {
    static const char *const names[] = {"python", "py", "bash", "shell", "sh"};
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        json_object_array_add(list, json_object_new_string(names[i]));
    reply_json(rq, 200, list);
}

/* A context with the two fields that such clients read. */
static void as_session(struct request *rq, struct json_object *context) {
    json_set_text(context, "sandbox_id", cell_id(rq->cell));
    json_set_int(context, "cells", json_object_get_int64(json_field(context, "execution_count")));
}

static void session_created(void *arg, struct err *e, struct json_object *context) {
    struct request *rq = arg;
    struct json_object *out = NULL;
    if (e) {
        reply_err(rq, e);
    } else {
        json_object_deep_copy(context, &out, NULL);
        as_session(rq, out);
        reply_json(rq, 201, out);
    }
    request_release(rq);
}

void handle_session_create(struct request *rq) {
    if (!rq->body) rq->body = json_object_new_object();
    context_create(rq->cell, rq->body, session_created, request_hold(rq));
}

void handle_session_list(struct request *rq) {
    struct json_object *list = context_list(rq->cell);
    for (size_t i = 0; i < json_object_array_length(list); i++) as_session(rq, json_object_array_get_idx(list, i));
    reply_json(rq, 200, list);
}

void handle_session_delete(struct request *rq) {
    context_delete(rq->cell, request_param(rq, 1), answer_empty, request_hold(rq));
}

void handle_session_run(struct request *rq) {
    struct err e;
    long long timeout_ms = 30000; /* what these clients count on when they do not say */
    struct json_object *context = context_describe(rq->cell, request_param(rq, 1), &e);
    if (!context || json_get_int(rq->body, "timeout_ms", 1, 86400000, &timeout_ms, &e) < 0) {
        reply_err(rq, &e);
        json_object_put(context);
        return;
    }
    struct json_object *body = json_object_new_object(), *code = json_field(rq->body, "code");
    if (code) json_set(body, "code", json_object_get(code));
    json_set_text(body, "context_id", request_param(rq, 1));
    json_set(body, "timeout_seconds", json_object_new_double((double)timeout_ms / 1000));
    start(rq, body, true, json_object_get_string(json_field(context, "language")));
    json_object_put(body);
    json_object_put(context);
}
