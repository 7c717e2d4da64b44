/* snapshot.h: a machine to two files and back.
 *
 *   state   head (magic, version, ids, sizes), sections: CPU, clock, one per vCPU, I/O APIC, serial, devices, bitmap of the pages in `memory`
 *   memory  page p of the guest at offset p * 4096, holes where nothing is kept; behind the last page 16 bytes, the snapshot's id
 *
 * A full snapshot keeps every page that is not zero. One of what changed keeps the pages written since its base, whose id it names; restoring maps the
 * base privately and lays the kept pages over it. The memory is written by a fork of the VMM, so the machine stands still only for fork(2). */
#pragma once
#include "vmm/machine.h"

struct snapshot_writer { /* one at a time */
    struct watch watch; /* the writer's result comes through a pipe */
    struct machine *machine;
    uint64_t pages, frozen_us;
    uint32_t seq;
    bool busy, base;
};
struct snapshot_result {
    uint64_t pages;
    int32_t status; /* errno */
    uint32_t done;
};

/* A paused machine: write the state, fork the writer of the memory, and return; the writer then says a snapshot_result through result_fd (owned by
 * the caller) and ends. state_fd and memory_fd stay the caller's. */
int snapshot_begin(struct machine *, int state_fd, int memory_fd, bool changed, bool base, int *result_fd, struct err *);
/* A machine that is configured and has its disks: make it as it was. Paused afterwards. */
int snapshot_restore(struct machine *, int state_fd, int memory_fd, int base_fd, uint64_t *pages, uint64_t *maps, struct err *);

/* The state alone, as bytes; parse is what a fuzzer reaches: nothing of KVM is touched. */
struct snapshot_head {
    uint64_t magic, memory_bytes, pages;
    uint32_t version, vcpus, devices, has_base;
    uint8_t id[16], base_id[16];
};
void snapshot_encode(struct machine *, const struct snapshot_head *, const uint64_t *kept, struct buf *out);
/* kept: a bitmap of memory_dirty_bytes(), filled. */
int snapshot_decode(struct machine *, const void *bytes, size_t n, struct snapshot_head *, uint64_t *kept, struct err *);
