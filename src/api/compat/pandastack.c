/* What PandaStack's clients ask for beyond the daemon's own API, which speaks their words already. Two of it exist here under other names; the rest
 * answers that it does not, instead of seeming to be a wrong path. */
#include <string.h>

#include "api/compat/tables.h"
#include "api/handlers.h"

/* What the npm client sends as "template" when nobody said one. */
#define THEIR_DEFAULT "ubuntu-24.04"

void pandastack_default_template(struct request *rq) {
    struct json_object *template = json_field(rq->body, "template");
    if (!json_object_is_type(template, json_type_string) || strcmp(json_object_get_string(template), THEIR_DEFAULT) != 0) return;
    json_set_text(rq->body, "template", "default"); /* and the answer says so */
}

/* Who am I: the key, or the operator of a daemon that asks for none. */
static void handle_me(struct request *rq) {
    struct json_object *out = json_object_new_object();
    json_set_text(out, "id", rq->key_id[0] ? rq->key_id : "local");
    json_set_text(out, "kind", rq->key_id[0] ? "api_key" : "local");
    reply_json(rq, 200, out);
}

static void handle_none(struct request *rq) {
    struct err e;
    err_hint(&e, ERR_UNSUPPORTED, "docs/compatibility.md lists what there is", "Cella has no %s", rq->match.route->summary);
    reply_err(rq, &e);
}

static void handle_tokens(struct request *rq) {
    struct err e;
    err_hint(&e, ERR_UNSUPPORTED, "run `cella key` on the daemon's own machine", "keys are not managed through /v1/me/tokens");
    reply_err(rq, &e);
}

/* Refused before the body comes: a template's root can be gigabytes. */
#define NONE(path, what) {"*", path, handle_none, BODY_STREAM, AUTH_KEY, SCOPE_HOST, what}

/* clang-format off */
static const struct route rows[] = {
    {"POST", "/v1/sandboxes/{id}/stop", handle_hibernate, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Hibernate"},
    {"POST", "/v1/sandboxes/{id}/start", handle_wake, BODY_NONE, AUTH_KEY, SCOPE_ASLEEP, "Wake"},
    {"GET", "/v1/me", handle_me, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Whose requests these are"},
    {"*", "/v1/me/tokens", handle_tokens, BODY_STREAM, AUTH_KEY, SCOPE_HOST, "tokens"},
    {"*", "/v1/me/tokens/{prefix}", handle_tokens, BODY_STREAM, AUTH_KEY, SCOPE_HOST, "tokens"},
    NONE("/v1/sandboxes/{id}/preview-token", "preview tokens"),
    NONE("/v1/sandboxes/{id}/ssh", "SSH: use the terminal, …/exec/pty"),
    NONE("/v1/sandboxes/{id}/lsp/{language}", "language servers"),
    NONE("/v1/sandboxes/{id}/pg-tunnel", "databases"),
    NONE("/v1/sandboxes/{id}/mcp", "MCP server for each sandbox: the daemon's own is /mcp"),
    {"POST", "/v1/mcp", handle_mcp_post, BODY_TEXT, AUTH_KEY, SCOPE_HOST, "Model Context Protocol: messages of a client"},
    {"DELETE", "/v1/mcp", handle_mcp_delete, BODY_NONE, AUTH_KEY, SCOPE_HOST, "Model Context Protocol: end a session"},
    NONE("/v1/lsp/languages", "language servers"),
    NONE("/v1/templates/builds/{rest...}", "template build over HTTP"),
    NONE("/v1/volumes", "volumes"),
    NONE("/v1/volumes/{rest...}", "volumes"),
    NONE("/v1/databases", "databases"),
    NONE("/v1/databases/{rest...}", "databases"),
    NONE("/v1/apps", "apps"),
    NONE("/v1/apps/{rest...}", "apps"),
    NONE("/v1/functions", "functions"),
    NONE("/v1/functions/{rest...}", "functions"),
    NONE("/v1/schedules", "schedules"),
    NONE("/v1/schedules/{rest...}", "schedules"),
    NONE("/v1/preview-repos", "preview repositories"),
    NONE("/v1/preview-repos/{rest...}", "preview repositories"),
    NONE("/v1/repos/{rest...}", "preview repositories"),
    NONE("/v1/orgs", "organizations"),
    NONE("/v1/orgs/{rest...}", "organizations"),
};
/* clang-format on */
const struct route_table pandastack_routes = {"pandastack:", rows, sizeof rows / sizeof *rows};
