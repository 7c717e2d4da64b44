/* API keys: made, listed, deleted, on the daemon's own machine only (AUTH_LOCAL). */
#include <string.h>

#include "api/handlers.h"
#include "base/log.h"
#include "tenant/keys.h"

void handle_key_create(struct request *rq) {
    struct err e;
    const char *name = NULL;
    char id[KEY_ID_SIZE], text[KEY_TEXT + 1];
    if (json_get_text(rq->body, "name", &name, &e) < 0 ||
        keys_create(api_of(rq)->keys, name ? name : "", id, text, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *out = json_object_new_object();
    json_set_text(out, "id", id);
    json_set_text(out, "name", name);
    json_set_text(out, "key", text); /* the only time it is shown */
    reply_json(rq, 201, out);
    reply_header(rq, "Cache-Control", "no-store");
    explicit_bzero(text, sizeof text);
    log_info("an API key was made: %s (%s)", id, name);
}

void handle_key_list(struct request *rq) {
    struct err e;
    struct json_object *list = keys_list(api_of(rq)->keys, &e);
    if (list)
        reply_json(rq, 200, list);
    else
        reply_err(rq, &e);
}

void handle_key_delete(struct request *rq) {
    struct err e;
    if (keys_delete(api_of(rq)->keys, request_param(rq, 0), &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    log_info("an API key was deleted: %s", request_param(rq, 0));
    reply_empty(rq, 204);
}
