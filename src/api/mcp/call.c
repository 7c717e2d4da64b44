#include "api/mcp/call.h"

#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "api/mcp/content.h"
#include "api/mcp/tools.h"
#include "api/trace/span.h"
#include "base/clock.h"
#include "cell/cell.h"

#define PROGRESS_EVERY_MS 500

const char *call_owner(const struct call *c) { return c->key_id[0] ? c->key_id : NULL; }

static struct json_object *object_of(struct json_object *o) {
    return o ? json_object_get(o) : json_object_new_object();
}

/* In the trace of the request's header, or of the message's _meta. */
static void trace(struct call *c, const struct request *rq, struct json_object *meta) {
    struct json_object *said = json_field(meta, "traceparent");
    struct traceparent parent;
    bool child = traceparent_parse(
        json_object_is_type(said, json_type_string) ? json_object_get_string(said) : rq->traceparent, &parent);
    if (child) traceparent_write(&parent, c->traceparent);
    c->span = span_begin(c->mcp->api->exporter, c->tool->span, child ? &parent : NULL);
    span_write(c->span, c->traceparent);
    span_text(c->span, "mcp.tool", c->tool->name);
}

void call_begin(struct post *p, struct session *s, const struct tool *tool, const struct rpc_message *m,
                const char *given) {
    struct mcp *mcp = p->mcp;
    struct json_object *token = json_field(m->meta, "progressToken");
    struct call *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct call){.mcp = mcp,
                       .post = p,
                       .tool = tool,
                       .next = mcp->calls,
                       .session = session_hold(s),
                       .began_ms = monotonic_ms()};
    c->id = json_object_get(m->id);
    c->arguments = object_of(json_field(m->params, "arguments"));
    if (json_object_is_type(token, json_type_string) || json_object_is_type(token, json_type_int))
        c->token = json_object_get(token);
    (void)snprintf(c->key_id, sizeof c->key_id, "%s", p->rq->key_id);
    (void)snprintf(c->given, sizeof c->given, "%s", given ? given : "");
    if (c->next) c->next->prev = c;
    mcp->calls = c;
    trace(c, p->rq, m->meta);
    call_place(c);
}

static void call_free(struct call *c) {
    if (c->prev)
        c->prev->next = c->next;
    else
        c->mcp->calls = c->next;
    if (c->next) c->next->prev = c->prev;
    if (c->session) session_touch(c->session);
    session_release(c->session);
    json_object_put(c->id);
    json_object_put(c->arguments);
    json_object_put(c->token);
    if (c->cell) cell_release(c->cell);
    free(c);
}

/* A cancelled call has no answer. */
static void end(struct call *c, struct json_object *answer) {
    struct post *p = c->post;
    if (c->cancelled) span_fail(c->span, "cancelled");
    if (c->cell) span_text(c->span, "cella.sandbox.id", c->placed);
    span_end(c->span);
    if (c->cancelled && answer) {
        json_object_put(answer);
        answer = NULL;
    }
    call_free(c);
    post_answer(p, answer);
}

void call_finish(struct call *c, struct json_object *result) {
    if (c->cell) content_about(result, c->placed, c->made);
    if (c->traceparent[0]) content_about_trace(result, c->traceparent);
    if (c->post->stateless) json_set_text(result, "resultType", "complete");
    end(c, rpc_result(c->id, result));
}

void call_fail(struct call *c, const struct err *e) {
    span_fail(c->span, e->code);
    call_finish(c, content_failed(e));
}

void call_refuse(struct call *c, const struct err *e) {
    c->post->status = c->post->stateless ? 400 : 200;
    span_fail(c->span, e->code);
    end(c, rpc_error(c->id, RPC_PARAMS, e->text, NULL));
}

struct call *call_find(struct mcp *m, const struct session *s, const char *key_id, struct json_object *id) {
    for (struct call *c = m->calls; id && c; c = c->next)
        if (c->session == s && strcmp(c->key_id, key_id) == 0 && json_object_equal(c->id, id)) return c;
    return NULL;
}

void call_cancel(struct call *c) {
    if (c->cancelled) return;
    c->cancelled = true;
    if (c->stop) c->stop(c);
}

void call_abandon(struct call *c) {
    if (c->abandon) {
        c->abandon(c);
        call_free(c);
        return;
    }
    /* Something holds it by a pointer and will never call: what it keeps goes, the struct stays with the process's end.
     */
    if (c->prev)
        c->prev->next = c->next;
    else
        c->mcp->calls = c->next;
    if (c->next) c->next->prev = c->prev;
    if (c->cell) cell_release(c->cell);
}

void call_progress(struct call *c, const char *text) {
    int64_t now = monotonic_ms();
    if (!c->token || !c->post->st || c->cancelled || (c->told_ms && now - c->told_ms < PROGRESS_EVERY_MS)) return;
    c->told_ms = now;
    struct json_object *o = json_object_new_object(), *params = json_object_new_object();
    json_set_text(o, "jsonrpc", "2.0");
    json_set_text(o, "method", "notifications/progress");
    json_set(params, "progressToken", json_object_get(c->token));
    json_set(params, "progress", json_object_new_double((double)(now - c->began_ms + 1) / 1000));
    if (text && *text) json_set_text(params, "message", text);
    json_set(o, "params", params);
    post_notify(c->post, o);
}
