/* POST …/exec and …/exec/stream: processes. */
#include <stdlib.h>

#include "api/exec_stream.h"
#include "api/handlers.h"
#include "api/trace/trace.h"
#include "cell/process.h"

static void ran(void *arg, struct err *e, struct json_object *json) {
    struct request *rq = arg;
    if (!e) span_process(trace_span(rq), json);
    answer_json(rq, e, json);
}

static void trace_exec(struct request *rq) {
    trace_start(rq, "cella.exec");
    span_code(trace_span(rq), rq->body);
}

void handle_exec(struct request *rq) {
    if (json_field(rq->body, "code") && !json_field(rq->body, "cmd")) {
        exec_code_as_lines(rq); /* {code, language}: the other dialect of this path, answered as NDJSON */
        return;
    }
    if (event_format_asked(rq) != FORMAT_NONE) {
        trace_exec(rq);
        exec_stream_start(rq, event_format_asked(rq));
        return;
    }
    if (!rq->body) rq->body = json_object_new_object();
    trace_exec(rq);
    process_run(rq->cell, rq->body, ran, request_hold(rq));
}

void handle_exec_stream(struct request *rq) {
    enum event_format format = event_format_asked(rq);
    trace_exec(rq);
    exec_stream_start(rq, format == FORMAT_NDJSON ? FORMAT_NDJSON : FORMAT_SSE);
}
