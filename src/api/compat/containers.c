/* Containers of OpenAI's clients: made, listed, described, deleted. */
#include "api/compat/containers.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/handlers.h"
#include "api/owners.h"
#include "api/trace/trace.h"
#include "base/clock.h"
#include "base/id.h"
#include "cell/cell.h"

#define MINUTES_DEFAULT 20 /* what OpenAI's documentation gives a container that asks for nothing */
#define MINUTES_MAX 10080

static const struct {
    const char *word;
    int megabytes;
} sizes[] = {{"1g", 1024}, {"4g", 4096}, {"16g", 16384}, {"64g", 65536}};

/* ---- errors and ids in this API's words ---- */

static const char *type_of(unsigned status) {
    if (status == 401) return "authentication_error";
    if (status == 403) return "permission_error";
    if (status == 429) return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static void reply_error(struct request *rq, unsigned status, const struct err *e) {
    struct json_object *out = json_object_new_object(), *error = json_object_new_object();
    struct buf text = {0};
    struct utf8_tail tail = {0};
    utf8_clean(&tail, e->text, strlen(e->text), true, &text);
    if (e->hint) buf_printf(&text, " (%s)", e->hint);
    json_set_text(error, "message", text.data ? text.data : "");
    json_set_text(error, "type", type_of(status));
    json_set(error, "param", NULL);
    json_set_text(error, "code", e->code ? e->code : ERR_INTERNAL);
    json_set(out, "error", error);
    buf_free(&text);
    reply_json(rq, status, out);
    if (status == 501) reply_header(rq, "x-should-retry", "false"); /* trying again does not bring it */
}

void containers_claim(struct request *rq) {
    rq->reply_error = reply_error;
    if (!rq->match.route || !rq->match.count) return;
    char *id = rq->match.params[0];
    if (!id_valid(id, "cntr_")) {
        *id = 0; /* no sandbox has this name */
        return;
    }
    memcpy(id + 1, "sbx_", 4);
    rq->match.params[0] = id + 1;
}

void container_id(const struct cell *c, char out[static CONTAINER_ID_SIZE]) {
    (void)snprintf(out, CONTAINER_ID_SIZE, "cntr_%.32s", cell_id(c) + 4);
}

/* ---- a container as JSON ---- */

static int64_t seconds_of(struct json_object *rfc3339) {
    struct tm tm = {0};
    const char *text = json_object_get_string(rfc3339);
    return text && strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) ? timegm(&tm) : 0;
}

/* The clock of an idle timeout runs from the last activity, unless another limit comes first. */
static void put_activity(struct json_object *out, struct json_object *about) {
    struct json_object *idle = json_field(about, "idle_timeout_seconds"), *left = json_field(about, "remaining_seconds"),
                       *expires = json_object_new_object();
    json_set_text(expires, "anchor", "last_active_at");
    if (idle) {
        json_set_int(expires, "minutes", (json_object_get_int64(idle) + 59) / 60);
        json_set(out, "expires_after", expires);
    } else {
        json_object_put(expires);
    }
    if (idle && left && !json_field(about, "expires_at"))
        json_set_int(out, "last_active_at", wall_ms() / 1000 - (int64_t)(json_object_get_double(idle) - json_object_get_double(left)));
}

static void put_network(struct json_object *out, struct json_object *network) {
    const char *mode = json_object_get_string(json_field(network, "mode"));
    struct json_object *policy, *allow = json_field(network, "allow");
    if (!mode || (strcmp(mode, "none") && strcmp(mode, "allowlist"))) return; /* OpenAI has no word for the others */
    policy = json_object_new_object();
    json_set_text(policy, "type", strcmp(mode, "none") == 0 ? "disabled" : "allowlist");
    if (allow) json_set(policy, "allowed_domains", json_object_get(allow));
    json_set(out, "network_policy", policy);
}

