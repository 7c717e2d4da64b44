/* POST and DELETE /mcp: the rules of the transport, sessions, and the methods of the protocol. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/mcp/call.h"
#include "api/mcp/tools.h"

#define SERVER_NAME "cella"
static const char instructions[] = "Sandboxes that run code. Variables, files and processes stay between calls, in the "
                                   "session's own sandbox unless `sandbox` names another "
                                   "one. To try several things from one state: fork, give each child's id as "
                                   "`sandbox`, then merge the one that was right. A client of a "
                                   "protocol version without sessions is told the id of the sandbox that its first "
                                   "call made, and gives it as `sandbox` from then on.";

static struct json_object *server_info(void) {
    struct json_object *o = json_object_new_object();
    json_set_text(o, "name", SERVER_NAME);
    json_set_text(o, "title", "Cella");
    json_set_text(o, "version", CELLA_VERSION);
    return o;
}

static struct json_object *capabilities(void) {
    struct json_object *o = json_object_new_object(), *tools = json_object_new_object();
    json_set_flag(tools, "listChanged", false);
    json_set(o, "tools", tools);
    return o;
}

/* ---- the methods ---- */

static struct json_object *initialized(enum mcp_version v) {
    struct json_object *o = json_object_new_object();
    json_set_text(o, "protocolVersion", mcp_version_text(v));
    json_set(o, "capabilities", capabilities());
    json_set(o, "serverInfo", server_info());
    json_set_text(o, "instructions", instructions);
    return o;
}

static struct json_object *supported(void) {
    struct json_object *list = json_object_new_array();
    json_object_array_add(list, json_object_new_string(mcp_version_text(MCP_2026_07_28)));
    return list;
}

/* What every result of 2026-07-28 says; `cached`: also how long it holds. */
static struct json_object *complete(struct json_object *o, bool cached) {
    json_set_text(o, "resultType", "complete");
    if (!cached) return o;
    json_set_int(o, "ttlMs", 0);
    json_set_text(o, "cacheScope", "private");
    return o;
}

static struct json_object *discovered(void) {
    struct json_object *o = json_object_new_object(), *meta = json_object_new_object();
    json_set(o, "supportedVersions", supported());
    json_set(o, "capabilities", capabilities());
    json_set_text(o, "instructions", instructions);
    json_set(meta, MCP_META_SERVER, server_info());
    json_set(o, "_meta", meta);
    return complete(o, true);
}

static struct json_object *listed(bool stateless) {
    struct json_object *o = json_object_new_object();
    json_set(o, "tools", tools_list());
    return stateless ? complete(o, true) : o;
}

static void answer_error(struct post *p, const struct rpc_message *m, unsigned status, int code, const char *text) {
    p->status = p->stateless ? status : 200;
    post_answer(p, rpc_error(m->id, code, text, NULL));
}

static void call_tool(struct post *p, const struct rpc_message *m) {
    struct json_object *name = json_field(m->params, "name"), *arguments = json_field(m->params, "arguments");
    const struct tool *tool =
        json_object_is_type(name, json_type_string) ? tool_find(json_object_get_string(name)) : NULL;
    if (!tool)
        answer_error(p, m, 400, RPC_PARAMS, "there is no such tool; tools/list tells which there are");
    else if (arguments && !json_object_is_type(arguments, json_type_object))
        answer_error(p, m, 400, RPC_PARAMS, "\"arguments\" must be an object");
    else
        call_begin(p, p->session, tool, m, request_query(p->rq, "sandbox"));
}

static void answer_request(struct post *p, const struct rpc_message *m) {
    const char *method = m->method;
    if (strcmp(method, "tools/call") == 0)
        call_tool(p, m);
    else if (strcmp(method, "tools/list") == 0)
        post_answer(p, rpc_result(m->id, listed(p->stateless)));
    else if (strcmp(method, "server/discover") == 0 && p->stateless)
        post_answer(p, rpc_result(m->id, discovered()));
    else if (strcmp(method, "ping") == 0 && !p->stateless)
        post_answer(p, rpc_result(m->id, json_object_new_object()));
    else if (strcmp(method, "initialize") == 0 && !p->stateless && !p->rpc.batch)
        post_answer(p, rpc_result(m->id, initialized(p->version)));
    else
        answer_error(p, m, 404, RPC_NO_METHOD, "there is no such method");
}

