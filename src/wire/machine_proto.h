/* machine_proto.h: microvm driver <-> cella-guest as PID 1 of a virtual machine, over the virtio-vsock connections that cella-vmm ends (wire/vmm_proto.h).
 *
 * All connections are SOCK_SEQPACKET, opened by the host to port MACHINE_PORT of the guest. The guest tells them apart by the port they come from:
 *
 *   MACHINE_HOST_CONTROL         this protocol: one packet is one struct machine_message
 *   MACHINE_HOST_GUEST           the guest stream (wire/guest_proto.h), as in every cell
 *   MACHINE_HOST_CONTEXT + slot  one context: packets of at most MACHINE_PIECE_MAX + 1 bytes, the first of which says what the others are
 *                                (MACHINE_PIECE_*). Pieces of the context stream join to one packet of wire/context_proto.h; what the context wrote to
 *                                stdout and stderr before it sent a packet comes before that packet.
 *
 * A connection that comes again from the same port replaces the old one.
 *
 * A machine is baked once per template: boot, HELLO, WARM, WARMED; then its memory is kept, and every cell is a copy of it. In it slot 0 holds a Python
 * that has imported the template's libraries and waits to be told who it is. After each copy the driver sends IDENTITY first; until then
 * no process of the cell runs. On a fork of a living cell HOLD comes before the copy; the original goes on with GO, the copy with IDENTITY.
 *
 * The guest is hostile to the driver like everything in a cell: lengths are exact, every value is checked, nothing here is waited for without a limit. */
#pragma once
#include <stdint.h>

#define MACHINE_PROTO_VERSION 1
#define MACHINE_PORT 7070u
#define MACHINE_HOST_CONTROL 1u
#define MACHINE_HOST_GUEST 2u
#define MACHINE_HOST_CONTEXT 16u /* + slot */

/* First byte of a context's packet. Towards the guest only MACHINE_PIECE_STREAM. */
#define MACHINE_PIECE_STREAM 0u
#define MACHINE_PIECE_STDOUT 1u
#define MACHINE_PIECE_STDERR 2u
#define MACHINE_PIECE_MORE 0x80u /* with STREAM: the packet goes on in the next piece */
/* Towards the guest, a packet of this one byte, also on the guest stream: from here on it is for the copy. The driver sends it first on every connection that a copy
 * has from its original, once IDENTITY is answered; what the guest finds before it, on its way to the original when that was copied, is dropped. */
#define MACHINE_PIECE_FRESH 3u
#define MACHINE_PIECE_MAX 65535u

enum machine_type {
    /* driver -> guest; each is answered by a message of the same type and tag, status 0 or an errno with text */
    MACHINE_WARM = 1, /* start what waits in slot 0 (its connection is there); the answer comes when it waits: libraries imported, nothing in flight */
    MACHINE_HOLD,     /* no process of the cell runs from the answer on; contexts and what they started, not cella-guest */
    MACHINE_GO,       /* they run again */
    MACHINE_IDENTITY, /* identity: a machine that is a copy becomes this cell: wall clock, entropy of the kernel, host name, limits, the guest stream afresh (all
                         channels forgotten, HELLO), contexts told by CONTEXT_FORKED_SIGNAL before their first instruction; then as GO. answer: slots */
    MACHINE_NAME,     /* identity.id only: what the cell is called from now on (host name) */
    MACHINE_LIMITS,   /* identity.limits only; here and in IDENTITY all zero: as they are */
    MACHINE_CONTEXT,  /* slot, language; its connection is there already -> pid. EAGAIN: there is no connection from that slot's port */
    MACHINE_SIGNAL,   /* slot, signo: to the context's process */
    MACHINE_STATS,    /* -> pids, oom_kills, memory_bytes (of the cell's processes and their files in memory) */
    MACHINE_RESET,    /* another daemon took over -> slots */
    /* guest -> driver, tag 0 */
    MACHINE_HELLO = 64,   /* first packet of a control connection: value = MACHINE_PROTO_VERSION */
    MACHINE_CONTEXT_EXIT, /* slot, fate (enum context_fate of driver/driver.h: 0 exited, 1 killed, 2 out of memory), code; its connection has been closed after
                             everything it had written */
};

struct machine_limits {
    uint64_t memory_bytes, disk_bytes;
    uint32_t cpu_millis, pids_max, open_files, pad;
};

struct machine_identity {
    char id[40];          /* "sbx_…", NUL-terminated; the host name is its first 12 digits */
    uint8_t entropy[64];
    uint64_t wall_ns;     /* CLOCK_REALTIME */
    struct machine_limits limits;
};

struct machine_message {
    uint32_t type, tag;
    int32_t status;
    uint32_t slot, language; /* enum keeper_language: 1 python, 2 shell */
    uint32_t slots;          /* bit mask: slots with a living context */
    int32_t signo, fate, code;
    uint32_t pid, pids, pad;
    uint64_t value, memory_bytes, oom_kills;
    union {
        struct machine_identity identity;
        char text[160]; /* NUL-terminated sentence with a status */
    };
};

_Static_assert(sizeof(struct machine_message) == 232, "the message is part of the protocol");
