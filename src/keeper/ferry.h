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
    struct notes *notes;   /* what the copy turned out not to have is added; may be NULL */
};

struct ferry_result {
    pid_t sentinel, context; /* host pids; both are the keeper's children */
    int control_fd, stdout_fd, stderr_fd; /* the daemon's ends, owned by the caller */
};

/* A copy-on-write copy of a sentinel, itself a sentinel: its host pid, a child of the keeper; -1 with *e. im: of the context it belongs to. */
pid_t sentinel_copy(pid_t sentinel, const struct image *im, struct err *);

/* The first half: streams, copy, crossing. R' stands in the cell, stopped, with the cell's user and no right but to choose the ids of its
 * threads; its descriptors are the streams and nothing else. The image may be of another memory than the sentinel's (a thaw: a zygote's copy
 * takes up what an image holds); only its first thread's id and registers count here.
 * spare: a copy of the sentinel that was made ahead (it is used up, also by a failure), or 0. -1 with *e: nothing is left. */
int ferry_begin(pid_t sentinel, pid_t spare, const struct image *, const struct ferry_target *, struct ferry_result *out, struct err *);
/* The second half: threads, what the kernel keeps of them, descriptors, limits, registers; then it runs. -1 with *e: the caller drops it. */
int ferry_settle(const struct image *, const struct ferry_target *, const struct ferry_result *, struct err *);
/* Kill and reap both tasks, close the streams. */
void ferry_drop(struct ferry_result *);
/* Both in sequence. */
int ferry(pid_t sentinel, pid_t spare, const struct image *, const struct ferry_target *, struct ferry_result *, struct err *);
