/* descriptors.h: what a copy of a context has open. A copy starts with the streams of its own cell and nothing else; from the image it gets back what
 * can be made again in its own cell, at the same numbers, and a note for what cannot. No descriptor is ever handed from one cell to another.
 *
 * All of it is the cell's to choose (numbers, paths, counts): everything here is bounded, and no path is opened with the keeper's rights but by
 * the kernel's own link to a file that is open already. */
#pragma once
#include "keeper/image.h"
#include "keeper/reopen.h"

/* What one copy of a cell takes along of files without a name and of shared memory, of all contexts together: nobody else is served meanwhile. */
#define UNNAMED_DISK_MAX (16ul << 20) /* bytes of one file on the disk */
#define UNNAMED_MAX 256               /* files; each is compared with those before it, and filled again in the copy: 0.2 ms */
#define SHARED_PIECES_MAX 1024        /* pieces of shared memory: about 0.1 ms each */
#define SHARED_BYTES_MAX (1ul << 30)  /* in all: 1.2 s */
#define UNNAMED_COMPARED 65536        /* pairs of such files looked at, whether they are one: 0.5 µs */
struct copy_budget {
    uint64_t bytes;
    bool by_limit; /* bytes are less because of the cell's memory limit */
    int files, pieces, compared;
};

/* While the context stands: what each descriptor is, its offset, what waits in it. streams: the daemon's ends of its standard output and error. */
int descriptors_note(struct image *, pid_t leader, const int streams[2], struct err *);
/* While the context still stands: contents of files that have no path go into the memory of its copy (a stopped sentinel). */
int descriptors_copy(struct image *, pid_t leader, pid_t copy, struct copy_budget *, struct err *);
/* Later, from the copy's table: which are the same open file, which are two ends of one thing. Then the copy closes them: what the original closes is
 * closed. */
int descriptors_join(struct image *, pid_t copy, struct err *);

/* In the new context (R', stopped, only the streams open, the cell's rights): open everything again. What fails becomes a note; -1 with *e only when
 * the task itself failed. */
int descriptors_open(struct reopen *, struct err *);
