/* websocket.h: a WebSocket client: libcurl for the connection (TLS, names, IPv6), libwslay for the frames. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "cli/cli.h"

struct websocket;

/* Upgrade GET `path`. A refusal of the daemon becomes its own error. */
struct websocket *websocket_open(const struct cli *, const char *path, struct err *);
int websocket_fd(const struct websocket *);
bool websocket_wants_write(const struct websocket *);
/* Queue one message. */
int websocket_send(struct websocket *, bool text, const void *bytes, size_t n, struct err *);
/* Send and receive what is possible without blocking; on_message gets whole messages. 1: closed by the peer, 0: go on,
 * -1: *e. */
int websocket_turn(struct websocket *, void (*on_message)(void *arg, bool text, const char *bytes, size_t n), void *arg,
                   struct err *);
void websocket_close(struct websocket *);
