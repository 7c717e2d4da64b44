/* walk.h: through a directory tree without following a symlink, of any depth with one descriptor and names in memory.
 *
 * Going down is openat(O_NOFOLLOW), going up is ".." checked against the device and inode that were left: a directory
 * moved away under the walk ends it with an error instead of leading it elsewhere. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/err.h"

struct walk_level {
    char **names; /* sorted */
    size_t n, at;
    dev_t dev;
    ino_t ino;
    size_t path_len; /* of this directory's path, relative to the start */
};

struct walk {
    int dir; /* the directory that the current item is in */
    struct walk_level *levels;
    size_t depth, cap;
    struct buf path;
};

struct walk_item {
    int dir;          /* the walk's; valid until the next call */
    const char *name; /* in dir */
    const char *path; /* relative to the start, valid until the next call */
    struct stat st;   /* of the entry itself, not where a link points */
    int depth;        /* 1 for an entry of the start directory */
    bool leaving;     /* a directory that was entered and whose entries are through */
};

/* Start in dir (taken over; a readable directory descriptor). */
int walk_open(struct walk *w, int dir, struct err *e);
/* 1: *item is the next entry; 0: all seen; -1. Entries that vanish between the reading of a directory and their turn
 * are left out. */
int walk_next(struct walk *w, struct walk_item *item, struct err *e);
/* Go into the directory that walk_next just gave. -1 with sys_errno set when it cannot be opened: the walk may go on.
 */
int walk_enter(struct walk *w, struct walk_item *item, struct err *e);
void walk_close(struct walk *w);
