/* e2b_rpc.h: answering calls of Connect's protocol. Loop thread only. The bytes: e2b_rpc_wire.h.
 *
 * A route of an RPC has BODY_STREAM; its handler is one line: rpc_unary(rq, f) or rpc_streaming(rq, f). f runs once the whole message is there
 * and answers once, now or later (hold the request for later). From then on every reply_err of the request is in Connect's shape. */
#pragma once
#include "api/compat/e2b_rpc_wire.h"
#include "api/request.h"

typedef void (*rpc_handler)(struct request *, struct json_object *message_borrowed);

void rpc_unary(struct request *, rpc_handler);
/* One message in, a stream of messages out: f calls rpc_open, or reply_err. */
void rpc_streaming(struct request *, rpc_handler);
/* Messages in, one out: take each as it comes. Returns false when the call is answered (by reply_err). full: stop reading until
 * request_sink_ready. `gone`: the client left, nothing comes any more. */
struct rpc_input {
    bool (*message)(void *arg, struct json_object *borrowed);
    bool (*full)(void *arg);
    void (*end)(void *arg);
    void (*gone)(void *arg);
    void *arg;
};
void rpc_client_streaming(struct request *, const struct rpc_input *);
/* The answer of rpc_unary, and of rpc_client_streaming. */
void rpc_answer(struct request *, struct json_object *taken);

/* A stream of messages. Lives until rpc_end, or until gone was called (the client left, its Connect-Timeout-Ms passed, or the daemon stops). */
struct rpc_stream;
struct rpc_stream_ops {
    const char *keepalive; /* JSON that is sent while nothing else is */
    void (*drained)(void *arg);
    void (*gone)(void *arg);
};
/* NULL: the client is gone already (and `gone` is not called).
 * timed: end it with deadline_exceeded when Connect-Timeout-Ms has passed (a call that limits something else by it says false). */
struct rpc_stream *rpc_open(struct request *, bool timed, const struct rpc_stream_ops *, void *arg);
void rpc_send(struct rpc_stream *, const char *json, size_t n);
bool rpc_full(const struct rpc_stream *);
/* The last frame. */
void rpc_end(struct rpc_stream *, const struct err *or_null);
/* Connect-Timeout-Ms of the request, 0 when there is none; false after a reply. */
bool rpc_timeout_of(struct request *, int64_t *ms);

/* A field of a message as text: "" when it is missing, as every default of protocol buffers. -1 with *e when it is something else. */
int rpc_text(struct json_object *, const char *name, const char **out, struct err *);
/* An object in a message, NULL when it is missing. */
int rpc_object(struct json_object *, const char *name, struct json_object **out, struct err *);
