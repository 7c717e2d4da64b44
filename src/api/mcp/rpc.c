#include "api/mcp/rpc.h"

#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"

static void wrong(struct rpc_message *m, int code, const char *why) {
    m->kind = RPC_WRONG;
    m->code = code;
    m->why = why;
}

static bool is_id(struct json_object *id) {
    return json_object_is_type(id, json_type_string) || json_object_is_type(id, json_type_int);
}

static void read_params(struct rpc_message *m, struct json_object *o) {
    struct json_object *meta;
    m->params = json_field(o, "params");
    if (m->params && !json_object_is_type(m->params, json_type_object)) {
        m->params = NULL;
        wrong(m, RPC_PARAMS, "\"params\" must be an object");
        return;
    }
    if ((meta = json_field(m->params, "_meta")) == NULL) return;
    if (json_object_is_type(meta, json_type_object))
        m->meta = meta;
    else
        wrong(m, RPC_PARAMS, "\"_meta\" must be an object");
}

static void read_message(struct rpc_message *m, struct json_object *o) {
    struct json_object *id = NULL, *method, *version;
    if (!json_object_is_type(o, json_type_object)) {
        wrong(m, RPC_INVALID, "a message must be an object");
        return;
    }
    bool has_id = json_object_object_get_ex(o, "id", &id);
    if (is_id(id)) m->id = id;
    version = json_field(o, "jsonrpc");
    if (!json_object_is_type(version, json_type_string) || strcmp(json_object_get_string(version), "2.0") != 0) {
        wrong(m, RPC_INVALID, "\"jsonrpc\" must be \"2.0\"");
        return;
    }
    if (!(method = json_field(o, "method"))) {
        bool answers = json_object_object_get_ex(o, "result", NULL) || json_object_object_get_ex(o, "error", NULL);
        if (answers && has_id)
            m->kind = RPC_RESPONSE;
        else
            wrong(m, RPC_INVALID, "a message needs a \"method\"");
        return;
    }
    if (!json_object_is_type(method, json_type_string)) {
        wrong(m, RPC_INVALID, "\"method\" must be a string");
        return;
    }
    if (has_id && !is_id(id)) {
        wrong(m, RPC_INVALID, "\"id\" must be a string or a whole number");
        return;
    }
    m->method = json_object_get_string(method);
    m->kind = has_id ? RPC_REQUEST : RPC_NOTIFICATION;
    read_params(m, o);
}

int rpc_parse(struct rpc_post *p, const char *text, size_t n, struct err *e) {
    *p = (struct rpc_post){0};
    if (json_parse_document(text, n, &p->document, e) < 0) return -1;
    p->batch = json_object_is_type(p->document, json_type_array);
    p->count = p->batch ? json_object_array_length(p->document) : 1;
    if (p->count > RPC_BATCH_MAX) return err_set(e, ERR_INVALID, "more than %d messages at once", RPC_BATCH_MAX);
    p->messages = calloc(p->count + 1, sizeof *p->messages);
    if (!p->messages) abort();
    for (size_t i = 0; i < p->count; i++)
        read_message(&p->messages[i], p->batch ? json_object_array_get_idx(p->document, i) : p->document);
    return 0;
}

void rpc_free(struct rpc_post *p) {
    free(p->messages);
    json_object_put(p->document);
    *p = (struct rpc_post){0};
}

static struct json_object *answer(struct json_object *id) {
    struct json_object *o = json_object_new_object();
    json_set_text(o, "jsonrpc", "2.0");
    json_set(o, "id", json_object_get(id));
    return o;
}

struct json_object *rpc_result(struct json_object *id, struct json_object *result) {
    struct json_object *o = answer(id);
    json_set(o, "result", result);
    return o;
}

struct json_object *rpc_error(struct json_object *id, int code, const char *text, struct json_object *data) {
    struct json_object *o = answer(id), *error = json_object_new_object();
    json_set_int(error, "code", code);
    json_set_text(error, "message", text);
    if (data) json_set(error, "data", data);
    json_set(o, "error", error);
    return o;
}
