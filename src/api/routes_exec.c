/* POST …/exec and …/exec/stream: processes. */
#include <stdlib.h>

#include "api/exec_stream.h"
#include "api/handlers.h"
#include "cell/process.h"

void handle_exec(struct request *rq) {
    if (json_field(rq->body, "code") && !json_field(rq->body, "cmd")) {
        exec_code_as_lines(rq); /* {code, language}: the other dialect of this path, answered as NDJSON */
        return;
    }
    if (event_format_asked(rq) != FORMAT_NONE) {
        exec_stream_start(rq, event_format_asked(rq));
        return;
    }
    if (!rq->body) rq->body = json_object_new_object();
    process_run(rq->cell, rq->body, answer_json, request_hold(rq));
}

void handle_exec_stream(struct request *rq) {
    enum event_format format = event_format_asked(rq);
    exec_stream_start(rq, format == FORMAT_NDJSON ? FORMAT_NDJSON : FORMAT_SSE);
}
