/* run_code and run_shell: an execution in a context of the sandbox. */
#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "api/live.h"
#include "api/mcp/call.h"
#include "api/mcp/content.h"
#include "api/mcp/tools.h"
#include "api/metrics.h"
#include "api/trace/span.h"
#include "cell/execution.h"

#define LINE_MAX_SHOWN 200 /* of what a progress message tells */

struct run {
    struct call *call;
    struct live live;
};

static void stop(struct call *c) {
    struct run *r = c->state;
    struct err e;
    (void)execution_interrupt(r->live.ex, &e); /* ended in this moment: its end is on the way */
}

static void abandon(struct call *c) {
    struct run *r = c->state;
    execution_detach(r->live.ex, false);
    live_remove(c->mcp->api, &r->live);
    free(r);
}

/* The last line of a piece of output, as far as it is text. */
static void tell(struct call *c, const char *bytes, size_t n) {
    struct utf8_tail tail = {0};
    struct buf b = {0};
    while (n && (bytes[n - 1] == '\n' || bytes[n - 1] == '\r')) n--;
    size_t from = n;
    while (from && n - from < LINE_MAX_SHOWN && bytes[from - 1] != '\n' && bytes[from - 1] != '\r') from--;
    utf8_clean(&tail, bytes + from, n - from, true, &b);
    call_progress(c, b.data);
    buf_free(&b);
}

static void ended(struct run *r, struct json_object *execution) {
    struct call *c = r->call;
    struct api *api = c->mcp->api;
    metrics_execution(api->metrics, json_object_get_string(json_field(execution, "exit")),
                      json_object_get_int64(json_field(execution, "duration_ms")));
    span_execution(c->span, execution);
    live_remove(api, &r->live);
    free(r);
    call_finish(c, content_execution(execution));
}

static void on_event(void *arg, struct execution *ex, enum execution_event event, struct json_object *json,
                     const void *bytes, size_t n) {
    struct run *r = arg;
    (void)ex;
    if (event == EXECUTION_STDOUT || event == EXECUTION_STDERR) tell(r->call, bytes, n);
    if (event == EXECUTION_END) ended(r, json);
}

static void start(struct call *c, const char *code_field, const char *language) {
    struct err e;
    struct json_object *body = json_object_new_object();
    static const char *const same[] = {"timeout_seconds"};
    json_set(body, "code", json_object_get(json_field(c->arguments, code_field)));
    json_set_text(body, "language", language);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (json_field(c->arguments, same[i]))
            json_set(body, same[i], json_object_get(json_field(c->arguments, same[i])));
    span_code(c->span, body);
    struct run *r = calloc(1, sizeof *r);
    if (!r) abort();
    r->call = c;
    struct execution *ex = execution_start(c->cell, body, true, true, on_event, r, &e);
    json_object_put(body);
    if (!ex) {
        free(r);
        call_fail(c, &e);
        return;
    }
    live_add(c->mcp->api, &r->live, ex, c->cell);
    c->state = r;
    c->stop = stop;
    c->abandon = abandon;
}

static bool has_text(struct call *c, const char *name) {
    struct err e;
    if (json_object_is_type(json_field(c->arguments, name), json_type_string)) return true;
    err_set(&e, ERR_INVALID, "\"%s\" must be a string", name);
    call_refuse(c, &e);
    return false;
}

void tool_run_code(struct call *c) {
    struct err e;
    const char *language;
    if (!has_text(c, "code")) return;
    if (json_get_text(c->arguments, "language", &language, &e) < 0)
        call_refuse(c, &e);
    else
        start(c, "code", language ? language : "python");
}

void tool_run_shell(struct call *c) {
    if (has_text(c, "command")) start(c, "command", "shell");
}
