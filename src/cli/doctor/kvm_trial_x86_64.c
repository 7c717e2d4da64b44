#include "cli/doctor/kvm_trial.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY_BYTES 0x200000
#define PORT 0x10
/* Guest physical layout */
#define CODE 0x1000
#define PML4 0x2000
#define PDPT 0x3000
#define PD 0x4000
#define IDT 0x5000
#define GDT 0x6000
#define HANDLER 0x7000
#define USER 0x8000
#define STACK 0x9ff0
#define TSS 0xa000
/* 0xb000: the user's stack; it, USER and PORT stand in the program below as numbers too */

struct machine {
    int kvm, vm, cpu;
    uint8_t *memory;
    struct kvm_run *run;
};

static int failed(char *why, size_t room, const char *what) {
    (void)snprintf(why, room, "%s: %s", what, strerror(errno));
    return -1;
}

static int make(struct machine *m, char *why, size_t room) {
    if (ioctl(m->kvm, KVM_GET_API_VERSION, 0) != 12) return failed(why, room, "its API is not version 12");
    if ((m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0)) < 0) return failed(why, room, "KVM_CREATE_VM");
    m->memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->memory == MAP_FAILED) return failed(why, room, "memory");
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_BYTES, .userspace_addr = (uintptr_t)m->memory};
    if (ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) return failed(why, room, "KVM_SET_USER_MEMORY_REGION");
    if ((m->cpu = ioctl(m->vm, KVM_CREATE_VCPU, 0)) < 0) return failed(why, room, "KVM_CREATE_VCPU");
    int size = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = size > 0 ? mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, m->cpu, 0) : MAP_FAILED;
    return m->run == MAP_FAILED ? failed(why, room, "KVM_GET_VCPU_MMAP_SIZE") : 0;
}

/* Run until the program wrote `expected` to the port and halted. */
static int run_until(struct machine *m, char expected, const char *stage, char *why, size_t room) {
    bool said = false;
    for (int exits = 0; exits < 100; exits++) {
        if (ioctl(m->cpu, KVM_RUN, 0) < 0) {
            if (errno == EINTR) continue;
            (void)snprintf(why, room, "%s: KVM_RUN: %s", stage, strerror(errno));
            return -1;
        }
        const struct kvm_run *run = m->run;
        if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT && run->io.port == PORT) {
            said = ((const char *)run)[run->io.data_offset] == expected;
        } else if (run->exit_reason == KVM_EXIT_HLT) {
            if (said) return 0;
            (void)snprintf(why, room, "%s: the program halted without its sign of life", stage);
            return -1;
        } else {
            (void)snprintf(why, room, "%s: the CPU stopped with exit reason %u", stage, run->exit_reason);
            return -1;
        }
    }
    (void)snprintf(why, room, "%s: the program does not come to its end", stage);
    return -1;
}

/* The two guest programs. Both end with a letter on the port and hlt. */
__asm__(".pushsection .rodata\n"
        "cella_trial_real: .code16\n"
        "  mov $'A', %al; out %al, $0x10; hlt\n"
        "cella_trial_real_end:\n"
        "cella_trial_long: .code64\n"
        "  xor %eax, %eax; cpuid\n"
        "  mov $0xc0000102, %ecx; mov $0x12345678, %eax; xor %edx, %edx; wrmsr\n" /* KERNEL_GS_BASE */
        "  xor %eax, %eax; rdmsr; cmp $0x12345678, %eax; jne 1f\n"
        "  mov %cs, %eax; test $3, %al; jne 1f\n"                       /* privilege level 0 */
        "  sti; nop; pushfq; pop %rax; cli; test $0x200, %eax; je 1f\n" /* the interrupt flag can be set */
        "  mov %cr3, %rax; mov %rax, %cr3\n"
        "  mov $0x40, %eax; ltr %ax\n" /* fails, and ends the trial, without a real descriptor table */
        "  pushq $0x1b; pushq $0xb000; pushq $2; pushq $0x23; pushq $0x8000; iretq\n" /* to the user program */
        "1: hlt\n"
        "cella_trial_long_end:\n"
        "cella_trial_user: ud2\n" /* user mode; the exception leads back to privilege level 0 */
        "cella_trial_user_end:\n"
        "cella_trial_handler:\n"
        "  mov 8(%rsp), %rax; and $3, %al; cmp $3, %al; jne 1f\n" /* it came from user mode */
        "  mov $'B', %al; out %al, $0x10\n"
        "1: hlt\n"
        "cella_trial_handler_end:\n"
        ".popsection\n");
extern const uint8_t cella_trial_real[], cella_trial_real_end[], cella_trial_long[], cella_trial_long_end[],
    cella_trial_user[], cella_trial_user_end[], cella_trial_handler[], cella_trial_handler_end[];

