/* http_internal.h: what the files of the HTTP core share. Not for handlers. */
#pragma once
#include <microhttpd.h>
#include <uv.h>

#include "api/http_linger.h"
#include "api/http_server.h"
#include "api/request.h"
#include "api/stream.h"

enum peer_state {
    PEER_IDLE, /* waiting for a request line */
    PEER_HEADERS,
    PEER_BODY,
    PEER_BUSY,     /* a handler or a response is at work */
    PEER_UPGRADED, /* a WebSocket owns the socket */
};

/* One TCP connection. Made and freed by libmicrohttpd's connection notice; the memory goes with the poll handle. */
struct http_peer {
    struct http_server *server;
    struct http_peer *next, *prev;
    struct request *request; /* the one at work, or NULL */
    int fd;
    bool local, poll_ready, hung_up, watch_wanted;
    bool early; /* the last request was answered before its body was read: linger (http_linger.h) */
    struct http_peer *watch_next;
    enum peer_state state;
    int64_t since_ms;       /* when the state began, or the body last made enough progress */
    uint64_t received_mark; /* bytes of the connection when the state began (idle) or of the body (window) */
    uv_poll_t poll;         /* hears only that the client hung up: suspended connections are deaf otherwise */
};

struct websocket;

struct http_server {
    struct http_config config;
    struct MHD_Daemon *daemon;
    int listen_fd, port;
    unsigned peers_count;
    struct http_peer *peers;
    struct websocket *websockets;
    bool kicked, closing, in_run, idling;
    struct request *requests;
    uv_poll_t poll;   /* libmicrohttpd's epoll descriptor */
    uv_check_t check; /* runs libmicrohttpd after a turn that resumed something */
    uv_idle_t idle;   /* keeps the loop turning while libmicrohttpd has data in hand */
    uv_timer_t tick;  /* deadlines; runs only while there are connections */
    uv_timer_t watch; /* arms the watch of requests that take longer than a moment */
    struct http_peer *watch_list;
    struct lingering lingering;
};

/* Run libmicrohttpd before this turn of the loop ends. */
void http_server_kick(struct http_server *);

/* http_peer.c */
void http_peer_notice(void *arg, struct MHD_Connection *, void **slot, enum MHD_ConnectionNotificationCode);
void http_peer_enter(struct http_peer *, enum peer_state);
/* Watch for the client hanging up (until http_peer_unwatch). The watch is armed after WATCH_AFTER_MS only: a request
 * that is answered before costs no system call for it. */
#define WATCH_AFTER_MS 25
void http_peer_watch(struct http_peer *);
void http_peer_unwatch(struct http_peer *);
void http_peer_watch_due(uv_timer_t *); /* of http_server.watch */
void http_peer_tick(struct http_server *);

/* tcp_seen.c: bytes that came in on a connection since it began; 0 when the kernel does not say. */
uint64_t tcp_bytes_received(int fd);

/* request.c */
void request_free(struct request *); /* whoever holds it */
void *request_first_line(void *arg, const char *uri, struct MHD_Connection *);
enum MHD_Result request_access(void *arg, struct MHD_Connection *, const char *url, const char *method,
                               const char *version, const char *upload, size_t *upload_size, void **slot);
void request_completed(void *arg, struct MHD_Connection *, void **slot, enum MHD_RequestTerminationCode);
void request_hangup(struct request *);
void request_tell_gone(struct request *); /* run the handler's on_gone, once */
void request_suspend(struct request *);
void request_resume(struct request *);
/* The client or the daemon ends it now: the connection closes without a (further) byte. */
void request_cut(struct request *);

/* stream.c */
void stream_hangup(struct stream *);
void stream_lost(struct stream *); /* completed without the writer's end */
void stream_beat(struct stream *, int64_t now_ms);
void stream_free(struct stream *);

/* websocket.c */
void websocket_close_all(struct http_server *);
