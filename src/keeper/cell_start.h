/* cell_start.h: make the PID 1 of a cell, in two steps: a *blank* (fresh namespaces owned by HOST_UID_OWNER, its own id range, everything that is
 * the same in all cells) waits until it is told which cell it is; then it puts its root together and becomes cella-guest. */
#pragma once
#include <sys/types.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

struct cell_blank {
    pid_t guest;  /* host pid, a child of the keeper */
    int sync_fd;  /* closing it ends a blank that was told nothing yet */
};

struct cell_seed {
    const char *name;    /* of its control groups */
    uint32_t uid_base;   /* first of its 65,536 host ids */
    int guest_stream_fd; /* becomes GUEST_FD_STREAM */
    int slot_fd;         /* becomes GUEST_FD_SLOTS */
};

struct cell_start {
    const char *id;  /* the host name comes from it */
    int template_fd; /* root of the template */
    int layer_fd;    /* its layer */
    const struct keeper_limits *limits;
};

/* The host name of a cell with this id: its first 12 digits. */
void cell_hostname(char out[16], const char *id);
/* Does not wait for the blank to be ready. -1 with *e, then nothing is left. */
int cell_start_blank(const struct cell_seed *, struct cell_blank *, struct err *);
/* Tell it; it works on its own from here. */
int cell_start_tell(const struct cell_blank *, const struct cell_start *, struct err *);
/* Wait until contexts can be brought in and close the socket. After -1 the caller kills it. */
int cell_start_await(struct cell_blank *, struct err *);