/* Others than this one need no doing. */
static void hear(struct post *p, const struct rpc_message *m) {
    if (strcmp(m->method, "notifications/cancelled") != 0) return;
    struct call *c = call_find(p->mcp, p->session, p->rq->key_id, json_field(m->params, "requestId"));
    if (c) call_cancel(c);
}

/* ---- the rules of the transport ---- */

static bool asks(const struct rpc_message *m, const char *method) {
    return m->kind == RPC_REQUEST && strcmp(m->method, method) == 0;
}

static bool accepts(const struct request *rq, const char *type) {
    const char *accept = request_header(rq, "Accept");
    return !accept || !*accept || strstr(accept, type) || strstr(accept, "*/*") ||
           (strncmp(type, "application/", 12) == 0 && strstr(accept, "application/*"));
}

/* As events when the client takes nothing else, or when it wants to hear how a call goes. */
static bool wants_events(struct post *p) {
    const char *accept = request_header(p->rq, "Accept");
    if (!accept || !strstr(accept, TYPE_SSE)) return false;
    if (!accepts(p->rq, "application/json")) return true;
    for (size_t i = 0; i < p->rpc.count; i++)
        if (asks(&p->rpc.messages[i], "tools/call") && json_field(p->rpc.messages[i].meta, "progressToken"))
            return true;
    return false;
}

static bool form_is_good(struct post *p) {
    const char *type = request_header(p->rq, "Content-Type");
    if (!type || strncasecmp(type, "application/json", 16) != 0) {
        post_refuse(p, 415, RPC_REFUSED, "Content-Type must be application/json", NULL);
        return false;
    }
    if (accepts(p->rq, "application/json") || accepts(p->rq, TYPE_SSE)) return true;
    post_refuse(p, 406, RPC_REFUSED, "Accept must name application/json, or text/event-stream, or both", NULL);
    return false;
}

static bool batch_is_good(struct post *p) {
    if (!p->rpc.batch) return true;
    if (!mcp_version_batches(p->version)) {
        post_refuse(p, 400, RPC_INVALID, "this protocol version has no lists of messages", NULL);
        return false;
    }
    if (p->rpc.count) return true;
    post_refuse(p, 400, RPC_INVALID, "the list of messages is empty", NULL);
    return false;
}

/* ---- which session ---- */

static bool keeps(struct post *p, bool *keep) {
    bool bad = false;
    *keep = query_flag(&p->rq->query, "keep", &bad);
    if (bad) post_refuse(p, 400, RPC_REFUSED, "the query field \"keep\" must be 1 or 0", NULL);
    return !bad;
}

static bool begin_session(struct post *p, const char *name, enum mcp_version version) {
    struct err e;
    bool keep;
    if (!keeps(p, &keep)) return false;
    struct session *s = session_begin(p->mcp, p->rq->key_id, name, keep, version, &e);
    if (!s) {
        post_refuse(p, 429, RPC_REFUSED, e.text, NULL);
        return false;
    }
    p->session = session_hold(s);
    p->version = version;
    return true;
}

static void use_session(struct post *p, struct session *s) {
    session_touch(s);
    p->session = session_hold(s);
    p->version = s->version;
}

/* ?session=NAME: begun by whoever names it first. */
static bool use_named(struct post *p, const char *name, enum mcp_version version) {
    if (!session_name_good(name)) {
        post_refuse(p, 400, RPC_REFUSED, "the query field \"session\" must be 1 to 64 of A-Z a-z 0-9 - _ .", NULL);
        return false;
    }
    struct session *s = session_named(p->mcp, p->rq->key_id, name);
    if (!s) return begin_session(p, name, version);
    s->version = version;
    use_session(p, s);
    return true;
}

static bool take_session(struct post *p, const struct mcp_headers *h) {
    const char *id = request_header(p->rq, "Mcp-Session-Id"), *name = request_query(p->rq, "session");
    if (h->version && mcp_version_of(h->version) == MCP_UNKNOWN) {
        post_refuse(p, 400, RPC_REFUSED, "the header MCP-Protocol-Version names a version that is not supported", NULL);
        return false;
    }
    if (!id && name) return use_named(p, name, h->version ? mcp_version_of(h->version) : MCP_2025_03_26);
    if (!id) {
        post_refuse(p, 400, RPC_REFUSED, "the header Mcp-Session-Id is missing; begin with initialize", NULL);
        return false;
    }
    struct session *s = session_find(p->mcp, p->rq->key_id, id);
    if (!s) {
        post_refuse(p, 404, RPC_NO_SESSION, "there is no such session, or it has ended; begin with initialize", NULL);
        return false;
    }
    use_session(p, s);
    return true;
}

