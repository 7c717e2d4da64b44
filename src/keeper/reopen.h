/* reopen.h: tables of calls in a new context that stands stopped with the rights of its cell, with the numbers that its descriptors will get known
 * beforehand: the kernel gives the lowest free one, and nobody else opens or closes anything there. */
#pragma once
#include <sys/stat.h>

#include "keeper/image.h"

#define REOPEN_FDS 65536

struct reopen {
    const struct image *im;
    pid_t task;
    struct notes *notes;
    struct batch batch;
    size_t scratch_used;
    int expected[STUB_CALLS_MAX]; /* what a call that makes a descriptor must return; -1: any */
    uint8_t scratch[STUB_SCRATCH_SIZE];
    uint8_t open[REOPEN_FDS / 8]; /* numbers in use in the new context */
};

void reopen_begin(struct reopen *, const struct image *, pid_t task, struct notes *);
/* The lowest free number, leaving out the `skip` lowest ones. */
int reopen_lowest(const struct reopen *, int skip);
bool reopen_is_open(const struct reopen *, int fd);
void reopen_mark(struct reopen *, int fd, bool open);

/* A new table of calls. */
void reopen_start(struct reopen *);
/* Append a call that makes the descriptor `fd`. */
void reopen_make(struct reopen *, int fd, long nr, long a0, long a1, long a2, long a3);
/* Arguments in the task's memory: their address there. At most STUB_SCRATCH_SIZE in one table. */
uint64_t reopen_put(struct reopen *, const void *, size_t);
uint64_t reopen_room(struct reopen *, size_t);
/* Append: open the file by its path (or `path`), without waiting and through no symbolic link. */
void reopen_open(struct reopen *, int fd, const char *path, uint64_t flags, uint64_t mode);
/* 0: all went well. 1: a call failed (those behind it were not made) or gave another number. -1 with *e: the task failed. */
int reopen_run(struct reopen *, struct err *);
/* Is it the file that the image means? */
bool reopen_same(const struct stat *, uint64_t inode);
