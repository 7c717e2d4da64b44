/* machine_save.h: machines on their way into files: a booted one becomes a base, a capture's is saved for an image. Both take as long as the disk does, so the monitor
 * (or a child of the keeper) writes while others are served, and the server is told when it is done. */
#pragma once
#include "keeper/capture.h"
#include "keeper/machine.h"

#define SAVES_MAX 16
#define SAVE_MS 600000 /* a machine of tens of GB on a slow disk; a monitor that takes longer is killed */

/* What the server tells the daemon. op: KEEPER_MACHINE_BASE or _SAVE; tag 0: nobody waits. rc -1: *e. */
struct saved {
    uint32_t op, cell, serial;
    uint64_t tag, bytes;
    char base[KEEPER_ID];
    uint32_t vcpus;
};
void on_saved(const struct saved *, int rc, const struct err *e);
void on_machine_ended(void); /* it is a base now, and a cell no more; after on_saved() */

/* A machine that was booted becomes base `name`, and the newest of its template; then it ends. After -1, or a failure that on_saved tells, it goes on. One that is
 * destroyed once its memory is written is a base all the same. */
int base_start(struct cell *, const char *name, uint64_t tag, struct err *);
/* What the capture's machine has beyond its base, into two empty files. They are the caller's. */
int save_start(struct capture *, const int fds[2], uint64_t tag, struct err *);

bool saves_busy(const struct vmm *);
bool saves_waiting(void); /* some are under way: call saves_check() at least every second */
void saves_check(void);
/* This monitor is about to be killed: what it writes is lost. */
void saves_stop(struct vmm *);
/* The daemon's connection ended: nobody waits for an answer. */
void saves_forget(void);
