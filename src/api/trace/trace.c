#include "api/trace/trace.h"

#include <stdio.h>

#include "api/api.h"
#include "api/json_text.h"
#include "api/reply.h"
#include "cell/cell.h"

void trace_accept(struct request *rq) {
    struct traceparent parent;
    if (traceparent_parse(request_header(rq, "traceparent"), &parent)) traceparent_write(&parent, rq->traceparent);
}

struct span *trace_part(struct request *rq, const char *name) {
    struct traceparent parent;
    bool child = traceparent_parse(rq->traceparent, &parent);
    struct span *s = span_begin(api_of(rq)->exporter, name, child ? &parent : NULL);
    if (rq->match.route) {
        span_text(s, "http.request.method", rq->method);
        span_text(s, "http.route", rq->match.route->pattern);
    }
    if (rq->cell) span_text(s, "cella.sandbox.id", cell_id(rq->cell));
    return s;
}

void trace_start(struct request *rq, const char *name) {
    if (rq->span) return;
    rq->span = trace_part(rq, name);
    span_write(rq->span, rq->traceparent);
}

void trace_created(struct request *rq, struct cell *cell) {
    if (!rq->span) return;
    struct json_object *about = cell_describe(cell);
    span_text(rq->span, "cella.sandbox.id", cell_id(cell));
    span_text(rq->span, "cella.template", json_object_get_string(json_field(about, "template")));
    span_text(rq->span, "cella.boot_mode", json_object_get_string(json_field(about, "boot_mode")));
    json_object_put(about);
}

void trace_forked(struct request *rq, struct json_object *said) {
    span_number(rq->span, "cella.children", (long long)json_object_array_length(json_field(said, "children")));
    span_number(rq->span, "cella.failures", (long long)json_object_array_length(json_field(said, "errors")));
}

struct span *trace_span(struct request *rq) {
    return rq->span;
}

struct json_object *trace_event(struct request *rq, struct json_object *json) {
    struct json_object *copy = NULL;
    if (!rq->traceparent[0] || json_object_deep_copy(json, &copy, NULL) < 0) return json_object_get(json);
    json_set_text(copy, "traceparent", rq->traceparent);
    return copy;
}

void trace_reply(struct request *rq) {
    if (rq->traceparent[0]) reply_header(rq, "traceparent", rq->traceparent);
}

void trace_end(struct request *rq) {
    char text[32];
    if (!rq->span) return;
    span_number(rq->span, "http.response.status_code", rq->status);
    (void)snprintf(text, sizeof text, rq->status ? "HTTP %u" : "no answer", rq->status);
    if (!rq->status || rq->status >= 400) span_fail(rq->span, text);
    span_end(rq->span);
    rq->span = NULL;
}
