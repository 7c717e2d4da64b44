/* POST /execute of port 49999: code in a context, answered as lines of JSON while it runs. */
#include "api/compat/e2b_code.h"

#include <stdlib.h>
#include <string.h>

#include "api/events_out.h"
#include "api/live.h"
#include "api/metrics.h"
#include "api/stream.h"
#include "api/trace/trace.h"
#include "base/clock.h"
#include "cell/execution.h"

#define KEEPALIVE_MS 5000              /* as often as E2B's says that it lives */
#define NO_TIMEOUT (365LL * 24 * 3600) /* it is the client that ends code that takes too long: by going away */

struct run {
    struct request *rq;
    struct live live;
    struct stream *st;
    struct utf8_tail out, err;
    long long sizes[2]; /* bytes of stdout and stderr */
    bool told_error;
};

bool e2b_code_language(struct request *rq, const char *said, const char **ours) {
    static const char *const python[] = {"python", "python3", "py"}, *const shell[] = {"bash", "sh", "shell"};
    struct err e;
    *ours = NULL;
    if (!said || !*said) return true;
    for (size_t i = 0; i < 3; i++) {
        if (strcasecmp(said, python[i]) == 0) *ours = "python";
        if (strcasecmp(said, shell[i]) == 0) *ours = "bash";
    }
    if (*ours) return true;
    /* 404: of 501 the one SDK shows the number only, of this one both show the sentence. */
    err_set(&e, ERR_NOT_FOUND, "contexts of the language \"%.40s\" are not in this version of Cella; there are python and bash", said);
    reply_err(rq, &e);
    return false;
}

/* ---- the stream ---- */

static void run_free(struct run *r) {
    live_remove(api_of(r->rq), &r->live);
    request_release(r->rq);
    free(r);
}

static void send_event(struct run *r, struct json_object *taken) {
    struct buf b = {0};
    json_put(&b, taken);
    event_send(r->st, FORMAT_NDJSON, "", b.data, b.len);
    buf_free(&b);
    json_object_put(taken);
}

static void send_type(struct run *r, const char *type) {
    struct json_object *o = json_object_new_object();
    json_set_text(o, "type", type);
    send_event(r, o);
}

static void send_text(struct run *r, const char *type, struct utf8_tail *tail, const void *bytes, size_t n, bool last) {
    struct buf b = {0};
    buf_printf(&b, "{\"type\":\"%s\",\"text\":", type);
    if (json_put_bytes(&b, tail, bytes, n, last)) {
        buf_printf(&b, ",\"timestamp\":%ld}", wall_ms() * 1000000); /* nanoseconds */
        event_send(r->st, FORMAT_NDJSON, "", b.data, b.len);
    }
    buf_free(&b);
    if (!last && stream_full(r->st)) execution_pause(r->live.ex, true);
}

static void send_error(struct run *r, struct json_object *error) {
    static const char *const fields[] = {"name", "value", "traceback"};
    struct json_object *o = json_object_new_object();
    json_set_text(o, "type", "error");
    for (size_t i = 0; i < 3; i++) {
        struct json_object *value = json_field(error, fields[i]);
        json_set(o, fields[i], value ? json_object_get(value) : json_object_new_string(""));
    }
    r->told_error = true;
    send_event(r, o);
}

/* How it ended, where that was not an error of the code itself. */
static void send_ending(struct run *r, struct json_object *execution) {
    const char *exit = json_object_get_string(json_field(execution, "exit"));
    struct json_object *error = json_field(execution, "error"), *o;
    if (r->told_error || strcmp(exit, "ok") == 0) return;
    if (error) {
        send_error(r, error);
        return;
    }
    if (strcmp(exit, "error") == 0) return; /* a shell's exit code: not an error of the code */
    o = json_object_new_object();
    json_set_text(o, "name", exit);
    json_set_text(o, "value", "the code did not come to its end");
    send_error(r, o);
    json_object_put(o);
}

static void ended(struct run *r, struct json_object *execution) {
    struct json_object *number = json_object_new_object(), *count = json_field(execution, "execution_count");
    const char *exit = json_object_get_string(json_field(execution, "exit"));
    metrics_execution(api_of(r->rq)->metrics, exit, json_object_get_int64(json_field(execution, "duration_ms")));
    span_execution(trace_span(r->rq), execution);
    span_number(trace_span(r->rq), "cella.stdout.bytes", r->sizes[0]);
    span_number(trace_span(r->rq), "cella.stderr.bytes", r->sizes[1]);
    send_text(r, "stdout", &r->out, NULL, 0, true);
    send_text(r, "stderr", &r->err, NULL, 0, true);
    send_ending(r, execution);
    json_set_text(number, "type", "number_of_executions");
    json_set(number, "execution_count", count ? json_object_get(count) : json_object_new_int(0));
    send_event(r, number);
    if (strcmp(cell_status_word(r->rq->cell), "deleted") == 0) {
        stream_abort(r->st); /* the SDKs tell by a cut connection that the sandbox went away under it */
    } else {
        send_type(r, "end_of_execution");
        stream_end(r->st);
    }
    run_free(r);
}

