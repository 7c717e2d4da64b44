/* frame.h: how the daemon talks to a cell, whichever driver runs it.
 *
 * There are two kinds of stream, both AF_UNIX (or vsock) SOCK_SEQPACKET, so that a packet arrives whole or not at
 * all and a daemon that takes a stream over never starts in the middle of one:
 *
 *   guest stream    daemon <-> cella-guest, one per cell, multiplexed by channel  (guest_proto.h)
 *   context stream  daemon <-> one context (Python, shell, ...), no process in between  (context_proto.h)
 *
 * A packet of at most WIRE_PACKET_MAX bytes holds one or more whole frames, one after the other:
 *
 *   u32 length   payload bytes of this frame, <= WIRE_PAYLOAD_MAX
 *   u16 type     see the two protocols
 *   u16 flags    FRAME_*
 *   u32 channel  guest stream: chosen by the daemon; context stream: number of the execution
 *   payload
 *
 * All integers little endian. A text or JSON payload longer than WIRE_PAYLOAD_MAX is cut into several frames of the
 * same type and channel, all but the last with FRAME_MORE; the receiver joins them up to a bound of its own.
 * Everything that comes from a cell is hostile: frame_next() bounds it, the receiver of a type validates its payload,
 * and a malformed packet ends the stream (the cell is reported `lost`), never the daemon. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_PACKET_MAX 65536
#define WIRE_HEAD 12
#define WIRE_PAYLOAD_MAX (WIRE_PACKET_MAX - WIRE_HEAD)

#define FRAME_MORE 0x1   /* the payload goes on in the next frame of this type and channel */
#define FRAME_EOF 0x2    /* nothing follows on this direction of the channel */
#define FRAME_REPLAY 0x4 /* context stream: sent again after a CONTEXT_HELLO */
#define FRAME_SVG 0x8    /* CONTEXT_EXECUTE: figures as SVG too */

struct frame {
    uint16_t type, flags;
    uint32_t channel, length;
    const uint8_t *payload; /* into the packet, not NUL-terminated */
};

/* Read the frame at packet[*at] and move *at behind it. Returns 1 for a frame, 0 at the exact end, -1 malformed. */
int frame_next(const uint8_t *packet, size_t packet_len, size_t *at, struct frame *out);

/* Append one frame to a packet of capacity WIRE_PACKET_MAX; *len grows. False when it does not fit (nothing is written). */
bool frame_put(uint8_t *packet, size_t *len, uint16_t type, uint16_t flags, uint32_t channel, const void *payload,
               size_t n);
