/* machine_copy.h: machines out of machines: from a template's (restored from a base, paused, never runs), from a capture's (a fork of a cell's that stands still
 * for ever), from files. A copy's memory is the original's until one of them writes; its disk is a snapshot. */
#pragma once
#include "keeper/capture.h"
#include "keeper/machine.h"

struct dormant { /* the machine of a capture */
    struct vmm vmm; /* first; its group has the name of the capture's layer */
    uint32_t vcpus;
    uint64_t memory_bytes, streams;
    char base[KEEPER_ID];
    uint32_t cell, serial; /* whose machine stands still until the capture is dropped; serial 0: none */
};

/* As capture_cell(), capture_make_cell() and the part of capture_drop(), for a cell that is a machine. */
struct capture *machine_capture(struct cell *, uint32_t serial, bool hold, struct err *);
struct cell *machine_copy(struct capture *, const char *id, bool last, struct err *);
void machine_capture_drop(struct capture *);

/* A fork of the template's machine. sys_errno EAGAIN: machine_template() first. */
struct cell *machine_make(const char *template_id, const char *base, const char *id, const struct keeper_limits *, struct err *);

struct machine_image { /* what MACHINE_SAVE and LAYER_KEEP wrote */
    const char *template_id, *base, *files;
    int state_fd, memory_fd;
    uint32_t vcpus; /* 0: as the base */
};
struct cell *machine_restore(const struct machine_image *, const char *id, const struct keeper_limits *, struct err *);
