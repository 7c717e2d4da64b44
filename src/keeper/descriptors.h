/* descriptors.h: what a copy of a context has open. A copy starts with the streams of its own cell and nothing else; from the image it gets back what
 * can be made again in its own cell, at the same numbers, and a note for what cannot. No descriptor is ever handed from one cell to another.
 *
 * All of it is the cell's to choose (numbers, paths, counts): everything here is bounded, and no path is opened with the keeper's rights but by
 * the kernel's own link to a file that is open already. */
#pragma once
#include "keeper/image.h"
#include "keeper/reopen.h"

/* Bytes of files without a name that a copy takes along: of one file on the disk, and of all files in memory together. */
#define UNNAMED_DISK_MAX (16ul << 20)
#define SHARED_BYTES_MAX (1ul << 30)

/* While the context stands: what each descriptor is, its offset, what waits in it. streams: the daemon's ends of its standard output and error. */
int descriptors_note(struct image *, pid_t leader, const int streams[2], struct err *);
/* While the context still stands: contents of files that have no path go into the memory of its copy (a stopped sentinel). */
int descriptors_copy(struct image *, pid_t leader, pid_t copy, struct err *);
/* Later, from the copy's table: which are the same open file, which are two ends of one thing. Then the copy closes them: what the original closes is
 * closed. */
int descriptors_join(struct image *, pid_t copy, struct err *);

/* In the new context (R', stopped, only the streams open, the cell's rights): open everything again. What fails becomes a note; -1 with *e only when
 * the task itself failed. */
int descriptors_open(struct reopen *, struct err *);
