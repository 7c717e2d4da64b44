#include "keeper/arch.h"

#include <string.h>
#include <sys/syscall.h>

/* rbx: next entry, r12: entries left. Offsets are those of struct stub_call. */
const uint8_t arch_stub[] = {
    0x48, 0x8b, 0x03,             /*  0 mov rax,[rbx]        */
    0x48, 0x8b, 0x7b, 0x08,       /*  3 mov rdi,[rbx+8]      */
    0x48, 0x8b, 0x73, 0x10,       /*  7 mov rsi,[rbx+16]     */
    0x48, 0x8b, 0x53, 0x18,       /* 11 mov rdx,[rbx+24]     */
    0x4c, 0x8b, 0x53, 0x20,       /* 15 mov r10,[rbx+32]     */
    0x4c, 0x8b, 0x43, 0x28,       /* 19 mov r8,[rbx+40]      */
    0x4c, 0x8b, 0x4b, 0x30,       /* 23 mov r9,[rbx+48]      */
    0x0f, 0x05,                   /* 27 syscall              */
    0x48, 0x89, 0x43, 0x38,       /* 29 mov [rbx+56],rax     */
    0x48, 0x85, 0xc0,             /* 33 test rax,rax         */
    0x79, 0x07,                   /* 36 jns 45               */
    0x48, 0x83, 0x7b, 0x40, 0x00, /* 38 cmp qword [rbx+64],0 */
    0x74, 0x09,                   /* 43 je 54                */
    0x48, 0x83, 0xc3, 0x48,       /* 45 add rbx,72           */
    0x49, 0xff, 0xcc,             /* 49 dec r12              */
    0x75, 0xca,                   /* 52 jnz 0                */
    0xcc,                         /* 54 int3                 */
    0x0f, 0x05,                   /* 55 syscall              */
    0xcc,                         /* 57 int3                 */
    0x31, 0xff,                   /* 58 xor edi,edi          */
    0x48, 0x89, 0xde,             /* 60 mov rsi,rbx          */
    0xb8, 0x83, 0x00, 0x00, 0x00, /* 63 mov eax,131 sigaltstack(0, rbx) */
    0x0f, 0x05,                   /* 68 syscall              */
    0x49, 0x89, 0xc4,             /* 70 mov r12,rax          */
    0xbf, 0x28, 0x00, 0x00, 0x00, /* 73 mov edi,40 PR_GET_TID_ADDRESS */
    0x48, 0x8d, 0x73, 0x18,       /* 78 lea rsi,[rbx+24]     */
    0xb8, 0x9d, 0x00, 0x00, 0x00, /* 82 mov eax,157 prctl    */
    0x0f, 0x05,                   /* 87 syscall              */
    0x49, 0x09, 0xc4,             /* 89 or r12,rax           */
    0x31, 0xff,                   /* 92 xor edi,edi ITIMER_REAL */
    0x48, 0x8d, 0x73, 0x20,       /* 94 lea rsi,[rbx+32]     */
    0xb8, 0x24, 0x00, 0x00, 0x00, /* 98 mov eax,36 getitimer */
    0x0f, 0x05,                   /* 103 syscall             */
    0x49, 0x09, 0xc4,             /* 105 or r12,rax          */
    0x48, 0xbf, 0x00, 0x00, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00, /* 108 mov rdi,STUB_CODE */
    0xbe, 0x00, 0x60, 0x00, 0x00, /* 118 mov esi,code and data */
    0xba, 0x0b, 0x00, 0x00, 0x00, /* 123 mov edx,11 MADV_DOFORK */
    0xb8, 0x1c, 0x00, 0x00, 0x00, /* 128 mov eax,28 madvise  */
    0x0f, 0x05,                   /* 133 syscall             */
    0x49, 0x09, 0xc4,             /* 135 or r12,rax          */
    0xcc,                         /* 138 int3                */
};
const size_t arch_stub_size = sizeof arch_stub;
const uint8_t arch_call_bytes[2] = {0x0f, 0x05};
#define SINGLE (STUB_CODE + 55)
#define ASK (STUB_CODE + 58)
#define ASK_END (STUB_CODE + 139)

