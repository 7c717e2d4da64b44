/* Contexts of a cell: the REPLs. */
#include "api/handlers.h"

void handle_context_create(struct request *rq) {
    if (!rq->body) rq->body = json_object_new_object();
    context_create(rq->cell, rq->body, answer_created, request_hold(rq));
}

void handle_context_list(struct request *rq) { reply_json(rq, 200, context_list(rq->cell)); }

void handle_context_get(struct request *rq) {
    struct err e;
    struct json_object *about = context_describe(rq->cell, request_param(rq, 1), &e);
    if (about)
        reply_json(rq, 200, about);
    else
        reply_err(rq, &e);
}

void handle_context_delete(struct request *rq) {
    context_delete(rq->cell, request_param(rq, 1), answer_empty, request_hold(rq));
}

void handle_context_restart(struct request *rq) {
    context_restart(rq->cell, request_param(rq, 1), answer_json, request_hold(rq));
}

void handle_context_interrupt(struct request *rq) {
    struct err e;
    if (context_interrupt(rq->cell, request_param(rq, 1), &e) < 0)
        reply_err(rq, &e);
    else
        reply_empty(rq, 204);
}
