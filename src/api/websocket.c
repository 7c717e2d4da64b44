#include "api/websocket.h"

#include <errno.h>
#include <microhttpd.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <uv.h>
#include <wslay/wslay.h>

#include "api/http_internal.h"
#include "api/reply.h"
#include "base/buf.h"
#include "base/log.h"

#define READ_ROUND (256u * 1024) /* bytes of one client per turn of the loop */
#define CLOSE_WAIT_MS 2000       /* for the client's own close frame */

struct websocket {
    struct websocket *next, *prev;
    struct http_server *server;
    struct request *rq; /* for its numbers; the owner holds it until it heard closed() */
    const struct websocket_ops *ops;
    void *arg;
    struct MHD_UpgradeResponseHandle *upgrade;
    wslay_event_context_ptr wire;
    int fd;
    struct buf early; /* bytes that came right behind the handshake */
    struct buf out;   /* frames on their way to the socket */
    size_t out_at, round;
    bool hold, finishing, dead, was_full, opened;
    unsigned silent_pings;
    unsigned handles;
    uv_poll_t poll;
    uv_timer_t timer;
};

/* ---- wslay's callbacks ---- */

static ssize_t wire_recv(wslay_event_context_ptr wire, uint8_t *to, size_t n, int flags, void *arg) {
    struct websocket *ws = arg;
    (void)flags;
    if (ws->early.len) {
        if (n > ws->early.len) n = ws->early.len;
        memcpy(to, ws->early.data, n);
        buf_consume(&ws->early, n);
        return (ssize_t)n;
    }
    if (ws->round >= READ_ROUND || ws->hold) {
        wslay_event_set_error(wire, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    ssize_t got = recv(ws->fd, to, n, 0);
    if (got > 0) {
        ws->round += (size_t)got;
        return got;
    }
    bool again = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    wslay_event_set_error(wire, again ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

/* Frames collect here, so that header and payload leave in one write. */
static ssize_t wire_send(wslay_event_context_ptr wire, const uint8_t *bytes, size_t n, int flags, void *arg) {
    struct websocket *ws = arg;
    (void)wire;
    (void)flags;
    buf_append(&ws->out, bytes, n);
    return (ssize_t)n;
}

static void wire_message(wslay_event_context_ptr wire, const struct wslay_event_on_msg_recv_arg *m, void *arg) {
    struct websocket *ws = arg;
    (void)wire;
    ws->silent_pings = 0;
    if (wslay_is_ctrl_frame(m->opcode) || ws->finishing) return;
    if (ws->rq) ws->rq->message_bytes += m->msg_length;
    ws->ops->message(ws->arg, ws, m->opcode == WSLAY_TEXT_FRAME, m->msg, m->msg_length);
}

/* ---- life ---- */

static void on_handle_closed(uv_handle_t *handle) {
    struct websocket *ws = handle->data;
    if (--ws->handles) return;
    buf_free(&ws->out);
    buf_free(&ws->early);
    wslay_event_context_free(ws->wire);
    free(ws);
}

static void die(struct websocket *ws) {
    if (ws->dead) return;
    ws->dead = true;
    if (ws->prev)
        ws->prev->next = ws->next;
    else
        ws->server->websockets = ws->next;
    if (ws->next) ws->next->prev = ws->prev;
    uv_close((uv_handle_t *)&ws->poll, on_handle_closed);
    uv_close((uv_handle_t *)&ws->timer, on_handle_closed);
    (void)shutdown(ws->fd, SHUT_RDWR);
    (void)MHD_upgrade_action(ws->upgrade, MHD_UPGRADE_ACTION_CLOSE);
    http_server_kick(ws->server);
    ws->ops->closed(ws->arg);
}

static size_t waiting(const struct websocket *ws) {
    return ws->out.len - ws->out_at + wslay_event_get_queued_msg_length(ws->wire);
}

static void on_poll(uv_poll_t *poll, int status, int events);
static void on_timer(uv_timer_t *timer);

/* Our close frame is out and the client goes on sending: what it sends is thrown away, so that it gets to read ours. */
static bool draining(const struct websocket *ws) { return !wslay_event_want_read(ws->wire); }

static void rearm(struct websocket *ws) {
    int events = UV_DISCONNECT;
    if (!ws->hold || draining(ws)) events |= UV_READABLE;
    if (ws->out.len > ws->out_at) events |= UV_WRITABLE;
    (void)uv_poll_start(&ws->poll, events, on_poll);
}

/* Move frames to the socket. False: the connection is gone. */
static bool flush(struct websocket *ws) {
    if (wslay_event_want_write(ws->wire) && wslay_event_send(ws->wire) != 0) return false;
    while (ws->out.len > ws->out_at) {
        ssize_t n = send(ws->fd, ws->out.data + ws->out_at, ws->out.len - ws->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return false;
        if (n < 0) {
            buf_consume(&ws->out, ws->out_at);
            ws->out_at = 0;
            return true;
        }
        ws->out_at += (size_t)n;
    }
    buf_clear(&ws->out);
    ws->out_at = 0;
    return true;
}

/* After anything that may have produced or moved bytes. */
static void settle(struct websocket *ws) {
    if (ws->dead) return;
    bool alive = flush(ws);
    size_t left = waiting(ws);
    if (wslay_event_get_close_sent(ws->wire) &&
        !ws->finishing) { /* wslay ended it: a protocol error, a message too large */
        ws->finishing = true;
        uv_timer_start(&ws->timer, on_timer, CLOSE_WAIT_MS, 0);
    }
    bool over = !left && (wslay_event_get_close_received(ws->wire) && wslay_event_get_close_sent(ws->wire));
    if (!alive || over || left > WEBSOCKET_DROP) {
        if (left > WEBSOCKET_DROP) log_info("websocket: a client that reads too slowly was dropped");
        die(ws);
        return;
    }
    rearm(ws);
    if (ws->was_full && left <= WEBSOCKET_LOW) {
        ws->was_full = false;
        if (!ws->finishing && ws->ops->drained) ws->ops->drained(ws->arg, ws);
    }
}

static void drain(struct websocket *ws) {
    char away[16384];
    for (size_t sum = 0; sum < READ_ROUND;) {
        ssize_t n = recv(ws->fd, away, sizeof away, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n <= 0) {
            die(ws);
            return;
        }
        sum += (size_t)n;
    }
}

static void read_some(struct websocket *ws) {
    ws->round = 0;
    if (draining(ws)) {
        drain(ws);
        return;
    }
    if (wslay_event_recv(ws->wire) != 0) {
        die(ws);
        return;
    }
    settle(ws);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct websocket *ws = poll->data;
    if (status < 0) {
        die(ws);
        return;
    }
    if (events & UV_READABLE)
        read_some(ws);
    else if (events & UV_DISCONNECT)
        die(ws);
    else
        settle(ws);
}

static void on_timer(uv_timer_t *timer) {
    struct websocket *ws = timer->data;
    if (ws->finishing || ws->silent_pings++ >= 2) {
        if (!ws->finishing) log_debug("websocket: no answer to two pings");
        die(ws);
        return;
    }
    struct wslay_event_msg ping = {.opcode = WSLAY_PING};
    (void)wslay_event_queue_msg(ws->wire, &ping);
    settle(ws);
}

/* ---- handshake ---- */

struct handshake {
    const struct websocket_ops *ops;
    void *arg;
    struct http_server *server;
    bool done;
};

static void on_upgrade(void *cls, struct MHD_Connection *conn, void *con_cls, const char *extra, size_t extra_n,
                       MHD_socket fd, struct MHD_UpgradeResponseHandle *upgrade) {
    struct handshake *h = cls;
    struct request *rq = con_cls;
    struct http_server *s = h->server;
    (void)conn;
    struct websocket *ws = calloc(1, sizeof *ws);
    if (!ws) abort();
    *ws = (struct websocket){.server = s, .rq = rq, .ops = h->ops, .arg = h->arg, .upgrade = upgrade, .fd = fd};
    struct wslay_event_callbacks callbacks = {
        .recv_callback = wire_recv, .send_callback = wire_send, .on_msg_recv_callback = wire_message};
    if (wslay_event_context_server_init(&ws->wire, &callbacks, ws) != 0) abort();
    wslay_event_config_set_max_recv_msg_length(ws->wire, WEBSOCKET_MESSAGE_MAX);
    h->done = true;
    if (extra_n) buf_append(&ws->early, extra, extra_n);
    if (rq && rq->peer) {
        http_peer_unwatch(rq->peer);
        http_peer_enter(rq->peer, PEER_UPGRADED);
    }
    ws->next = s->websockets;
    if (ws->next) ws->next->prev = ws;
    s->websockets = ws;
    ws->handles = 2;
    ws->poll.data = ws->timer.data = ws;
    uv_timer_init(s->config.loop, &ws->timer);
    uv_timer_start(&ws->timer, on_timer, WEBSOCKET_PING_MS, WEBSOCKET_PING_MS);
    uv_poll_init(s->config.loop, &ws->poll, fd);
    rearm(ws);
    ws->opened = true;
    ws->ops->opened(ws->arg, ws);
    if (ws->early.len && !ws->dead) read_some(ws);
}

/* The response is freed: when no upgrade happened, the owner must still hear of the end. */
static void handshake_over(struct request *rq, struct handshake *h) {
    (void)rq;
    if (!h->done) h->ops->closed(h->arg);
    free(h);
}

static bool has_token(const char *list, const char *token) {
    size_t n = strlen(token);
    while (list && *list) {
        list += strspn(list, " \t,");
        size_t length = strcspn(list, ",");
        size_t word = length;
        while (word && (list[word - 1] == ' ' || list[word - 1] == '\t')) word--;
        if (word == n && strncasecmp(list, token, n) == 0) return true;
        list += length;
    }
    return false;
}

static void accept_key(const char *key, char out[static 29]) {
    char joined[80];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    (void)snprintf(joined, sizeof joined, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key); /* RFC 6455, 1.3 */
    if (EVP_Digest(joined, strlen(joined), digest, &n, EVP_sha1(), NULL) != 1) abort();
    EVP_EncodeBlock((unsigned char *)out, digest, 20);
}

bool websocket_accept(struct request *rq, const struct websocket_ops *ops, void *arg) {
    struct err e;
    char accept[32];
    const char *key = request_header(rq, "Sec-WebSocket-Key"), *version = request_header(rq, "Sec-WebSocket-Version");
    bool asked =
        has_token(request_header(rq, "Upgrade"), "websocket") && has_token(request_header(rq, "Connection"), "upgrade");
    if (!asked || strcmp(rq->method, "GET") != 0) {
        err_hint(&e, ERR_INVALID, "connect with a WebSocket client", "this path speaks WebSocket only");
        reply_err_as(rq, 426, &e);
        reply_header(rq, "Upgrade", "websocket");
        return false;
    }
    if (!key || strlen(key) != 24 || !version || strcmp(version, "13") != 0) {
        err_set(&e, ERR_INVALID, "the WebSocket handshake needs version 13 and a key of 16 bytes");
        reply_err(rq, &e);
        reply_header(rq, "Sec-WebSocket-Version", "13");
        return false;
    }
    struct handshake *h = calloc(1, sizeof *h);
    if (!h) abort();
    *h = (struct handshake){.ops = ops, .arg = arg, .server = rq->server};
    accept_key(key, accept);
    rq->handshake = h;
    rq->handshake_over = handshake_over;
    reply_response(rq, 101, MHD_create_response_for_upgrade(on_upgrade, h));
    reply_header(rq, "Upgrade", "websocket");
    reply_header(rq, "Sec-WebSocket-Accept", accept);
    return true;
}

/* ---- for owners ---- */

void websocket_send(struct websocket *ws, bool text, const void *bytes, size_t n) {
    if (ws->dead || ws->finishing) return;
    if (ws->rq) ws->rq->sent_bytes += n;
    struct wslay_event_msg m = {.opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, .msg = bytes, .msg_length = n};
    if (wslay_event_queue_msg(ws->wire, &m) != 0 || !flush(ws)) {
        (void)uv_poll_start(&ws->poll, UV_WRITABLE, on_poll); /* dies on the next turn, not under its owner */
        return;
    }
    if (waiting(ws) > WEBSOCKET_HIGH) ws->was_full = true;
    rearm(ws);
}

bool websocket_full(const struct websocket *ws) { return ws->was_full; }

void websocket_hold(struct websocket *ws, bool hold) {
    if (ws->dead || ws->hold == hold) return;
    ws->hold = hold;
    rearm(ws);
}

void websocket_finish(struct websocket *ws, unsigned code, const char *reason) {
    if (ws->dead || ws->finishing) return;
    (void)wslay_event_queue_close(ws->wire, (uint16_t)code, (const uint8_t *)reason, strlen(reason));
    ws->finishing = true;
    ws->hold = false;
    uv_timer_start(&ws->timer, on_timer, CLOSE_WAIT_MS, 0);
    (void)flush(ws);
    rearm(ws);
}

bool websocket_stopping(const struct websocket *ws) { return ws->server->closing; }

void websocket_close_all(struct http_server *s) {
    while (s->websockets) {
        struct websocket *ws = s->websockets;
        (void)wslay_event_queue_close(ws->wire, 1001, (const uint8_t *)"the daemon is stopping", 22);
        (void)flush(ws);
        die(ws);
    }
}