static void on_event(void *arg, struct execution *ex, enum execution_event event, struct json_object *json, const void *bytes, size_t n) {
    struct run *r = arg;
    (void)ex;
    if (event == EXECUTION_STDOUT || event == EXECUTION_STDERR) r->sizes[event == EXECUTION_STDERR] += (long long)n;
    switch (event) {
    case EXECUTION_STDOUT: send_text(r, "stdout", &r->out, bytes, n, false); break;
    case EXECUTION_STDERR: send_text(r, "stderr", &r->err, bytes, n, false); break;
    case EXECUTION_DISPLAY: send_event(r, e2b_code_result(json, false)); break;
    case EXECUTION_RESULT: send_event(r, e2b_code_result(json, true)); break;
    case EXECUTION_ERROR: send_error(r, json); break;
    case EXECUTION_END: ended(r, json); break;
    case EXECUTION_START:
    case EXECUTION_INPUT_REQUEST: break;
    }
}

static void drained(void *arg) { execution_pause(((struct run *)arg)->live.ex, false); }

/* Nobody listens: what runs is interrupted. */
static void gone(void *arg) {
    struct run *r = arg;
    execution_pause(r->live.ex, false);
    span_fail(trace_span(r->rq), request_stopping(r->rq) ? "the daemon stopped" : "the client hung up");
    execution_detach(r->live.ex, !request_stopping(r->rq));
    run_free(r);
}

static void beat(void *arg) { send_type(arg, "keepalive"); }

/* ---- the request ---- */

/* The body of our own execute, or NULL after a reply. */
static struct json_object *body_of(struct request *rq) {
    struct err e;
    const char *context = NULL, *said = NULL, *language;
    struct json_object *code = json_field(rq->body, "code"), *env = json_field(rq->body, "env_vars");
    if (json_get_text(rq->body, "context_id", &context, &e) < 0 || json_get_text(rq->body, "language", &said, &e) < 0) {
        reply_err(rq, &e);
        return NULL;
    }
    if (context && *context && said && *said) {
        err_set(&e, ERR_INVALID, "Only one of context_id or language can be provided");
        reply_err(rq, &e);
        return NULL;
    }
    if (!e2b_code_language(rq, said, &language)) return NULL;
    struct json_object *body = json_object_new_object();
    json_set(body, "code", code ? json_object_get(code) : NULL);
    if (context && *context) json_set_text(body, "context_id", context);
    if (language) json_set_text(body, "language", language);
    if (env) json_set(body, "env", json_object_get(env));
    json_set_int(body, "timeout_seconds", NO_TIMEOUT);
    return body;
}

/* "Context X not found" is what the clients know. */
static void refuse(struct request *rq, struct json_object *body, const struct err *e) {
    struct err other;
    const char *context = json_object_get_string(json_field(body, "context_id"));
    if (!context || strcmp(e->code, ERR_NOT_FOUND) != 0) {
        reply_err(rq, e);
        return;
    }
    err_set(&other, ERR_NOT_FOUND, "Context %.64s not found", context);
    reply_err(rq, &other);
}

void e2b_code_execute(struct request *rq) {
    static const struct stream_ops ops = {.drained = drained, .gone = gone};
    struct err e;
    if (!rq->body) rq->body = json_object_new_object();
    trace_start(rq, "cella.execute");
    struct json_object *body = body_of(rq);
    if (!body) return;
    span_code(trace_span(rq), body);
    struct run *r = calloc(1, sizeof *r);
    if (!r) abort();
    r->rq = request_hold(rq);
    struct execution *ex = execution_start(rq->cell, body, false, true, on_event, r, &e);
    if (!ex) {
        refuse(rq, body, &e);
        run_free(r);
    } else {
        live_add(api_of(rq), &r->live, ex, rq->cell);
        r->st = stream_open(rq, 200, TYPE_NDJSON, UINT64_MAX, &ops, r);
        stream_heartbeat_every(r->st, KEEPALIVE_MS, beat);
    }
    json_object_put(body);
}
