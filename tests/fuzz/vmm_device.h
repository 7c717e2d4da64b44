/* vmm_device.h: what the fuzz targets of the VMM's devices share: a guest of 256 KiB that is the fuzzer's, and a small language for what it does.
 * The memory is one exact allocation, so that a byte beside it is an error of AddressSanitizer. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/devices.h"

#define GUEST_BYTES (256u << 10)
#define RING_AT(q) (0x1000u * (q) + 0x1000u) /* descriptors; available at + 0x800, used at + 0xc00 */
#define RING_ENTRIES 16u

struct fuzz {
    const uint8_t *at, *end;
    struct guest_memory memory;
    uint64_t dirty[GUEST_BYTES / MEMORY_PAGE / 64 + 1];
    struct virtio_dev *dev;
    unsigned raised;
};

static inline uint32_t take(struct fuzz *f, unsigned n) {
    uint32_t v = 0;
    while (n-- && f->at < f->end) v = v << 8 | *f->at++;
    return v;
}

static inline void must(int holds) {
    if (!holds) abort();
}

static void raised(void *arg, unsigned line) {
    must(line == 7);
    ((struct fuzz *)arg)->raised++;
}

static inline struct virtio_irq fuzz_irq(struct fuzz *f) { return (struct virtio_irq){.raise = raised, .arg = f, .line = 7}; }

static inline void fuzz_begin(struct fuzz *f, const uint8_t *data, size_t n) {
    *f = (struct fuzz){.at = data, .end = data + n, .memory = {.base = aligned_alloc(MEMORY_PAGE, GUEST_BYTES), .bytes = GUEST_BYTES}};
    memset(f->memory.base, 0, GUEST_BYTES); /* aligned as the real one is: the balloon gives pages back */
    f->memory.dirty = f->dirty;
}

static inline void put32(struct fuzz *f, uint32_t reg, uint32_t value) { virtio_write(f->dev, reg, &value, 4); }

/* As a driver does it: features, rings, DRIVER_OK. */
static inline void fuzz_start(struct fuzz *f, uint32_t features) {
    put32(f, 0x70, 0), put32(f, 0x70, 3);
    put32(f, 0x24, 0), put32(f, 0x20, features), put32(f, 0x24, 1), put32(f, 0x20, 1), put32(f, 0x70, 11);
    for (unsigned q = 0; q < f->dev->ops->queues; q++) {
        put32(f, 0x30, q), put32(f, 0x38, RING_ENTRIES);
        put32(f, 0x80, RING_AT(q)), put32(f, 0x90, RING_AT(q) + 0x800), put32(f, 0xa0, RING_AT(q) + 0xc00), put32(f, 0x44, 1);
    }
    put32(f, 0x70, 15);
}

/* A chain of up to four parts in queue q, each at a place and of a length of the fuzzer's choice, and a notification. */
static inline void fuzz_chain(struct fuzz *f, unsigned q) {
    uint8_t *ring = f->memory.base + RING_AT(q);
    const unsigned parts = take(f, 1) % 4 + 1, head = take(f, 1) % RING_ENTRIES;
    for (unsigned i = 0; i < parts; i++) {
        struct {
            uint64_t address;
            uint32_t bytes;
            uint16_t flags, next;
        } d = {.address = 0x8000u + (uint64_t)take(f, 2) * 3, .bytes = take(f, 2)};
        const unsigned kind = take(f, 1);
        if (kind & 8) d.address = (uint64_t)take(f, 4) << (kind >> 4), d.bytes = take(f, 4);
        d.flags = (uint16_t)((i + 1 < parts || kind & 4 ? 1 : 0) | (kind & 1 ? 2 : 0)), d.next = (uint16_t)((head + i + 1) % RING_ENTRIES);
        memcpy(ring + (head + i) % RING_ENTRIES * 16, &d, sizeof d);
    }
    uint16_t index;
    memcpy(&index, ring + 0x802, 2);
    const uint16_t at = (uint16_t)head, next = (uint16_t)(index + 1);
    memcpy(ring + 0x804 + index % RING_ENTRIES * 2, &at, 2);
    memcpy(ring + 0x802, &next, 2);
    put32(f, 0x50, q);
}

static inline void fuzz_bytes(struct fuzz *f, uint32_t at, uint32_t n) {
    for (uint32_t i = 0; i < n && at + i < GUEST_BYTES; i++) f->memory.base[at + i] = (uint8_t)take(f, 1);
}

/* Do what the input says until it ends; host: what can happen on the other side of the device. */
static inline void fuzz_run(struct fuzz *f, void (*host)(struct fuzz *, unsigned what)) {
    uint8_t seen[8];
    for (unsigned steps = 0; f->at < f->end && steps < 400; steps++) {
        const unsigned what = take(f, 1);
        const uint32_t reg = take(f, 1) * 4;
        switch (what % 8) {
        case 0: put32(f, reg % 0x120, take(f, 4)); break;
        case 1: virtio_read(f->dev, reg, seen, 1u << (what >> 6)); break;
        case 2: fuzz_bytes(f, 0x8000 + take(f, 2), reg / 8); break;
        case 3: fuzz_bytes(f, take(f, 2), reg / 16); break;
        case 4:
        case 5: fuzz_chain(f, reg % f->dev->ops->queues); break;
        case 6: host(f, reg); break;
        default: virtio_write(f->dev, reg, &f->raised, 1u << (what >> 6)); break;
        }
    }
}

/* The state of whatever came of it is written and read back as the same. */
static inline void fuzz_end(struct fuzz *f, struct virtio_dev *fresh) {
    struct state_out one = {0}, two = {0};
    virtio_save(f->dev, &one);
    struct state_in in = {(uint8_t *)one.bytes.data, (uint8_t *)one.bytes.data + one.bytes.len};
    if (fresh) {
        must(virtio_load(fresh, &in) == 0 && state_done(&in));
        virtio_save(fresh, &two);
        must(one.bytes.len == two.bytes.len && !memcmp(one.bytes.data, two.bytes.data, one.bytes.len));
    }
    buf_free(&one.bytes);
    buf_free(&two.bytes);
    free(f->memory.base);
}
