/* machine_relay.h: in a machine, what carries packets between the connections to the host (virtio-vsock, wire/machine_proto.h) and the descriptors
 * that the rest of the guest and the contexts know from every cell: a socket pair, and for a context the pipes of its stdout and stderr.
 *
 * Two threads per relay, one for each direction, made when it is first used. They may block for as long as the other side takes nothing: that
 * is the back pressure. A loop could not do this work: a non-blocking send of a packet on vsock that finds less credit than the packet is long sends a part
 * of it and says EAGAIN, and nobody learns how much went.
 *
 * Towards the host of a context: what lay in its pipes when a packet was seen goes before the packet. Nothing is dropped while there is a
 * connection, or while the context lives (it then waits for the next connection).
 *
 * All functions are for the loop's thread. Descriptors handed in are the relay's. */
#pragma once
#include <stdbool.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

#define RELAY_GUEST KEEPER_SLOTS /* the guest stream; below it the slots of contexts */
#define RELAYS (KEEPER_SLOTS + 1)

struct relay_ends {
    int inner;    /* our end of the socket pair, blocking */
    int far;      /* a copy of the other end, to see and drop what was not read yet; -1: none */
    int out, err; /* read ends of the pipes; -1 for the guest stream */
};

/* ended: the relay of a finished context has delivered everything and closed its connection. */
int relays_open(void (*ended)(unsigned index), struct err *e);
/* A connection of the host; an older one of this relay is closed. */
void relay_connect(unsigned index, int connection);
bool relay_connected(unsigned index);
/* 0, or -1 when there is no memory for its threads; the descriptors are taken in both cases. */
int relay_attach(unsigned index, const struct relay_ends *ends, struct err *e);
/* The context is dead: what it had written is delivered, then the connection is closed. */
void relay_finish(unsigned index);
/* True when nothing is on its way, in neither direction (what the context has not read yet aside). */
bool relay_quiet(unsigned index);
/* Forget the beginning of a packet whose rest will not come: another driver talks from here on. */
void relay_begin_anew(unsigned index);
/* Forget what came for the context and was not read by it yet. */
void relay_forget_input(unsigned index);
/* This machine is a copy: what the host sent to the original is forgotten, wherever it is on its way, until the host says MACHINE_PIECE_FRESH. */
void relay_copied(unsigned index);
