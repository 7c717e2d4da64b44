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

void trace_start(struct request *rq, const char *name) {
    struct traceparent parent;
    bool child = traceparent_parse(rq->traceparent, &parent);
    if (rq->span) return;
    rq->span = span_begin(api_of(rq)->exporter, name, child ? &parent : NULL);
    span_write(rq->span, rq->traceparent);
    if (rq->match.route) {
        span_text(rq->span, "http.request.method", rq->method);
        span_text(rq->span, "http.route", rq->match.route->pattern);
    }
    if (rq->cell) span_text(rq->span, "cella.sandbox.id", cell_id(rq->cell));
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