_Static_assert(sizeof(struct stub_call) == 72, "the stub steps by 72 bytes");
_Static_assert(offsetof(struct stub_told, clear_tid) == 24 && offsetof(struct stub_told, real_timer) == 32, "the stub's offsets");
_Static_assert(sizeof arch_stub == 139, "ASK_END is the end");
_Static_assert(STUB_CODE == 0x200000000000ul && STUB_CODE_SIZE + STUB_DATA_SIZE == 0x6000, "the range of the stub's madvise");
_Static_assert(offsetof(struct stub_call, ret) == 56 && offsetof(struct stub_call, ignore) == 64, "the stub's offsets");
_Static_assert(STUB_CALLS_MAX * sizeof(struct stub_call) <= STUB_SCRATCH - STUB_DATA, "the table ends before the scratch area");

/* orig_rax -1: the kernel must not take our entry for the restart of a system call. User segments: 64-bit. No single step. */
static void enter(arch_regs *r, const arch_regs *base, uint64_t rip) {
    *r = *base;
    r->rip = rip;
    r->orig_rax = (unsigned long long)-1;
    r->rax = 0;
    r->eflags &= ~0x100ull;
    r->cs = 0x33;
    r->ss = 0x2b;
}

void arch_enter_batch(arch_regs *r, const arch_regs *base, size_t n) {
    enter(r, base, STUB_CODE);
    r->rbx = STUB_DATA;
    r->r12 = n;
}

void arch_enter_at(arch_regs *r, const arch_regs *base, uint64_t address, long nr, const long arg[6]) {
    enter(r, base, address);
    r->rax = (unsigned long long)nr;
    r->rdi = (unsigned long long)arg[0];
    r->rsi = (unsigned long long)arg[1];
    r->rdx = (unsigned long long)arg[2];
    r->r10 = (unsigned long long)arg[3];
    r->r8 = (unsigned long long)arg[4];
    r->r9 = (unsigned long long)arg[5];
}

void arch_enter_ask(arch_regs *r, const arch_regs *base) {
    enter(r, base, ASK);
    r->rbx = STUB_SCRATCH;
}

void arch_enter_single(arch_regs *r, const arch_regs *base, long nr, const long arg[6]) {
    arch_enter_at(r, base, SINGLE, nr, arg);
}

/* User segments of the two kinds of user code, no single step, addresses of user memory: a jump elsewhere would only end the program. */
bool arch_check(const arch_regs *r) {
    const uint64_t end = 1ull << 47;
    return (r->cs == 0x33 || r->cs == 0x23) && r->ss == 0x2b && !(r->eflags & 0x100) && r->rip < end && r->rsp < end && r->fs_base < end && r->gs_base < end;
}

bool arch_single_done(const arch_regs *r) { return r->rip == SINGLE + 3; }
bool arch_ask_done(const arch_regs *r) { return r->rip == ASK_END; }
long arch_asked(const arch_regs *r) { return (long)r->r12; }
long arch_result(const arch_regs *r) { return (long)r->rax; }
bool arch_in_call(const arch_regs *r, long nr) { return (long)r->orig_rax == nr; }

void arch_return(arch_regs *r, long value) {
    r->rax = (unsigned long long)value;
    r->orig_rax = (unsigned long long)-1;
}

uint64_t arch_thread_pointer(const arch_regs *r) { return r->fs_base; }
uint64_t arch_call_address(const arch_regs *r) { return r->rip - sizeof arch_call_bytes; }

void arch_fix_restart(arch_regs *r) {
    if ((long)r->orig_rax < 0 || (long)r->rax != -516 /* ERESTART_RESTARTBLOCK */) return;
    if (r->orig_rax == SYS_nanosleep && r->rsi) r->rdi = r->rsi; /* the kernel has written what is left to *rem */
    if (r->orig_rax == SYS_clock_nanosleep && r->r10) r->rdx = r->r10;
    r->rax = (unsigned long long)-512; /* ERESTARTSYS: the same call again */
}

void arch_abort_section(arch_regs *r, uint64_t start, uint64_t length, uint64_t abort) {
    if (r->rip - start < length) r->rip = abort;
}
