/* seqpacket.h: one SOCK_SEQPACKET stream to a cell: packets in, bounded per turn of the loop so that no cell starves
 * another; packets out, kept in a bounded queue while the cell does not read. Private to this floor; loop thread.
 *
 * The stream owns its descriptor. Callbacks may close the stream. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define SEQPACKET_QUEUE_MAX (16u << 20) /* bytes waiting for a cell that does not read; beyond it is broken */

struct seqpacket;
struct seqpacket_events {
    /* A whole packet; the bytes are valid during the call. */
    void (*on_packet)(void *arg, const uint8_t *packet, size_t n);
    /* Nothing more comes: why is NULL for an orderly end. Once. */
    void (*on_end)(void *arg, const char *why);
    /* The queue of packets out ran empty. */
    void (*on_drained)(void *arg);
    void *arg;
};

struct seqpacket *seqpacket_open(uv_loop_t *loop, int fd, const struct seqpacket_events *);
/* Send or queue one packet. False: the stream is at its end or the queue is full (then on_end follows on the next
 * turn). */
bool seqpacket_send(struct seqpacket *, const uint8_t *packet, size_t n);
/* Bytes waiting in the queue. */
size_t seqpacket_queued(const struct seqpacket *);
/* Stop or go on reading. */
void seqpacket_pause(struct seqpacket *, bool paused);
/* Hand over what the kernel holds now, even when paused: the peer is gone and this is the rest. */
void seqpacket_drain(struct seqpacket *);
/* No more callbacks. */
void seqpacket_close(struct seqpacket *);

/* A descriptor watched by the loop; owns the descriptor. */
struct poller;
struct poller *poller_open(uv_loop_t *loop, int fd, void (*ready)(void *arg, int events), void *arg);
void poller_want(struct poller *, int events); /* UV_READABLE | UV_WRITABLE, 0: nothing */
int poller_fd(const struct poller *);
void poller_close(struct poller *);
