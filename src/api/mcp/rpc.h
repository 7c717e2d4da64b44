/* rpc.h: JSON-RPC 2.0 as MCP uses it: bytes to messages, and answers. Pure; hostile input expected. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define RPC_BATCH_MAX 64 /* messages of one POST */

#define RPC_PARSE (-32700)
#define RPC_INVALID (-32600)
#define RPC_NO_METHOD (-32601)
#define RPC_PARAMS (-32602)
#define RPC_INTERNAL (-32603)
#define RPC_REFUSED (-32000)    /* of this server: the transport's rules were not kept, or a limit is reached */
#define RPC_NO_SESSION (-32001) /* of this server */
#define RPC_HEADERS (-32020)    /* MCP 2026-07-28: headers and body disagree */
#define RPC_VERSION (-32022)    /* MCP 2026-07-28: a protocol version that is not spoken here */

enum rpc_kind { RPC_REQUEST, RPC_NOTIFICATION, RPC_RESPONSE, RPC_WRONG };

/* One message of a post; everything is borrowed from its document. */
struct rpc_message {
    enum rpc_kind kind;
    const char *method;     /* requests and notifications */
    struct json_object *id; /* requests: a string or a whole number; wrong ones: it, where it could be told, or NULL */
    struct json_object *params; /* an object, or NULL */
    struct json_object *meta;   /* params._meta, an object, or NULL */
    int code;                   /* RPC_WRONG: the error's code … */
    const char *why;            /* … and its sentence (a literal) */
};

struct rpc_post {
    struct json_object *document;
    struct rpc_message *messages;
    size_t count;
    bool batch; /* it was a list, which may be empty */
};

/* invalid_request: the bytes are no JSON of an acceptable form, or a list of more than RPC_BATCH_MAX. What is wrong
 * with one message stands in the message. Free with rpc_free in either case. */
int rpc_parse(struct rpc_post *, const char *text, size_t n, struct err *);
void rpc_free(struct rpc_post *);

/* Answers; id is borrowed (NULL: null), result and data are taken over. New reference. */
struct json_object *rpc_result(struct json_object *id, struct json_object *result);
struct json_object *rpc_error(struct json_object *id, int code, const char *text, struct json_object *data);