static void put(struct machine *m, uint32_t at, const uint8_t *from, const uint8_t *end) {
    memcpy(m->memory + at, from, (size_t)(end - from));
}
static void put64(struct machine *m, uint32_t at, uint64_t value) { memcpy(m->memory + at, &value, sizeof value); }

static int real_mode(struct machine *m, char *why, size_t room) {
    put(m, CODE, cella_trial_real, cella_trial_real_end);
    struct kvm_sregs s;
    struct kvm_regs g = {.rip = CODE, .rflags = 2};
    if (ioctl(m->cpu, KVM_GET_SREGS, &s) < 0) return failed(why, room, "KVM_GET_SREGS");
    s.cs.base = 0;
    s.cs.selector = 0;
    if (ioctl(m->cpu, KVM_SET_SREGS, &s) < 0 || ioctl(m->cpu, KVM_SET_REGS, &g) < 0)
        return failed(why, room, "KVM_SET_SREGS");
    return run_until(m, 'A', "real mode", why, room);
}

/* Page tables (identity, one 2 MiB page, user may), descriptor tables, a task segment for the way back, the programs.
 */
static void lay_out(struct machine *m) {
    put(m, CODE, cella_trial_long, cella_trial_long_end);
    put(m, USER, cella_trial_user, cella_trial_user_end);
    put(m, HANDLER, cella_trial_handler, cella_trial_handler_end);
    put64(m, PML4, PDPT | 7);
    put64(m, PDPT, PD | 7);
    put64(m, PD, 0x87);
    put64(m, GDT + 0x08, 0x00af9b000000ffff); /* kernel code */
    put64(m, GDT + 0x10, 0x00cf93000000ffff); /* kernel data */
    put64(m, GDT + 0x18, 0x00cff3000000ffff); /* user data */
    put64(m, GDT + 0x20, 0x00affb000000ffff); /* user code */
    put64(m, GDT + 0x40, 0x0000890000000067 | (uint64_t)TSS << 16);
    put64(m, TSS + 4, STACK); /* rsp0 */
    put64(m, IDT + 6 * 16, HANDLER | (uint64_t)8 << 16 | (uint64_t)0x8e00 << 32);
}

static int long_mode(struct machine *m, char *why, size_t room) {
    lay_out(m);
    struct kvm_sregs s;
    struct kvm_regs g = {.rip = CODE, .rsp = STACK, .rflags = 2};
    if (ioctl(m->cpu, KVM_GET_SREGS, &s) < 0) return failed(why, room, "KVM_GET_SREGS");
    struct kvm_segment code = {.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.gdt = (struct kvm_dtable){.base = GDT, .limit = 0x4f};
    s.idt = (struct kvm_dtable){.base = IDT, .limit = 255};
    s.cr0 = 0x80000033; /* PE MP ET NE PG */
    s.cr3 = PML4;
    s.cr4 = 0x20;   /* PAE */
    s.efer = 0x500; /* LME LMA */
    if (ioctl(m->cpu, KVM_SET_SREGS, &s) < 0 || ioctl(m->cpu, KVM_SET_REGS, &g) < 0)
        return failed(why, room, "64-bit mode: KVM_SET_SREGS");
    return run_until(m, 'B', "64-bit mode", why, room);
}

/* CPUID as the host offers it: without it a guest has no long mode. */
static int give_cpuid(struct machine *m, char *why, size_t room) {
    const uint32_t most = 256; /* entries; a host has about 60 */
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + most * sizeof cpuid->entries[0]);
    if (!cpuid) return failed(why, room, "memory");
    cpuid->nent = most;
    int result = 0;
    if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
        result = failed(why, room, "KVM_GET_SUPPORTED_CPUID");
    else if (ioctl(m->cpu, KVM_SET_CPUID2, cpuid) < 0)
        result = failed(why, room, "KVM_SET_CPUID2");
    free(cpuid);
    return result;
}

int kvm_trial(void *unused, char *why, size_t room) {
    (void)unused;
    struct machine m = {.vm = -1, .cpu = -1};
    m.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (m.kvm < 0) {
        (void)snprintf(why, room, "%s", strerror(errno));
        return errno == EACCES || errno == EPERM ? KVM_TRIAL_NO_ACCESS : KVM_TRIAL_NO_DEVICE;
    }
    /* The CPUID first: it cannot be changed once the CPU ran. */
    if (make(&m, why, room) < 0 || give_cpuid(&m, why, room) < 0) return KVM_TRIAL_NO_MACHINE;
    if (real_mode(&m, why, room) < 0) return KVM_TRIAL_REAL_MODE;
    if (long_mode(&m, why, room) < 0) return KVM_TRIAL_LONG_MODE;
    return KVM_TRIAL_OK;
}