static bool initialize(struct post *p, const struct rpc_message *m) {
    struct json_object *asked = json_field(m->params, "protocolVersion");
    const char *name = request_query(p->rq, "session");
    if (!json_object_is_type(asked, json_type_string)) {
        post_refuse(p, 400, RPC_PARAMS, "\"protocolVersion\" must be a string", NULL);
        return false;
    }
    enum mcp_version version = mcp_version_agreed(json_object_get_string(asked));
    return name ? use_named(p, name, version) : begin_session(p, NULL, version);
}

static bool check_stateless(struct post *p, const struct rpc_message *m, const struct mcp_headers *h) {
    const char *why = "";
    int code = m->kind == RPC_REQUEST ? mcp_stateless_check(m, h, &why) : 0;
    if (!code) {
        const char *name = request_query(p->rq, "session");
        p->version = MCP_2026_07_28;
        return !name ||
               use_named(p, name, MCP_2026_07_28); /* without a name every call without `sandbox` gets a new one */
    }
    struct json_object *data = NULL;
    if (code == RPC_VERSION) {
        data = json_object_new_object();
        json_set(data, "supported", supported());
        json_set_text(data, "requested", h->version);
    }
    post_refuse(p, 400, code, why, data);
    return false;
}

static bool prepare(struct post *p) {
    const struct mcp_headers h = {.version = request_header(p->rq, "MCP-Protocol-Version"),
                                  .method = request_header(p->rq, "Mcp-Method"),
                                  .name = request_header(p->rq, "Mcp-Name")};
    const struct rpc_message *first = p->rpc.messages;
    if (!p->rpc.batch && first->kind == RPC_WRONG) {
        post_refuse(p, 400, first->code, first->why, NULL);
        return false;
    }
    p->stateless = !p->rpc.batch && mcp_is_stateless(first, &h);
    if (p->stateless) return check_stateless(p, first, &h);
    if (!p->rpc.batch && asks(first, "initialize")) return initialize(p, first);
    if (!p->rpc.batch && asks(first, "server/discover")) { /* a client that feels its way: it goes on with initialize */
        post_refuse(p, 404, RPC_NO_METHOD, "there is no such method in the versions with sessions", NULL);
        return false;
    }
    return take_session(p, &h) && batch_is_good(p);
}

/* ---- a post ---- */

static void serve(struct post *p) {
    size_t count = p->rpc.count;
    struct rpc_message *messages = p->rpc.messages;
    p->events = wants_events(p);
    p->pending = 1; /* this function's own, so that the post outlives its messages */
    for (size_t i = 0; i < count; i++) p->pending += messages[i].kind == RPC_REQUEST || messages[i].kind == RPC_WRONG;
    if (p->pending == 1) p->events = false;
    post_start(p);
    for (size_t i = 0; i < count; i++) {
        struct rpc_message *m = &messages[i];
        if (m->kind == RPC_REQUEST) answer_request(p, m);
        if (m->kind == RPC_NOTIFICATION) hear(p, m);
        if (m->kind == RPC_WRONG) post_answer(p, rpc_error(m->id, m->code, m->why, NULL));
    }
    post_answer(p, NULL);
}

void handle_mcp_post(struct request *rq) {
    struct err e;
    struct post *p = post_open(api_of(rq)->mcp, rq);
    if (!form_is_good(p)) return;
    if (rpc_parse(&p->rpc, rq->collected.data ? rq->collected.data : "", rq->collected.len, &e) < 0) {
        post_refuse(p, 400, p->rpc.document ? RPC_INVALID : RPC_PARSE, e.text, NULL);
        return;
    }
    buf_free(&rq->collected);
    if (prepare(p)) serve(p);
}

/* The end of a session, by its header or its name. */
void handle_mcp_delete(struct request *rq) {
    struct err e;
    struct mcp *m = api_of(rq)->mcp;
    const char *id = request_header(rq, "Mcp-Session-Id"), *name = request_query(rq, "session");
    struct session *s = id ? session_find(m, rq->key_id, id) : name ? session_named(m, rq->key_id, name) : NULL;
    if (!id && !name)
        err_set(&e, ERR_INVALID, "the header Mcp-Session-Id is missing");
    else if (!s)
        err_set(&e, ERR_NOT_FOUND, "there is no such session, or it has ended");
    else
        session_end(s, "its MCP session ended");
    if (s)
        reply_empty(rq, 204);
    else
        reply_err(rq, &e);
}
