/* request.h: one HTTP request from its first line to the last byte of its response. Loop thread only.
 *
 * A handler reads the fields below and answers exactly once with a function of reply.h, at once or later. Whoever keeps
 * a request across callbacks takes request_hold() and gives it back with request_release(); answers to a request whose
 * client is gone are dropped silently. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/query.h"
#include "api/router.h"
#include "base/buf.h"
#include "base/err.h"

struct http_server;
struct http_peer;
struct span;
struct cell;
struct MHD_Connection;
struct MHD_Response;

/* Where a streamed body goes. write returns how many bytes it took; less than n: no more comes until
 * request_sink_ready. end: that was all. Neither is called after a reply was given. */
struct body_sink {
    size_t (*write)(void *arg, const void *bytes, size_t n);
    void (*end)(void *arg);
    void *arg;
};

#define KEY_ID_MAX 48

struct request {
    /* for handlers */
    void *arg; /* of http_config */
    char method[16];
    struct route_match match; /* route NULL until begin found it */
    struct query query;
    struct json_object *body; /* BODY_JSON: the object, NULL when nothing was sent */
    struct cell *cell;        /* SCOPE_CELL: held as long as the request */
    char key_id[KEY_ID_MAX];  /* "" : no key was needed */
    struct span *span;        /* trace/trace.h: of this request, or NULL */
    char traceparent[56];     /* what goes back to the client, or "" */
    bool local;               /* the client is on this machine and no proxy stands between */
    int64_t started_us;       /* monotonic */
    unsigned status;          /* of the reply, 0 before */
    /* How this request's client wants errors written; NULL: {"error","code","hint"}. reply_err and reply_err_as ask it. */
    void (*reply_error)(struct request *, unsigned status, const struct err *);

    /* for begin */
    enum body_policy body_policy;
    struct body_sink sink;

    /* of the server */
    struct http_server *server;
    struct request *next, *prev; /* of all requests */
    struct http_peer *peer;
    struct MHD_Connection *conn; /* NULL: the client is gone or has everything */
    struct MHD_Response *reply;
    struct stream *stream;
    unsigned refs;
    bool begun, running, ended_body, suspended, queued, cut, sink_dry;
    uint64_t body_length, body_seen; /* UINT64_MAX: chunked */
    uint64_t message_bytes, sent_bytes; /* of a WebSocket's messages that came; of the body or the messages that went out */
    uint64_t body_dropped;           /* of a refused request */
    struct buf collected; /* BODY_TEXT: the body, for the handler */
    void (*gone)(void *arg);
    void *gone_arg;
    char *uri, *path;
    struct handshake *handshake; /* websocket.c: freed with the request */
    void (*handshake_over)(struct request *, struct handshake *);
};

struct request *request_hold(struct request *);
void request_release(struct request *);

/* A header of the request, or NULL; borrowed, only while the client is there. */
const char *request_header(const struct request *, const char *name);
/* How often a header came. */
unsigned request_header_count(const struct request *, const char *name);
const char *request_param(const struct request *, size_t i);
const char *request_query(const struct request *, const char *name);
/* A streamed body's sink has room again. */
void request_sink_ready(struct request *);
/* Tell me when the client hangs up before the reply was given. Called at most once, never after the reply. */
void request_on_gone(struct request *, void (*gone)(void *arg), void *arg);
/* True when the daemon, not the client, ends the request. */
bool request_stopping(const struct request *);
