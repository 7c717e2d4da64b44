/* microvm_driver.h: the driver whose cells are virtual machines (docs/microvm.md). cella-keeper starts and copies them (KEEPER_MACHINE_*), cella-guest inside
 * is told who it is and starts contexts (wire/machine_proto.h).
 *
 * Policy lives here: when a template is baked, how many cells are kept ready, how long an answer may take. Loop thread only. */
#pragma once
#include <uv.h>

#include "base/err.h"
#include "driver/driver.h"

struct keeper_client;

struct microvm_config {
    uint64_t memory_bytes;   /* of every machine, for good: no cell can have more */
    uint32_t vcpus;
    int64_t bake_ms;         /* a machine that is not ready to be copied by then failed */
    long long pool;          /* cells kept ready per template; -1: the default */
    struct cell_limits limits; /* what a pooled cell is made with */
    const char *machines_dir; /* STATE/machines: what `cella template build` made for this driver */
    const char *key_file;     /* authenticates images (image/sealed.h) */
};

/* beside: a handle on the connection to the keeper; this driver makes one of its own on it. */
struct driver *microvm_driver_open(uv_loop_t *, struct keeper_client *beside, const struct microvm_config *, struct err *);

/* Did the keeper say that it can make virtual machines? Known when adopt() has called back. */
bool microvm_driver_kvm(const struct driver *);
/* Is there what a machine of this template starts from? 0, or -1: unavailable, with what to do about it. */
int microvm_driver_has(const struct driver *, const char *template_id, struct err *);
