/* websocket.h: RFC 6455 over libwslay, on a socket that libmicrohttpd handed over. Loop thread only.
 *
 * A message is at most WEBSOCKET_MESSAGE_MAX bytes (more: closed with 1009). Every 20 s a ping goes out; a client that
 * answers none of two is dropped. What waits for a slow client is bounded by its writers: websocket_full() tells them
 * to stop their source, `drained` to go on; beyond WEBSOCKET_DROP bytes the client is dropped. The websocket lives
 * until `closed` was called (exactly once) and must not be touched after. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request;
struct websocket;

#define WEBSOCKET_MESSAGE_MAX (1u << 20)
#define WEBSOCKET_HIGH (256u * 1024)
#define WEBSOCKET_LOW (64u * 1024)
#define WEBSOCKET_DROP (8u << 20)
#define WEBSOCKET_PING_MS 20000

struct websocket_ops {
    void (*opened)(void *arg, struct websocket *);
    void (*message)(void *arg, struct websocket *, bool text, const uint8_t *bytes, size_t n);
    void (*drained)(void *arg, struct websocket *);
    void (*closed)(void *arg);
};

/* Answer the request with 101, or with an error when it is no WebSocket handshake (426 without one). Returns true when
 * the handshake is on its way: then `closed` will be called, after `opened` or instead of it. */
bool websocket_accept(struct request *, const struct websocket_ops *, void *arg);
void websocket_send(struct websocket *, bool text, const void *bytes, size_t n);
bool websocket_full(const struct websocket *);
/* Stop or go on reading the client's messages (back-pressure towards the client). */
void websocket_hold(struct websocket *, bool hold);
/* Send what waits, then a close frame, then close. */
void websocket_finish(struct websocket *, unsigned code, const char *reason);
bool websocket_stopping(const struct websocket *); /* the daemon ends it */
