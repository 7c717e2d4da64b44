/* image.h: the state of a stopped context that is not in its memory: per thread registers, vector state, signal mask, rseq, robust list,
 * alternate stack, name; once umask, directory, limits, timer, descriptors, shared mappings. Taken from the zygote at bake time, from a live
 * context for a fork, from a file for a thaw (state.h). */
#pragma once
#include <sys/ptrace.h> /* before linux/ptrace.h: they collide the other way round */
#include <linux/ptrace.h>
#include <signal.h>
#include <stdbool.h>

#include "keeper/inject.h"
#include "keeper/notes.h"
#include "wire/context_state.h"

#define IMAGE_THREADS_MAX STATE_THREADS_MAX
#define IMAGE_XSTATE_MAX STATE_XSTATE_MAX
#define IMAGE_LIMITS 16
/* For a stopped task, beside SIGKILL and SIGSTOP: every signal, so that none interrupts the injected calls, but the one of their breakpoint. The kernel
 * forces that on a task that blocks it, and resets the program's action for it on the way. */
#define IMAGE_SIGNALS_OFF (~(1ull << (SIGTRAP - 1)))

struct image_thread {
    pid_t host_tid;
    int tid; /* as seen in its own pid namespace */
    arch_regs regs;
    uint64_t signal_mask;
    struct ptrace_rseq_configuration rseq;
    uint64_t robust_list, robust_len, clear_tid;
    stack_t altstack;
    char name[16];
    struct affinity affinity; /* where it may run */
    size_t xstate_len;
    uint8_t xstate[IMAGE_XSTATE_MAX];
};

struct image_file {
    struct state_file head;
    void *extra; /* head.path_bytes: the path with its NUL, or what the kind says (wire/context_state.h); owned */
    dev_t device; /* of its inode; only while it is captured */
};

struct image {
    bool zygote;   /* from a zygote: one thread, new ids, the fork point returns */
    bool stated;   /* from a file: signal actions are set from `action`, because the memory came into another process */
    uint64_t anon_bytes; /* private memory that its process has, what it has in common with others included */
    int threads;
    bool frozen;   /* its threads are stopped (image_freeze) */
    unsigned umask;
    char cwd[512]; /* inside the cell; "" keeps the root */
    struct image_thread *thread; /* leader first; owned */
    uint64_t timer_us, timer_interval_us; /* ITIMER_REAL: what was left; 0: none */
    struct {
        uint64_t soft, hard;
    } limit[IMAGE_LIMITS]; /* by number of RLIMIT_*; soft > hard: not known */
    uint32_t files, actions;
    struct image_file *file; /* ascending descriptors, mappings (fd -1) last; owned */
    struct state_action *action; /* ascending signals; owned */
    struct notes notes; /* what cannot be carried at all */
};

/* Capture a stopped zygote (one thread) into out. Its stub must be mapped. */
int image_capture(struct image *out, pid_t leader, struct err *);
/* Stop every thread of a running context and capture it. The caller lets it go with image_thaw(), also after a failure. Refused: a
 * context whose leader has ended, one with more than IMAGE_THREADS_MAX threads, one with a thread that does not stop in time, one with a seccomp
 * filter of its own (more than its sentinel has). Its threads keep their filter while they stand: the injected calls are among those it allows. */
int image_freeze(struct image *out, pid_t leader, pid_t sentinel, struct err *);
void image_thaw(struct image *);
void image_free(struct image *);
/* A new last entry of im->file, all zero; NULL when there are STATE_FILES_MAX. It moves the others. */
struct image_file *image_add_file(struct image *);

/* Bring what the kernel keeps for thread i into the stopped task `to`: capabilities go as well. The task's tid becomes image.tid only where
 * the caller made it so. */
int image_apply_kernel(const struct image *, int i, pid_t to, struct err *);
/* What the whole process has, into its stopped leader: signal actions, limits, timer; its memory becomes dumpable, so that debuggers of the cell's own
 * user are not shut out. After this no further table of calls: the memory can be reached. */
int image_apply_process(const struct image *, pid_t leader, struct err *);
/* For a state that leaves the keeper: the signal actions, asked of the copy (live copies have them by themselves). */
int image_ask_actions(struct image *, pid_t copy, struct err *);
/* Registers, vector state and signal mask: the last step before the task is let go. */
int image_apply_registers(const struct image *, int i, pid_t to, struct err *);
