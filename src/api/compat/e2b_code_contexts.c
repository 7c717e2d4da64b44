/* /contexts of port 49999. */
#include <string.h>

#include "api/compat/e2b_code.h"

static struct json_object *context_json(struct json_object *ours) {
    struct json_object *o = json_object_new_object(), *cwd = json_field(ours, "cwd");
    const char *language = json_object_get_string(json_field(ours, "language"));
    json_set(o, "id", json_object_get(json_field(ours, "id")));
    json_set_text(o, "language", strcmp(language, "shell") == 0 ? "bash" : language);
    json_set(o, "cwd", cwd ? json_object_get(cwd) : json_object_new_string(E2B_HOME));
    return o;
}

static void answer_context(void *arg, struct err *e, struct json_object *ours) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, 200, context_json(ours));
    request_release(rq);
}

void e2b_code_context_create(struct request *rq) {
    struct err e;
    const char *said = NULL, *language, *cwd = NULL;
    if (!rq->body) rq->body = json_object_new_object();
    if (json_get_text(rq->body, "language", &said, &e) < 0 || json_get_text(rq->body, "cwd", &cwd, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    if (!e2b_code_language(rq, said, &language)) return;
    struct json_object *body = json_object_new_object();
    json_set_text(body, "language", language ? language : "python");
    json_set_text(body, "cwd", cwd && *cwd ? cwd : E2B_HOME);
    context_create(rq->cell, body, answer_context, request_hold(rq));
    json_object_put(body);
}

void e2b_code_context_list(struct request *rq) {
    struct json_object *ours = context_list(rq->cell), *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(ours); i++) json_object_array_add(list, context_json(json_object_array_get_idx(ours, i)));
    json_object_put(ours);
    reply_json(rq, 200, list);
}

/* Is there such a context? Else "Context X not found" is what the clients know. */
static bool is_there(struct request *rq) {
    struct err e;
    const char *id = request_param(rq, 0);
    struct json_object *about = context_describe(rq->cell, id, &e);
    json_object_put(about);
    if (about) return true;
    if (strcmp(e.code, ERR_NOT_FOUND) == 0) err_set(&e, ERR_NOT_FOUND, "Context %.64s not found", id);
    reply_err(rq, &e);
    return false;
}

static void answer_gone(void *arg, struct err *e) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_empty(rq, 204);
    request_release(rq);
}

void e2b_code_context_delete(struct request *rq) {
    if (is_there(rq)) context_delete(rq->cell, request_param(rq, 0), answer_gone, request_hold(rq));
}

void e2b_code_context_restart(struct request *rq) {
    if (is_there(rq)) context_restart(rq->cell, request_param(rq, 0), answer_context, request_hold(rq));
}
