/* cell_root.h: from a fresh set of namespaces to the inside of a cell. Runs as the cell's PID 1, as root of the cell's user namespace,
 * before it becomes cella-guest; everything here is the keeper's own code, no byte of a cell is read. */
#pragma once
#include <stdint.h>

#include "base/err.h"

/* Ahead of time, while nobody knows yet which cell it will be: on `stage` (an empty directory below the working directory) devices (dev_fd: a
 * detached mount), proc without what shows the host, an empty sys; the namespace's own kernel limits, loopback up. */
int cell_root_prepare(const char *stage, int dev_fd, struct err *);

struct cell_root {
    const char *hostname;
    uint64_t shm_bytes;     /* size of /dev/shm (its pages count as the cell's memory) */
    int lower_fd, layer_fd; /* detached mounts: template and layer with this cell's owners */
};
/* The overlay with all that in it becomes the root; the host's tree is left. */
int cell_root_enter(const struct cell_root *, struct err *);
