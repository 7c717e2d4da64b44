/* context_pump.h: one context of a machine. Its connection carries tagged pieces (MACHINE_PIECE_*); what the domain gets is what every context has: a
 * socket and two pipes (struct context_ends).
 *
 * Order is kept: a piece is written before the next one is read, so whoever gets a packet finds all that was printed before it in the pipes. While a pipe
 * or the socket is full nothing is read, and the machine feels it. No byte is dropped while the domain holds its ends. Loop thread. */
#pragma once
#include <stdbool.h>
#include <uv.h>

#include "base/err.h"
#include "driver/driver.h"

struct context_pump;

struct context_pump_events {
    /* The connection ended and all that came through it was handed over, the domain closed its ends, or the guest broke the protocol (why; else NULL). The
     * domain's streams end with it. Once, on a later turn; the pump is closed afterwards by its owner. */
    void (*on_end)(void *arg, const char *why);
    void *arg;
};

/* Takes conn over (non-blocking SOCK_SEQPACKET). carried: the connection lived before this pump did, so its first packet may be the rest of one that somebody
 * else began to read. ends: for the domain. NULL: no descriptors are left (conn is closed). */
struct context_pump *context_pump_open(uv_loop_t *, int conn, bool carried, const struct context_pump_events *, struct context_ends *ends, struct err *);
/* The guest said that the context ended: nothing may be long in coming any more. */
void context_pump_last(struct context_pump *);
/* Close everything. No event comes any more. */
void context_pump_close(struct context_pump *);