static struct json_object *container_json(struct cell *c) {
    struct json_object *about = cell_describe(c), *out = json_object_new_object();
    const char *name = json_object_get_string(json_field(json_field(about, "metadata"), CONTAINER_NAME_TAG));
    int64_t megabytes = json_object_get_int64(json_field(about, "memory_mb"));
    char id[CONTAINER_ID_SIZE];
    container_id(c, id);
    json_set_text(out, "id", id);
    json_set_text(out, "object", "container");
    json_set_text(out, "name", name ? name : "");
    json_set_text(out, "status", cell_status_word(c));
    json_set_int(out, "created_at", seconds_of(json_field(about, "created_at")));
    put_activity(out, about);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].megabytes == megabytes) json_set_text(out, "memory_limit", sizes[i].word);
    put_network(out, json_field(about, "network"));
    json_object_put(about);
    return out;
}

/* ---- create ---- */

static int put_expiry(struct json_object *spec, struct json_object *body, struct err *e) {
    struct json_object *after = json_field(body, "expires_after");
    const char *anchor = NULL;
    long long minutes = MINUTES_DEFAULT;
    if (after && !json_object_is_type(after, json_type_object)) return err_set(e, ERR_INVALID, "\"expires_after\" must be an object");
    if (json_get_text(after, "anchor", &anchor, e) < 0 || json_get_int(after, "minutes", 1, MINUTES_MAX, &minutes, e) < 0) return -1;
    if (anchor && strcmp(anchor, "last_active_at") != 0) return err_set(e, ERR_INVALID, "\"anchor\" must be \"last_active_at\"");
    json_set_int(spec, "idle_timeout_seconds", minutes * 60);
    return 0;
}

static int put_memory(struct json_object *spec, struct json_object *body, struct err *e) {
    const char *word = NULL;
    if (json_get_text(body, "memory_limit", &word, e) < 0) return -1;
    if (!word) return 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (strcmp(sizes[i].word, word) != 0) continue;
        struct json_object *limits = json_object_new_object();
        json_set_int(limits, "memory_mb", sizes[i].megabytes);
        json_set(spec, "limits", limits);
        return 0;
    }
    return err_set(e, ERR_INVALID, "\"memory_limit\" must be 1g, 4g, 16g or 64g");
}

static int put_policy(struct json_object *spec, struct json_object *body, struct err *e) {
    struct json_object *policy = json_field(body, "network_policy"), *domains;
    const char *type = NULL;
    if (!policy) return 0;
    if (!json_object_is_type(policy, json_type_object)) return err_set(e, ERR_INVALID, "\"network_policy\" must be an object");
    if (json_get_text(policy, "type", &type, e) < 0) return -1;
    if (!type || (strcmp(type, "disabled") && strcmp(type, "allowlist")))
        return err_set(e, ERR_INVALID, "\"network_policy.type\" must be \"disabled\" or \"allowlist\"");
    if (strcmp(type, "disabled") == 0) return 0;
    if (json_field(policy, "domain_secrets"))
        return err_set(e, ERR_UNSUPPORTED, "this version of Cella has no \"domain_secrets\"");
    struct json_object *network = json_object_new_object();
    json_set_text(network, "mode", "allowlist"); /* the domain knows whether it can */
    if ((domains = json_field(policy, "allowed_domains"))) json_set(network, "allow", json_object_get(domains));
    json_set(spec, "network", network);
    return 0;
}

static bool has_items(struct json_object *body, const char *name) {
    struct json_object *list = json_field(body, name);
    return list && !(json_object_is_type(list, json_type_array) && json_object_array_length(list) == 0);
}

static int fill_spec(struct json_object *spec, struct json_object *body, struct err *e) {
    const char *name = NULL;
    if (json_get_text(body, "name", &name, e) < 0) return -1;
    if (!name) return err_set(e, ERR_INVALID, "\"name\" is missing");
    if (has_items(body, "file_ids"))
        return err_hint(e, ERR_UNSUPPORTED, "send the files themselves to /v1/containers/{id}/files",
                        "this version of Cella has no file store that \"file_ids\" could name");
    if (has_items(body, "skills")) return err_set(e, ERR_UNSUPPORTED, "this version of Cella has no \"skills\"");
    struct json_object *metadata = json_object_new_object();
    json_set_text(metadata, CONTAINER_NAME_TAG, name);
    json_set(spec, "metadata", metadata);
    return put_expiry(spec, body, e) < 0 || put_memory(spec, body, e) < 0 || put_policy(spec, body, e) < 0 ? -1 : 0;
}

