/* cell_root.h: from a fresh set of namespaces to the inside of a cell. Runs as the cell's PID 1, as root of the cell's user namespace,
 * before it becomes cella-guest; everything here is the keeper's own code, no byte of a cell is read. */
#pragma once
#include <linux/filter.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

struct cell_root {
    const char *stage;    /* an empty directory below the working directory: the mounts are put together there */
    const char *hostname;
    uint64_t shm_bytes;   /* size of /dev/shm (its pages count as the cell's memory) */
    int lower_fd, layer_fd, dev_fd; /* detached mounts: template and layer with this cell's owners, device nodes */
};

/* Mount root, devices, proc and sys, leave the host's tree, mask what shows the host. */
int cell_root_enter(const struct cell_root *, struct err *);
/* Loopback up, host name, the namespace's own kernel limits. */
int cell_root_configure(const struct cell_root *, struct err *);
