#include "vmm/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

int memory_make(struct guest_memory *m, uint64_t bytes, bool track, struct err *e) {
    if (bytes < MEMORY_MIN || bytes > MEMORY_MAX || bytes % (2u << 20)) return err_set(e, ERR_INVALID, "memory of %llu bytes", (unsigned long long)bytes);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return err_sys(e, errno, "guest memory");
    /* fork(2) copies one entry for 2 MiB instead of 512; kernels without huge pages refuse, which costs only time. */
    (void)madvise(base, bytes, MADV_HUGEPAGE);
    (void)madvise(base, bytes, MADV_DONTDUMP);
    *m = (struct guest_memory){.base = base, .bytes = bytes};
    if (track && !(m->dirty = calloc(1, memory_dirty_bytes(m)))) {
        memory_free(m);
        return err_sys(e, ENOMEM, "bitmap of written pages");
    }
    return 0;
}

void memory_free(struct guest_memory *m) {
    if (m->base) munmap(m->base, m->bytes);
    free(m->dirty);
    *m = (struct guest_memory){0};
}

void *memory_at(const struct guest_memory *m, uint64_t address, uint64_t n) {
    const uint64_t low = memory_low(m);
    if (address < low) return n <= low - address ? m->base + address : NULL;
    if (address < MEMORY_HIGH) return NULL;
    const uint64_t at = address - MEMORY_HIGH, high = m->bytes - low;
    return at < high && n <= high - at ? m->base + low + at : NULL;
}

void memory_dirty(const struct guest_memory *m, const void *at, uint64_t n) {
    if (!m->dirty || !n) return;
    const uint64_t from = (uint64_t)((const uint8_t *)at - m->base);
    for (uint64_t page = from / MEMORY_PAGE; page <= (from + n - 1) / MEMORY_PAGE; page++)
        __atomic_fetch_or(&m->dirty[page / 64], 1ull << page % 64, __ATOMIC_RELAXED);
}

uint64_t memory_dirty_count(const struct guest_memory *m) {
    uint64_t n = 0;
    for (uint64_t i = 0; m->dirty && i < memory_dirty_bytes(m) / 8; i++) n += (uint64_t)__builtin_popcountll(m->dirty[i]);
    return n;
}