static void created(void *arg, struct err *e, struct cell *cell) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
    } else {
        rq->cell = cell_hold(cell);
        if (rq->key_id[0]) owners_add(api_of(rq)->owners, cell_id(cell), rq->key_id);
        trace_created(rq, cell);
        reply_json(rq, 200, container_json(cell));
    }
    request_release(rq);
}

static void handle_create(struct request *rq) {
    struct err e;
    struct json_object *spec = json_object_new_object();
    const char *owner = api_owner(rq);
    trace_start(rq, "cella.create");
    if (fill_spec(spec, rq->body, &e) < 0)
        reply_err(rq, &e);
    else
        cell_create(api_of(rq)->world, spec, owner ? owner : "", created, request_hold(rq));
    json_object_put(spec);
}

/* ---- the rest ---- */

struct gathered {
    struct json_object *list;
    const char *owner, *name;
};

static bool gather(void *arg, struct cell *c) {
    struct gathered *g = arg;
    const char *name = cell_tag(c, CONTAINER_NAME_TAG);
    if (g->owner && strcmp(cell_owner(c), g->owner) != 0) return true;
    if (g->name && (!name || strcmp(name, g->name) != 0)) return true;
    json_object_array_add(g->list, container_json(c));
    return true;
}

static void handle_list(struct request *rq) {
    struct err e;
    struct gathered g = {json_object_new_array(), api_owner(rq), request_query(rq, "name")};
    cell_each(api_of(rq)->world, gather, &g);
    struct json_object *page = container_page(rq, g.list, &e);
    if (page)
        reply_json(rq, 200, page);
    else
        reply_err(rq, &e);
}

static void handle_get(struct request *rq) { reply_json(rq, 200, container_json(rq->cell)); }

static void deleted(void *arg, struct err *e) {
    struct request *rq = arg;
    char id[CONTAINER_ID_SIZE];
    if (e) {
        reply_err(rq, e);
    } else {
        struct json_object *out = json_object_new_object();
        container_id(rq->cell, id);
        json_set_text(out, "id", id);
        json_set_text(out, "object", "container.deleted");
        json_set_flag(out, "deleted", true);
        reply_json(rq, 200, out);
    }
    request_release(rq);
}

static void handle_delete(struct request *rq) { cell_delete(rq->cell, "deleted by request", deleted, request_hold(rq)); }

/* clang-format off */
static const struct route rows[] = {
    {"POST", "/v1/containers", handle_create, BODY_JSON, AUTH_KEY, SCOPE_HOST, "Create a container"},
    {"GET", "/v1/containers", handle_list, BODY_NONE, AUTH_KEY, SCOPE_HOST, "List containers"},
    {"GET", "/v1/containers/{id}", handle_get, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Retrieve a container"},
    {"DELETE", "/v1/containers/{id}", handle_delete, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Delete a container"},
    {"POST", "/v1/containers/{id}/files", container_file_create, BODY_STREAM, AUTH_KEY, SCOPE_CELL, "Write a container file"},
    {"GET", "/v1/containers/{id}/files", container_file_list, BODY_NONE, AUTH_KEY, SCOPE_CELL, "List container files"},
    {"GET", "/v1/containers/{id}/files/{fid}", container_file_get, BODY_NONE, AUTH_KEY, SCOPE_CELL, "Retrieve a container file"},
    {"DELETE", "/v1/containers/{id}/files/{fid}", container_file_delete, BODY_NONE, AUTH_KEY, SCOPE_CELL, "Delete a container file"},
    {"GET", "/v1/containers/{id}/files/{fid}/content", container_file_content, BODY_NONE, AUTH_KEY, SCOPE_CELL, "Read a container file"},
};
/* clang-format on */
const struct route_table containers_routes = {"openai:", rows, sizeof rows / sizeof *rows};
