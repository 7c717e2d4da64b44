/* dev_stream.h: inside of the stream device: a connection (stream_conn.c) and the device that carries them (dev_stream.c).
 *
 * Bounds: a connection holds at most STREAM_WINDOW bytes for the host (the guest is told so, and overrunning it is a reset), and one packet
 * for the guest. Nothing is allocated because of what a guest sends. */
#pragma once
#include "vmm/devices.h"
#include "wire/vmm_proto.h"

#define STREAM_HOST_CID 2
#define STREAM_GUEST_CID 3
#define STREAM_PACKET_MAX 65536u
#define STREAM_WINDOW (128u * 1024) /* two whole packets */
#define STREAM_RESETS 64            /* answers to strangers that wait; more are dropped */

enum vsock_op { OP_INVALID, OP_REQUEST, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };
enum { SHUTDOWN_RECEIVE = 1, SHUTDOWN_SEND = 2, SEQ_EOM = 1, SEQ_EOR = 2 };

struct vsock_head {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_head) == 44, "virtio 1.2, 5.10.6");

enum stream_phase { STREAM_FREE, STREAM_ASKED, STREAM_OPEN };

struct stream;
struct stream_conn {
    struct watch watch;
    struct stream *device;
    enum stream_phase phase;
    uint32_t guest_port, host_port;
    uint16_t type;
    bool say_request, say_credit, say_shutdown, said_shutdown, host_done, guest_done;
    uint32_t peer_window, peer_taken, sent; /* credit towards the guest */
    uint8_t *to_guest;                      /* STREAM_PACKET_MAX bytes */
    uint32_t guest_at, guest_bytes;
    bool guest_message; /* the bytes above are (the rest of) a packet */
    uint8_t *to_host; /* 2 * STREAM_WINDOW bytes; from host_at on: records of u32 length and bytes; the last may still grow */
    uint32_t host_at, host_bytes, host_payload, taken;
    int32_t open_record; /* where the growing record begins, counted from host_at, or -1 */
};
struct stream {
    struct virtio_dev dev;
    struct loop *loop;
    struct stream_conn conn[VMM_STREAMS_MAX];
    struct vsock_head reset[STREAM_RESETS];
    unsigned resets, turn;
};

/* All with the device's lock held. */
void conn_free(struct stream_conn *);
/* Bytes of an RW packet, already copied out of the guest. 0, or -1: the guest broke the rules, reset it. */
int conn_take(struct stream_conn *, const uint8_t *bytes, uint32_t n, uint32_t flags);
/* Hand on to the host what waits; -1: the host's end is gone. */
int conn_flush(struct stream_conn *);
/* Have bytes for the guest in to_guest, as far as the host has some; -1: the host's end broke the rules. */
int conn_fill(struct stream_conn *);
uint32_t conn_credit(const struct stream_conn *); /* bytes the guest takes now */
void conn_watch(struct stream_conn *);            /* ask the loop for what this connection waits for */
