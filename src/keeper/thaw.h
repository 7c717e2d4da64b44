/* thaw.h: a context put together from an image. The keeper does three things: a copy of the zygote, stopped in the cell with the image's process id and
 * all rights dropped; system calls in it, from a short list, with those rights; threads, descriptors and registers as the image's
 * state says. What the memory becomes in between is the daemon's work, through /proc. */
#pragma once
#include "keeper/cell.h"
#include "keeper/zygote.h"

/* Fill the free slot with a copy of the zygote that waits. state_fd: a memory file. fds gets memory (read and write) and maps, the caller's. -1
 * with *e: the slot is free again. */
int thaw_begin(struct cell *, int slot, struct zygote *, int state_fd, int fds[2], struct err *);
/* Carry out the struct keeper_calls in the memory file and write the results into it. -1 with *e: a call that matters failed, or the
 * table was refused as a whole. */
int thaw_calls(struct cell *, int slot, int calls_fd, struct err *);
/* Let it go. notes gets what it lacks. -1 with *e: it is killed; on_context_exit does not follow. */
int thaw_run(struct cell *, int slot, struct notes *, struct err *);
/* The connection ended: whatever was not run is killed. */
void thaws_drop(void);
