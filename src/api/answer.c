/* The answers that most handlers give. */
#include "api/handlers.h"

static void answer(struct request *rq, unsigned status, struct err *e, struct json_object *json) {
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, status, json ? json_object_get(json) : json_object_new_object());
    request_release(rq);
}

void answer_json(void *rq, struct err *e, struct json_object *json) { answer(rq, 200, e, json); }
void answer_created(void *rq, struct err *e, struct json_object *json) { answer(rq, 201, e, json); }

void answer_empty(void *arg, struct err *e) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_empty(rq, 204);
    request_release(rq);
}

bool flag_of(struct request *rq, const char *name, bool *out) {
    bool bad = false;
    *out = query_flag(&rq->query, name, &bad);
    if (!bad) return true;
    struct err e;
    err_set(&e, ERR_INVALID, "the query field \"%s\" must be 1 or 0", name);
    reply_err(rq, &e);
    return false;
}

struct json_object *path_operation(struct request *rq, const char *op, const char *fallback) {
    struct err e;
    const char *path = request_query(rq, "path");
    if (!path || !*path) path = fallback;
    if (!path) {
        err_set(&e, ERR_INVALID, "the query field \"path\" is missing");
        reply_err(rq, &e);
        return NULL;
    }
    struct json_object *body = json_object_new_object();
    json_set_text(body, "op", op);
    json_set_text(body, "path", path);
    return body;
}
