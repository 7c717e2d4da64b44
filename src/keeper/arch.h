/* arch.h: all the keeper knows of a processor: registers and the injected code. One implementation per architecture (arch_x86_64.c).
 *
 * The injected code ("stub") is a page of its own in the zygote, mapped shared and read-only from a write-sealed memory file, sealed with
 * mseal where the kernel has it, and compared byte for byte before every use. It has three entries:
 *   batch   runs a table of system calls in one go; stops by a breakpoint. Only for tasks whose memory no cell process can reach.
 *   single  one system call whose arguments sit in registers; stops by a breakpoint. For everything else (sentinel.md, "Security rules").
 *   ask     what only a thread itself can tell, in one go and as safe as a single call, because its calls are part of the code: struct stub_told
 *           at STUB_SCRATCH. The same calls undo a MADV_DONTFORK on the stub: the cell's code may have asked that it is left out of copies. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

typedef struct user_regs_struct arch_regs;

/* Fixed addresses in every zygote, clear of heap, libraries and stack (sentinel.md: also of a non-PIE heap). */
#define STUB_CODE 0x200000000000ul
#define STUB_DATA (STUB_CODE + 0x1000)    /* table of calls */
#define STUB_SCRATCH (STUB_DATA + 0x3000) /* arguments of those calls */
#define STUB_CODE_SIZE 0x1000ul
#define STUB_DATA_SIZE 0x5000ul
#define STUB_SCRATCH_SIZE 0x2000ul

/* One entry of the table; the layout is known to the stub's machine code. */
struct stub_call {
    uint64_t nr, arg[6];
    int64_t ret;
    uint64_t ignore; /* go on when ret < 0 */
};
#define STUB_CALLS_MAX 160

extern const uint8_t arch_stub[];
extern const size_t arch_stub_size;

/* What `ask` leaves. */
struct stub_told {
    uint64_t altstack[3];  /* stack_t */
    uint64_t clear_tid;    /* PR_GET_TID_ADDRESS */
    uint64_t real_timer[4]; /* struct itimerval: interval, value */
};

/* Registers that run the table of n calls / one call, derived from `base` (stack and thread pointer are kept). */
void arch_enter_batch(arch_regs *r, const arch_regs *base, size_t n);
void arch_enter_single(arch_regs *r, const arch_regs *base, long nr, const long arg[6]);
void arch_enter_ask(arch_regs *r, const arch_regs *base);
/* 0, or what the calls of `ask` returned, or-ed together. */
long arch_asked(const arch_regs *r);
/* Before the stub is mapped: the same call at an address that holds a system call instruction. */
void arch_enter_at(arch_regs *r, const arch_regs *base, uint64_t address, long nr, const long arg[6]);
/* May registers from a file be given to a task? (The kernel checks the rest when they are set.) */
bool arch_check(const arch_regs *r);
bool arch_single_done(const arch_regs *r);
bool arch_ask_done(const arch_regs *r);
long arch_result(const arch_regs *r);
/* The task stands in this system call, stopped before it would be restarted? */
bool arch_in_call(const arch_regs *r, long nr);
/* Make the interrupted call return `value` when the task goes on. */
void arch_return(arch_regs *r, long value);
uint64_t arch_thread_pointer(const arch_regs *r);
uint64_t arch_call_address(const arch_regs *r); /* of the system call instruction it stands behind */
extern const uint8_t arch_call_bytes[2];        /* that instruction */
/* A call interrupted with ERESTART_RESTARTBLOCK cannot restart in a copy, which has no restart block: issue it again with
 * the time that is left (sentinel.md, step 7). */
void arch_fix_restart(arch_regs *r);
/* When r stands inside [start, start + length), continue at `abort` instead. */
void arch_abort_section(arch_regs *r, uint64_t start, uint64_t length, uint64_t abort);
