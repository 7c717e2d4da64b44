/* image.h: the state of a stopped context that is not in its memory: per thread registers, vector state, signal mask, rseq, robust list,
 * alternate stack, name; once umask and directory. Taken from the zygote at bake time, from a live context for a fork. */
#pragma once
#include <sys/ptrace.h> /* before linux/ptrace.h: they collide the other way round */
#include <linux/ptrace.h>
#include <signal.h>
#include <stdbool.h>

#include "keeper/inject.h"

#define IMAGE_THREADS_MAX 64
#define IMAGE_XSTATE_MAX 12288 /* AVX-512 and AMX fit: 11,008 bytes on the largest processor known here */

struct image_thread {
    pid_t host_tid;
    int tid; /* as seen in its own pid namespace */
    arch_regs regs;
    uint64_t signal_mask;
    struct ptrace_rseq_configuration rseq;
    uint64_t robust_list, robust_len, clear_tid;
    stack_t altstack;
    char name[16];
    size_t xstate_len;
    uint8_t xstate[IMAGE_XSTATE_MAX];
};

struct image {
    bool zygote;   /* from a zygote: one thread, new ids, the fork point returns */
    int threads;
    bool frozen;   /* its threads are stopped (image_freeze) */
    unsigned umask;
    char cwd[256]; /* inside the cell; "" keeps the root */
    struct image_thread *thread; /* leader first; owned */
};

/* Capture a stopped zygote (one thread) into out. Its stub must be mapped. */
int image_capture(struct image *out, pid_t leader, struct err *);
/* Stop every thread of a running context and capture it. The caller lets it go with image_thaw(), also after a failure. Refused: a
 * context whose leader has ended, one with more than IMAGE_THREADS_MAX threads, one with a thread that does not stop in time. */
int image_freeze(struct image *out, pid_t leader, struct err *);
void image_thaw(struct image *);
void image_free(struct image *);

/* Bring what the kernel keeps for thread i into the stopped task `to`: capabilities go as well. The task's tid becomes image.tid only where
 * the caller made it so. */
int image_apply_kernel(const struct image *, int i, pid_t to, struct err *);
/* Registers, vector state and signal mask: the last step before the task is let go. */
int image_apply_registers(const struct image *, int i, pid_t to, struct err *);
