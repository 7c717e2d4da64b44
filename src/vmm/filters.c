#include "vmm/filters.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "vmm/jail.h"

static struct sock_fprog program[FILTERS];

/* What a vCPU needs to run the guest and serve its exits: no descriptor can be made or received, no memory mapped, no process or thread made. */
static const int vcpu_calls[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(fdatasync),
                                 SCMP_SYS(recvfrom), SCMP_SYS(shutdown), SCMP_SYS(close), SCMP_SYS(epoll_ctl), SCMP_SYS(getrandom), SCMP_SYS(futex),
                                 SCMP_SYS(rt_sigreturn), SCMP_SYS(munmap), SCMP_SYS(brk), SCMP_SYS(clock_gettime), SCMP_SYS(exit), SCMP_SYS(exit_group)};
static const unsigned long vcpu_ioctls[] = {KVM_RUN, KVM_SIGNAL_MSI};

/* Besides those: the loop thread talks to the driver, makes machines, forks and writes snapshots. */
static const int loop_calls[] = {SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_create1), SCMP_SYS(eventfd2),
                                 SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(lseek), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(ftruncate),
                                 SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(pipe2),
                                 SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(restart_syscall), SCMP_SYS(fsync)};
static const unsigned long loop_ioctls[] = {
    KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_SUPPORTED_CPUID, KVM_SET_TSS_ADDR, KVM_ENABLE_CAP, KVM_SET_USER_MEMORY_REGION, KVM_CREATE_VCPU, KVM_SET_CPUID2,
    KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
    KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_CLOCK,
    KVM_SET_CLOCK, KVM_KVMCLOCK_CTRL, KVM_GET_DIRTY_LOG};

/* A thread of this process as pthread_create makes it, and a copy of this process as fork makes it: nothing else. */
#define THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)
#define COPY (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD)

static int allow(scmp_filter_ctx c, const int *call, size_t calls, const unsigned long *control, size_t controls) {
    int bad = 0;
    for (size_t i = 0; i < calls; i++) bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, call[i], 0);
    for (size_t i = 0; i < controls; i++)
        bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, control[i]));
    return bad;
}

static int allow_loop(scmp_filter_ctx c) {
    int bad = allow(c, loop_calls, sizeof loop_calls / sizeof *loop_calls, loop_ioctls, sizeof loop_ioctls / sizeof *loop_ioctls);
    bad |= seccomp_rule_add(c, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0); /* its flags cannot be read here: the C library then takes clone */
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_EQ, THREAD));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_EQ, COPY));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1, SCMP_A2(SCMP_CMP_EQ, MADV_HUGEPAGE));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1, SCMP_A2(SCMP_CMP_EQ, MADV_DONTDUMP));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1, SCMP_A2(SCMP_CMP_EQ, MADV_WILLNEED));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1, SCMP_A2(SCMP_CMP_EQ, MADV_POPULATE_READ));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A2(SCMP_CMP_EQ, SIGUSR1));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_SETFL));
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_SECCOMP)); /* a vCPU's own filter */
    bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_DUMPABLE));
    if (jail_may_change_user()) { /* a template's, whose children become other users: each needs the capability, which a child loses */
        bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(setresuid), 0);
        bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(setresgid), 0);
        bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(capset), 0);
    }
    return bad;
}

/* Compile to BPF: libseccomp writes programs to descriptors only. */
static int compile(scmp_filter_ctx c, struct sock_fprog *out, struct err *e) {
    cleanup_close int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0 || seccomp_export_bpf(c, fd) < 0) return err_sys(e, fd < 0 ? errno : EIO, "compile a system call filter");
    const off_t bytes = lseek(fd, 0, SEEK_END);
    out->filter = malloc((size_t)bytes);
    if (!out->filter || pread(fd, out->filter, (size_t)bytes, 0) != bytes) return err_sys(e, EIO, "read a system call filter");
    out->len = (unsigned short)((size_t)bytes / sizeof *out->filter);
    return 0;
}

int filters_build(struct err *e) {
    for (enum filter f = FILTER_LOOP; f < FILTERS; f++) {
        scmp_filter_ctx c = seccomp_init(SCMP_ACT_KILL_PROCESS);
        if (!c) return err_sys(e, ENOMEM, "system call filter");
        int bad = allow(c, vcpu_calls, sizeof vcpu_calls / sizeof *vcpu_calls, vcpu_ioctls, sizeof vcpu_ioctls / sizeof *vcpu_ioctls);
        if (f == FILTER_LOOP) bad |= allow_loop(c);
        bad |= seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1, SCMP_A2(SCMP_CMP_EQ, MADV_DONTNEED)); /* a page that the guest gave back */
        const int built = bad ? err_set(e, ERR_INTERNAL, "a system call filter cannot be built") : compile(c, &program[f], e);
        seccomp_release(c);
        if (built < 0) return -1;
    }
    return 0;
}

int filters_apply(enum filter f, struct err *e) {
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program[f], 0, 0) < 0 ? err_sys(e, errno, "load a system call filter") : 0;
}
