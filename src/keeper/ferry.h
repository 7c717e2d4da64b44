/* ferry.h: bring a copy of a stopped context into a cell that was made ahead (sentinel.md, "Fork").
 *
 *   sentinel S  --clone-->  S' (copy on write)  --clone VM-->  T: enters the cell, drops everything  --clone3-->  R'
 *
 * Create from a zygote, restart of a context and, later, fork of a live one are this one operation with another image. */
#pragma once
#include "keeper/image.h"
#include "wire/guest_proto.h"

struct ferry_target {
    const char *cell_name; /* its control groups */
    pid_t guest;           /* the cell's PID 1, host pid: its descriptor GUEST_FD_SLOTS gives the context's streams */
    int slot_fd;           /* the keeper's end of that socket */
    bool landlock;         /* the guest holds a rule set at GUEST_FD_RULES */
    uint32_t open_files;   /* RLIMIT_NOFILE */
};

struct ferry_result {
    pid_t sentinel, context; /* host pids; both are the keeper's children */
    int control_fd, stdout_fd, stderr_fd; /* the daemon's ends, owned by the caller */
};

/* A copy-on-write copy of a sentinel, itself a sentinel: its host pid, a child of the keeper; -1 with *e. im: of the context it belongs to. */
pid_t sentinel_copy(pid_t sentinel, const struct image *im, struct err *);

/* spare: a copy of the sentinel that was made ahead (it is used up, also by a failure), or 0. */
int ferry(pid_t sentinel, pid_t spare, const struct image *, const struct ferry_target *, struct ferry_result *, struct err *);
