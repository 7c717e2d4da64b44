/* Executions that run or ran: looked up, fed, interrupted. The domain hands the live handle out only to the one that
 * started it, so input and interrupts of others go through the list below. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/live.h"
#include "cell/execution.h"

void handle_execution_list(struct request *rq) { reply_json(rq, 200, execution_list(rq->cell)); }

void handle_execution_get(struct request *rq) {
    struct err e;
    struct json_object *execution = execution_get(rq->cell, request_param(rq, 1), &e);
    if (execution)
        reply_json(rq, 200, execution);
    else
        reply_err(rq, &e);
}

/* The handle of {eid}; replies when there is none: conflict when it is over, not_found when it never was. */
static struct execution *running(struct request *rq, struct json_object **known) {
    struct err e;
    struct execution *ex = live_find(api_of(rq), rq->cell, request_param(rq, 1));
    *known = NULL;
    if (!ex) ex = execution_find(rq->cell, request_param(rq, 1)); /* it began in a fork, or before this daemon */
    if (ex) return ex;
    *known = execution_get(rq->cell, request_param(rq, 1), &e);
    if (!*known) reply_err(rq, &e);
    return NULL;
}

static bool still_runs(struct json_object *known) {
    const char *status = json_object_get_string(json_field(known, "status"));
    return status && strcmp(status, "running") == 0;
}

static void reply_over(struct request *rq) {
    struct err e;
    err_hint(&e, ERR_CONFLICT, "GET …/executions/{eid} has its result", "the execution is over");
    reply_err(rq, &e);
}

void handle_execution_input(struct request *rq) {
    struct err e;
    struct json_object *known;
    struct execution *ex = running(rq, &known);
    bool eof = false;
    if (!ex) {
        if (known && still_runs(known)) {
            err_set(&e, ERR_CONFLICT, "the execution was started before the daemon and takes no input");
            reply_err(rq, &e);
        } else if (known) {
            reply_over(rq);
        }
        json_object_put(known);
        return;
    }
    struct json_object *input = json_field(rq->body, "input");
    if (json_get_flag(rq->body, "eof", &eof, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    if (!eof && !json_object_is_type(input, json_type_string)) {
        err_hint(&e, ERR_INVALID, "send {\"input\": \"a line\"} or {\"eof\": true}", "\"input\" must be a string");
        reply_err(rq, &e);
        return;
    }
    const char *line = eof ? NULL : json_object_get_string(input);
    if (line && strlen(line) != (size_t)json_object_get_string_len(input)) {
        err_set(&e, ERR_INVALID, "\"input\" has a NUL character");
        reply_err(rq, &e);
    } else if (execution_input(ex, line, &e) < 0) {
        reply_err(rq, &e);
    } else {
        reply_empty(rq, 204);
    }
}

void handle_execution_interrupt(struct request *rq) {
    struct err e;
    struct json_object *known;
    struct execution *ex = running(rq, &known);
    int failed = 0;
    if (!ex && !known) return;
    if (ex) {
        failed = execution_interrupt(ex, &e);
    } else if (still_runs(known)) { /* it outlived a daemon: reached through its context */
        const char *context = json_object_get_string(json_field(known, "context_id"));
        failed = context_interrupt(rq->cell, context ? context : "default", &e);
    } else {
        json_object_put(known);
        reply_over(rq);
        return;
    }
    json_object_put(known);
    if (failed)
        reply_err(rq, &e);
    else
        reply_empty(rq, 204);
}
