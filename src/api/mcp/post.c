#include "api/mcp/post.h"

#include <stdlib.h>

#include "api/json_text.h"
#include "api/mcp/call.h"
#include "api/reply.h"
#include "api/stream.h"

struct post *post_open(struct mcp *m, struct request *rq) {
    struct post *p = calloc(1, sizeof *p);
    if (!p) abort();
    *p = (struct post){.mcp = m, .rq = request_hold(rq), .status = 200, .answers = json_object_new_array()};
    return p;
}

static void post_free(struct post *p) {
    rpc_free(&p->rpc);
    json_object_put(p->answers);
    session_release(p->session);
    request_release(p->rq);
    free(p);
}

/* The client hung up. What a stateless client asked for is cancelled by that; of the others the protocol says that it
 * is not. */
static void lose(struct post *p) {
    p->lost = true;
    p->st = NULL;
    if (!p->stateless || request_stopping(p->rq)) return;
    for (struct call *c = p->mcp->calls, *next; c; c = next) {
        next = c->next;
        if (c->post == p) call_cancel(c);
    }
}
static void gone(void *arg) { lose(arg); }

static void send_event(struct post *p, struct json_object *message) {
    struct buf b = {0};
    json_put(&b, message);
    event_send(p->st, FORMAT_SSE, "message", b.data, b.len);
    buf_free(&b);
}

/* Something the client counts as life: progress of what runs, or a comment. */
static void beat(void *arg) {
    struct post *p = arg;
    bool told = false;
    for (struct call *c = p->mcp->calls; c; c = c->next)
        if (c->post == p && c->token) {
            call_progress(c, NULL);
            told = true;
        }
    if (!told) event_keepalive(p->st, FORMAT_SSE);
}

void post_start(struct post *p) {
    static const struct stream_ops ops = {.gone = gone};
    if (!p->events) {
        request_on_gone(p->rq, gone, p);
        return;
    }
    p->st = stream_open(p->rq, 200, TYPE_SSE, UINT64_MAX, &ops, p);
    reply_header(p->rq, "Cache-Control", "no-cache, no-transform");
    reply_header(p->rq, "X-Accel-Buffering", "no");
    if (p->session && !p->stateless) reply_header(p->rq, "Mcp-Session-Id", p->session->id);
    stream_heartbeat(p->st, beat);
}

static void finish(struct post *p) {
    size_t n = json_object_array_length(p->answers);
    if (p->st) {
        stream_end(p->st);
    } else if (!p->lost && !reply_given(p->rq)) {
        if (!n)
            reply_empty(p->rq, 202);
        else if (p->rpc.batch)
            reply_json(p->rq, 200, json_object_get(p->answers));
        else
            reply_json(p->rq, p->status, json_object_get(json_object_array_get_idx(p->answers, 0)));
        if (p->session && !p->stateless) reply_header(p->rq, "Mcp-Session-Id", p->session->id);
    }
    post_free(p);
}

void post_answer(struct post *p, struct json_object *answer) {
    if (answer && p->st) {
        send_event(p, answer);
        json_object_put(answer);
    } else if (answer) {
        json_object_array_add(p->answers, answer);
    }
    if (--p->pending == 0) finish(p);
}

void post_notify(struct post *p, struct json_object *message) {
    if (p->st && !stream_full(p->st)) send_event(p, message);
    json_object_put(message);
}

void post_refuse(struct post *p, unsigned status, int code, const char *text, struct json_object *data) {
    struct json_object *id = p->rpc.count == 1 && !p->rpc.batch ? p->rpc.messages[0].id : NULL;
    reply_json(p->rq, status, rpc_error(id, code, text, data));
    post_free(p);
}
