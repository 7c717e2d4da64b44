/* inject.h: system calls run by a stopped task in the keeper's name (ptrace). Single-threaded; the tasks are the keeper's own children.
 *
 * Every wait here is bounded by inject_deadline(): a task that does not come back in time makes the call fail, and the caller kills it. */
#pragma once
#include "base/err.h"
#include "keeper/arch.h"

struct batch {
    struct stub_call call[STUB_CALLS_MAX];
    size_t n;
};

/* Append a call; returns its index. */
size_t batch_add(struct batch *, long nr, long a0, long a1, long a2, long a3, long a4);
/* Append one whose failure does not matter. */
void batch_try(struct batch *, long nr, long a0, long a1, long a2, long a3, long a4);

/* From now on every wait must end within ms (0: no limit). */
void inject_deadline(unsigned ms);

/* From now on (on) the keeper stays on the processor it runs on, and inject_here() brings stopped tasks to it: each stop is two wake-ups, which
 * cost 16 µs on one processor and 250 across two (measured on a virtual machine). Tasks inherit where they may run: whoever brings one here
 * puts it back. */
void inject_stay(bool on);
struct affinity {
    uint64_t bits[16]; /* 1024 processors; all 0: not known */
};
/* Where the task may run goes to *old (may be NULL). Nothing when the keeper does not stay. */
void inject_here(pid_t, struct affinity *old);
/* Where it may run from now on; when that is not known: where the keeper may, if it stays. */
void inject_back(pid_t, const struct affinity *);

int task_read(pid_t, uint64_t address, void *out, size_t n, struct err *);
int task_write(pid_t, uint64_t address, const void *data, size_t n, struct err *);
int task_get_regs(pid_t, arch_regs *, struct err *);
int task_set_regs(pid_t, const arch_regs *, struct err *);

/* Wait until pid stops; *event gets the ptrace event (0: a signal stop, whose number goes to *signo). Fails when the task ended (ERR_LOST; it is not reaped) or
 * the deadline passed. */
int task_wait_stop(pid_t, int *event, int *signo, struct err *);

/* One call with register arguments at the single entry. *result gets its value, *child (may be NULL) the host pid of a task it
 * made, which stands in its first stop. */
int inject_single(pid_t, const arch_regs *base, long nr, const long arg[6], long *result, pid_t *child, struct err *);
/* The stub's `ask` (arch.h). */
int inject_ask(pid_t, const arch_regs *base, struct stub_told *, struct err *);
/* One call at a given system call instruction, by single step. */
int inject_at(pid_t, const arch_regs *base, uint64_t address, long nr, const long arg[6], long *result, struct err *);
/* The whole table. Fails when a call that matters fails (the error names it). child as above. */
int inject_batch(pid_t, const arch_regs *base, struct batch *, pid_t *child, struct err *);
/* The same up to the first call that fails, if any: its result is in the table, the results behind it are 0. */
int inject_table(pid_t, const arch_regs *base, struct batch *, pid_t *child, struct err *);
/* Like inject_batch for a table that ends in exit(2): waits for the end of the task. */
int inject_exit(pid_t, const arch_regs *base, struct err *);
