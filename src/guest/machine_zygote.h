/* machine_zygote.h: the warm Python of a machine (contexts/python/kernel.py with CELLA_KERNEL_FORKS): a process that has imported the template's libraries,
 * runs no code of anybody, and is forked for each Python context.
 *
 * Guest and zygote talk over a SOCK_SEQPACKET pair: 'Z' it is ready · 'F' with four descriptors (stdout, stderr, stream, gate): fork · 'P' and a u32: the process
 * id of the fork, or 'E' and a sentence. The fork is a child of process 1 with a session of its own; at its gate it says 'W' and waits for one byte before
 * it takes new entropy and serves. */
#pragma once
#include <sys/types.h>

#include "base/err.h"

struct zygote_fork {
    int out, err, stream, gate; /* the context's ends; the caller's to close once this returned */
};

/* Ask for a fork; the zygote is started if there is none. done: once, not from inside this call, in the order of asking; pid 0: *e says why there is none. */
int zygote_fork(const struct zygote_fork *ends, void (*done)(void *arg, pid_t pid, const struct err *e), void *arg, struct err *e);
pid_t zygote_pid(void); /* 0: there is none */
/* Environment that every context starts with. */
extern char *const zygote_environment[];
