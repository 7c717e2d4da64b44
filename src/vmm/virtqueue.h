/* virtqueue.h: a split virtqueue as the device sees it. Everything in it is the guest's: each value is read once into a local
 * copy, and every address is checked before it becomes a pointer. The caller holds the device's lock. */
#pragma once
#include <stdbool.h>
#include <sys/uio.h>

#include "vmm/memory.h"

#define VQ_ENTRIES_MAX 256
#define VQ_SEGMENTS_MAX 66 /* 64 of data, a head and a status */

struct virtqueue {
    uint16_t entries, last_avail, used; /* entries: a power of two */
    bool ready;
    uint64_t desc_address, avail_address, used_address;
};

/* A request of the driver: first `out` segments that the device reads, then `in` segments that it writes. */
struct vq_chain {
    uint16_t head;
    unsigned out, in;
    size_t out_bytes, in_bytes;
    struct iovec segment[VQ_SEGMENTS_MAX];
};

/* True when the three rings lie in memory, aligned, and the size is allowed. */
bool vq_valid(const struct virtqueue *, const struct guest_memory *);
/* Take the next request: 1, 0 when there is none, -1 when the guest broke the rules (the device then needs a reset). */
int vq_pop(struct virtqueue *, const struct guest_memory *, struct vq_chain *);
/* Put back the request that was taken last, unused. */
void vq_unpop(struct virtqueue *);
/* The request is done, `written` bytes of its `in` segments were written. True when the driver wants an interrupt. */
bool vq_push(struct virtqueue *, const struct guest_memory *, const struct vq_chain *, uint32_t written);

/* Copy n bytes at offset `at` of the request's readable bytes; false when there are fewer. */
bool vq_read(const struct vq_chain *, size_t at, void *to, size_t n);
/* Copy n bytes to offset `at` of its writable bytes; false when there are fewer. */
bool vq_write(const struct vq_chain *, size_t at, const void *from, size_t n);
/* The segments for [at, at + n) of the readable or writable bytes; returns their number, 0 when there are fewer bytes. */
unsigned vq_slice(const struct vq_chain *, bool writable, size_t at, size_t n, struct iovec out[VQ_SEGMENTS_MAX]);
