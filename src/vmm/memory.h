/* memory.h: the guest's memory as this process has it: one private mapping, so that fork(2) copies it on write.
 *
 * Guest addresses 0…3 GiB are the mapping's first bytes; what is more stands at 4 GiB and above (the gap between is for devices).
 * An offset in the mapping is also the offset in a memory file. Any thread may call memory_at and memory_dirty. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define MEMORY_PAGE 4096u
#define MEMORY_LOW_MAX (3ull << 30) /* the gap begins here */
#define MEMORY_HIGH (4ull << 30)    /* and ends here */
#define MEMORY_MIN (16ull << 20)
#define MEMORY_MAX (64ull << 30)

struct guest_memory {
    uint8_t *base;
    uint64_t bytes;
    uint64_t *dirty; /* a bit per page written since the base; NULL: not tracked */
};

/* Map bytes of zeros (a multiple of 2 MiB). */
int memory_make(struct guest_memory *, uint64_t bytes, bool track, struct err *);
void memory_free(struct guest_memory *);
/* Where [address, address + n) of the guest is, or NULL when that is not entirely memory of one piece. */
void *memory_at(const struct guest_memory *, uint64_t address, uint64_t n);
/* The VMM wrote [address, address + n), which memory_at accepted: KVM's own log does not know. */
void memory_dirty(const struct guest_memory *, const void *at, uint64_t n);

static inline uint64_t memory_pages(const struct guest_memory *m) { return m->bytes / MEMORY_PAGE; }
static inline uint64_t memory_dirty_bytes(const struct guest_memory *m) { return (memory_pages(m) + 63) / 64 * 8; }
static inline uint64_t memory_low(const struct guest_memory *m) { return m->bytes < MEMORY_LOW_MAX ? m->bytes : MEMORY_LOW_MAX; }
uint64_t memory_dirty_count(const struct guest_memory *);
