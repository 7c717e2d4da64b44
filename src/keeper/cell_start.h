/* cell_start.h: make the PID 1 of a cell: fresh namespaces owned by HOST_UID_OWNER, its own id range, its root, then cella-guest. */
#pragma once
#include "base/err.h"
#include "wire/keeper_proto.h"

struct cell_start {
    const char *id;           /* names its control groups and layer; the host name is its first 12 digits */
    uint32_t uid_base;        /* first of its 65,536 host ids */
    int template_fd;          /* root of the template */
    int layer_fd;             /* its layer */
    int guest_stream_fd;      /* becomes GUEST_FD_STREAM */
    int slot_fd;              /* becomes GUEST_FD_SLOTS */
    const struct keeper_limits *limits;
};

/* Returns the host pid of the guest, already running, a child of the keeper; -1 with *e, then nothing is left. */
int cell_start(const struct cell_start *, struct err *);
