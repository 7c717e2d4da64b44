/* snapshot.h: the snapshot of a layer, taken by a second thread while the first one copies memory: both take milliseconds, and the cell stands still
 * meanwhile. The thread is made before the cell is stopped and touches nothing but the job and the file system. */
#pragma once
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>

#include "base/err.h"

struct snapshot {
    const char *from, *to; /* the caller's, until snapshot_end() */
    pthread_t thread;
    sem_t go;
    bool wanted, made;
    void (*then)(void *); /* called by the thread after the snapshot is taken; NULL: nothing */
    void *arg;
    int rc;
    struct err err;
};

/* A thread that waits for snapshot_go(). from NULL: without a snapshot, for `then` alone. */
int snapshot_prepare(struct snapshot *, const char *from, const char *to, struct err *);
void snapshot_go(struct snapshot *);
/* Wait for it; without snapshot_go() nothing was done. 0, or -1 with *e. Also called when snapshot_prepare() was not, on a zeroed struct. */
int snapshot_end(struct snapshot *, struct err *);
