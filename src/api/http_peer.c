/* Connections: who is there, how long they take, and whether they hung up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/http_internal.h"
#include "base/clock.h"
#include "base/log.h"

#define TICK_MS 500
/* What a streamed body must bring per window of body_timeout_ms to count as alive. */
#define BODY_WINDOW_BYTES 1024
/* Between requests the kernel's byte counter is read at the first check only: not a system call per request. */
#define MARK_LATER UINT64_MAX

static void on_tick(uv_timer_t *timer) {
    struct http_server *s = timer->data;
    http_peer_tick(s);
    http_server_kick(s); /* lets libmicrohttpd find responses that nobody reads */
    if (!s->peers_count) uv_timer_stop(timer);
}

static void peer_open(struct http_server *s, struct MHD_Connection *conn, void **slot) {
    struct http_peer *p = calloc(1, sizeof *p);
    if (!p) abort();
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    p->server = s;
    p->fd = info->connect_fd;
    info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    p->local = info && http_address_is_loopback(info->client_addr);
    p->since_ms = monotonic_ms();
    p->next = s->peers;
    if (p->next) p->next->prev = p;
    s->peers = p;
    if (!s->peers_count++) uv_timer_start(&s->tick, on_tick, TICK_MS, TICK_MS);
    *slot = p;
}

static void on_poll_closed(uv_handle_t *handle) { free(handle->data); }

static void peer_close(struct http_server *s, struct http_peer *p) {
    http_peer_unwatch(p);
    if (p->early && !p->hung_up && !s->closing) linger_begin(&s->lingering, s->config.loop, p->fd);
    if (p->prev)
        p->prev->next = p->next;
    else
        s->peers = p->next;
    if (p->next) p->next->prev = p->prev;
    s->peers_count--;
    if (p->poll_ready)
        uv_close((uv_handle_t *)&p->poll, on_poll_closed);
    else
        free(p);
}

void http_peer_notice(void *arg, struct MHD_Connection *conn, void **slot, enum MHD_ConnectionNotificationCode code) {
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        peer_open(arg, conn, slot);
    else if (*slot)
        peer_close(arg, *slot);
}

void http_peer_enter(struct http_peer *p, enum peer_state state) {
    p->state = state;
    p->since_ms = monotonic_ms();
    p->received_mark = state == PEER_IDLE ? MARK_LATER : 0;
}

static void on_hangup(uv_poll_t *poll, int status, int events) {
    struct http_peer *p = poll->data;
    (void)status;
    (void)events;
    uv_poll_stop(poll);
    p->hung_up = true;
    if (p->request) request_hangup(p->request);
}

static void arm(struct http_peer *p) {
    if (p->hung_up) return;
    if (!p->poll_ready) {
        if (uv_poll_init(p->server->config.loop, &p->poll, p->fd) < 0) return;
        p->poll.data = p;
        p->poll_ready = true;
    }
    (void)uv_poll_start(&p->poll, UV_DISCONNECT, on_hangup);
}

void http_peer_watch_due(uv_timer_t *timer) {
    struct http_server *s = timer->data;
    while (s->watch_list) {
        struct http_peer *p = s->watch_list;
        s->watch_list = p->watch_next;
        p->watch_next = NULL;
        p->watch_wanted = false;
        arm(p);
    }
}

void http_peer_watch(struct http_peer *p) {
    struct http_server *s = p->server;
    if (p->hung_up || p->watch_wanted) return;
    p->watch_wanted = true;
    p->watch_next = s->watch_list;
    s->watch_list = p;
    if (!uv_is_active((uv_handle_t *)&s->watch)) uv_timer_start(&s->watch, http_peer_watch_due, WATCH_AFTER_MS, 0);
}

void http_peer_unwatch(struct http_peer *p) {
    struct http_peer **at = &p->server->watch_list;
    while (p->watch_wanted && *at != p) at = &(*at)->watch_next;
    if (p->watch_wanted) *at = p->watch_next;
    p->watch_wanted = false;
    p->watch_next = NULL;
    if (p->poll_ready) uv_poll_stop(&p->poll);
}

/* The answer to a request that never got whole. libmicrohttpd takes no response before the head is read or in the
 * middle of a body; nothing was sent on this connection for this request, so the bytes may go straight to the socket.
 */
static void too_slow(struct http_peer *p, const char *what) {
    static const char body[] = "{\"error\":\"the request came too slowly\",\"code\":\"request_timeout\","
                               "\"hint\":\"send the whole request without pauses\"}";
    char text[512];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                     "Connection: close\r\n\r\n%s",
                     sizeof body - 1, body);
    log_debug("http: connection closed, %s came too slowly", what);
    if (send(p->fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) log_debug("http: the client does not even read");
    (void)shutdown(p->fd, SHUT_RDWR);
}

/* Waiting for a request line: quiet for long, or a line that drips. */
static void check_idle(struct http_peer *p, int64_t now) {
    const struct http_config *c = &p->server->config;
    int64_t age = now - p->since_ms;
    if (age < c->header_timeout_ms) return;
    if (p->received_mark == MARK_LATER)
        p->received_mark = tcp_bytes_received(p->fd);
    else if (tcp_bytes_received(p->fd) > p->received_mark)
        too_slow(p, "a request line");
    else if (age >= c->idle_timeout_ms)
        (void)shutdown(p->fd, SHUT_RDWR);
}

static void check_body(struct http_peer *p, int64_t now) {
    struct request *rq = p->request;
    if (!rq || rq->sink_dry) { /* it is we who do not take it */
        p->since_ms = now;
        return;
    }
    if (now - p->since_ms < p->server->config.body_timeout_ms) return;
    bool streamed = rq->body_policy == BODY_STREAM || rq->reply;
    if (!streamed || rq->body_seen - p->received_mark < BODY_WINDOW_BYTES) {
        too_slow(p, "a body");
        return;
    }
    p->since_ms = now;
    p->received_mark = rq->body_seen;
}

void http_peer_tick(struct http_server *s) {
    int64_t now = monotonic_ms();
    for (struct http_peer *p = s->peers; p; p = p->next) {
        switch (p->state) {
        case PEER_IDLE: check_idle(p, now); break;
        case PEER_HEADERS:
            if (now - p->since_ms >= s->config.header_timeout_ms) too_slow(p, "a head");
            break;
        case PEER_BODY: check_body(p, now); break;
        case PEER_BUSY:
            if (p->request && p->request->stream) stream_beat(p->request->stream, now);
            break;
        case PEER_UPGRADED: break;
        }
    }
}
