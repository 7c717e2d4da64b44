/* http_server.h: libmicrohttpd inside the libuv loop. Everything here belongs to the loop thread; nothing blocks.
 *
 * The server turns bytes into `struct request` (request.h) and hands each to two functions of its owner:
 *   begin  the headers are there. Sets request->body_policy (and for BODY_STREAM a sink), or replies to refuse.
 *   run    the body is there (never called for a request that begin refused or whose body was refused)
 * A request without a reply when run returns waits, costs nothing, and is answered whenever reply_* (reply.h) is
 * called.
 *
 * Slow clients: headers have one absolute deadline; a JSON body has one too; a streamed body must make progress in
 * every window; between requests a connection may idle for a while; a response nobody reads is dropped. What comes too
 * slowly is answered 408 and closed. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"

struct http_server;
struct request;

struct http_config {
    uv_loop_t *loop;
    const char *listen; /* "ADDR:PORT", "[ADDR6]:PORT"; port 0 lets the kernel choose */
    unsigned connections_max;
    unsigned per_address_max;  /* connections from one address, 0: no limit */
    int64_t header_timeout_ms; /* from the first byte of a request to the end of its headers */
    int64_t body_timeout_ms;   /* a whole JSON body; a window of a streamed one */
    int64_t idle_timeout_ms;   /* between two requests of one connection */
    int64_t write_timeout_ms;  /* a client that takes no byte of its response */
    void (*begin)(struct request *);
    void (*run)(struct request *);
    void (*replied)(struct request *); /* a reply was given and is not sent yet: a place for headers; or NULL */
    void (*over)(struct request *);  /* the response was sent or the client is gone; for logs and counters */
    void (*freed)(struct request *); /* the last hold is gone */
    void *arg;                       /* request->arg */
};

/* Numbers that suit a daemon. listen, loop and the three functions stay NULL. */
void http_config_defaults(struct http_config *);
struct http_server *http_server_open(const struct http_config *, struct err *);
/* The port that was bound. */
int http_server_port(const struct http_server *);
unsigned http_server_connections(const struct http_server *);
/* True from http_server_close on: what ends now ends because the daemon stops. */
bool http_server_closing(const struct http_server *);
/* Answer what waits with 503, cut streams and WebSockets, close every socket. Handlers that asked for it
 * (request_on_gone, stream_ops.gone, ...) are told. The loop then has to run until its handles are closed. */
void http_server_close(struct http_server *);
/* After that: free the server, and the requests whose answer nobody will give any more. */
void http_server_free(struct http_server *);
/* Split "ADDR:PORT" into a socket address. invalid_request. */
int http_parse_listen(const char *text, struct sockaddr_storage *out, socklen_t *length, struct err *);
bool http_address_is_loopback(const struct sockaddr *);
