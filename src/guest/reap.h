/* reap.h: every child of the guest, and as PID 1 every orphan of the cell, is waited for here. */
#pragma once
#include <sys/types.h>

#include "base/err.h"

/* Lives inside its owner. */
struct reap {
    pid_t pid;
    void (*ended)(void *arg, int status); /* the wait status; the entry is already out of the list */
    void *arg;
    struct reap *next;
};

/* Block SIGCHLD and take it through the loop; become the reaper of orphans where the guest is not PID 1. */
int reap_open(struct err *e);
/* Call r->ended when child r->pid ends. Between fork() and here no round of the loop may pass. */
void reap_add(struct reap *r);
/* Nobody wants to know any more; the child will still be waited for. */
void reap_remove(struct reap *r);
