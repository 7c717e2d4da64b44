#include "jail/seccomp_policy.h"

#include <errno.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Allowed whatever their arguments. Grouped by what they are for. */
static const char *const allowed[] = {
    /* files by name and descriptor */
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "open", "openat",
    "openat2", "creat", "close", "close_range", "stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs", "lseek",
    "access", "faccessat", "faccessat2", "dup", "dup2", "dup3", "pipe", "pipe2", "fcntl", "flock", "fsync", "fdatasync",
    "sync_file_range", "syncfs", "sync", "truncate", "ftruncate", "fallocate", "fadvise64", "readahead", "getdents", "getdents64",
    "getcwd", "chdir", "fchdir", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "link", "linkat", "unlink",
    "unlinkat", "symlink", "symlinkat", "readlink", "readlinkat", "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown",
    "fchownat", "umask", "utime", "utimes", "utimensat", "futimesat", "mknod", "mknodat", "sendfile", "splice", "tee", "vmsplice",
    "copy_file_range", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "setxattr", "lsetxattr",
    "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "inotify_init", "inotify_init1", "inotify_add_watch",
    "inotify_rm_watch", "memfd_create", "cachestat",
    /* waiting */
    "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "eventfd", "eventfd2", "signalfd", "signalfd4", "timerfd_create", "timerfd_settime", "timerfd_gettime",
    /* memory */
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "mlock", "mlock2", "munlock", "mlockall",
    "munlockall", "membarrier", "pkey_alloc", "pkey_free", "pkey_mprotect", "get_mempolicy", "set_mempolicy", "mbind", "mseal",
    "memfd_secret", "map_shadow_stack",
    /* processes, threads, signals */
    "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "kill", "tkill", "tgkill", "rt_sigaction",
    "rt_sigprocmask", "rt_sigpending", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "sigaltstack", "pause", "alarm", "getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun",
    "timer_delete", "pidfd_open", "pidfd_send_signal", "set_tid_address", "set_robust_list", "get_robust_list", "rseq", "futex",
    "futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "arch_prctl", "prctl", "sched_yield", "sched_getaffinity",
    "sched_setaffinity", "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler", "sched_getattr",
    "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getpriority", "setpriority", "ioprio_get",
    "getrlimit", "getrusage", "times", "restart_syscall",
    /* identity (a cell holds no capability, so these change nothing that matters; cella-guest needs them) */
    "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "getpgid",
    "getpgrp", "setpgid", "getsid", "setsid", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups",
    "setfsuid", "setfsgid", "capget", "capset",
    /* time, machine */
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "uname", "sysinfo", "getcpu",
    "getrandom",
    /* sockets: socket() itself is below */
    "bind", "connect", "listen", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt", "shutdown", "sendto",
    "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg",
    /* System V IPC: the namespace is the cell's own. POSIX message queues are not here: Landlock refuses to open what mq_open has just made,
     * which stays, charged to the one owner of all cells. */
    "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl",
    /* the cell's own Landlock rules may be added to */
    "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp",
};

/* Refused with EPERM, so that a program says "not permitted" rather than "not implemented". */
static const char *const refused[] = {
    "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount",
    "fspick", "mount_setattr", "swapon", "swapoff", "reboot", "sethostname", "setdomainname", "init_module", "finit_module",
    "delete_module", "kexec_load", "kexec_file_load", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "keyctl", "add_key", "request_key", "ptrace", "process_vm_readv", "process_vm_writev",
    "process_madvise", "process_mrelease", "kcmp", "pidfd_getfd", "open_by_handle_at", "name_to_handle_at", "quotactl",
    "quotactl_fd", "acct", "iopl", "ioperm", "modify_ldt", "fanotify_init", "fanotify_mark", "syslog", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "move_pages", "migrate_pages", "vhangup", "ioprio_set", "sched_setattr",
    "lookup_dcookie", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl",
};

static int add_names(scmp_filter_ctx ctx, uint32_t action, const char *const *names, size_t n, struct err *e) {
    for (size_t i = 0; i < n; i++) {
        int nr = seccomp_syscall_resolve_name(names[i]);
        if (nr == __NR_SCMP_ERROR) continue; /* newer than this libseccomp: falls to ENOSYS */
        int rc = seccomp_rule_add(ctx, action, nr, 0);
        if (rc < 0 && rc != -EACCES) return err_sys(e, -rc, "seccomp rule for %s", names[i]);
    }
    return 0;
}

/* Rules that look at arguments. */
static int add_arguments(scmp_filter_ctx ctx) {
    const uint64_t namespaces = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
                                CLONE_NEWCGROUP | 0x80 /* CLONE_NEWTIME */;
    /* a context's parent is the keeper: children that are its siblings would be the keeper's to reap, as fast as code can make them */
    const uint64_t adopted = CLONE_PARENT | CLONE_PTRACE;
    int rc = 0;
    /* threads and processes, no namespaces; clone3 hides its flags in memory, so C libraries must fall back to clone */
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces | adopted, 0));
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    /* Local, IPv4 and IPv6 streams and datagrams. No netlink, not even to ask for addresses: what waits in its sockets is memory that no group
     * is charged for (measured: 829 MB of the host held by 2,000 sockets of a cell limited to 192 MB), and a cell has nothing but loopback. */
    static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    static const int families[] = {AF_INET, AF_INET6};
    /* no other protocol: the kernel would load its module (SCTP, SMC, L2TP…) for whoever asks */
    static const int protocols[] = {0, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6};
    for (size_t t = 0; t < 3; t++)
        rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2, SCMP_A0(SCMP_CMP_EQ, AF_UNIX),
                               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, (scmp_datum_t)types[t]));
    for (size_t f = 0; f < 2; f++)
        for (size_t t = 0; t < 2; t++)
            for (size_t p = 0; p < sizeof protocols / sizeof *protocols; p++)
                rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[f]),
                                       SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, (scmp_datum_t)types[t]),
                                       SCMP_A2(SCMP_CMP_EQ, (scmp_datum_t)protocols[p]));
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_NETLINK));
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    /* Every ioctl but TIOCSTI, which pushes input into a terminal. The kernel reads 32 bits of the request, and libseccomp compares 64 (its
     * _32 forms cut the datum, not the argument): rubbish in the upper half would pass. So: allowed is what differs from it in one bit. */
    for (unsigned bit = 0; bit < 32; bit++)
        rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 1u << bit, ~0x5412u & 1u << bit));
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, 0x5412));
    /* resource limits, all but that of core files, which keeps the host's core handler from running (keeper/host.h, HOST_NO_CORE) */
    for (unsigned resource = 0; resource < RLIM_NLIMITS; resource++) {
        uint32_t action = resource == RLIMIT_CORE ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_ALLOW;
        rc |= seccomp_rule_add(ctx, action, SCMP_SYS(setrlimit), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffff, resource));
        if (resource != RLIMIT_CORE)
            rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, resource));
    }
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 2, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, RLIMIT_CORE), SCMP_A2(SCMP_CMP_EQ, 0));
    rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 2, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, RLIMIT_CORE), SCMP_A2(SCMP_CMP_NE, 0));
    /* personality: ask, default, no address randomisation (debuggers) */
    static const uint64_t personas[] = {0xffffffff, PER_LINUX, ADDR_NO_RANDOMIZE};
    for (size_t i = 0; i < 3; i++)
        rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1, SCMP_A0(SCMP_CMP_EQ, personas[i]));
    return rc ? -1 : 0;
}

/* libseccomp writes a program to a descriptor only: read it back from a memory file. */
static int export_program(scmp_filter_ctx ctx, struct sock_fprog *out, struct err *e) {
    cleanup_close int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "memfd_create");
    int rc = seccomp_export_bpf(ctx, fd);
    if (rc < 0) return err_sys(e, -rc, "seccomp_export_bpf");
    off_t size = lseek(fd, 0, SEEK_END);
    if (size <= 0 || size % (off_t)sizeof(struct sock_filter)) return err_set(e, ERR_INTERNAL, "odd BPF program size");
    cleanup_free void *program = malloc((size_t)size);
    if (!program || pread(fd, program, (size_t)size, 0) != size) return err_set(e, ERR_INTERNAL, "cannot read the BPF program back");
    out->len = (unsigned short)((size_t)size / sizeof(struct sock_filter));
    out->filter = steal_ptr(&program);
    return 0;
}

int seccomp_policy_build(struct sock_fprog *out, struct err *e) {
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!ctx) return err_set(e, ERR_INTERNAL, "seccomp_init failed");
    /* other ABIs of the processor (32-bit, x32) have other call numbers: none of them is allowed */
    int rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
    (void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree: fewer instructions a call */
    if (!rc) rc = add_names(ctx, SCMP_ACT_ALLOW, allowed, sizeof allowed / sizeof *allowed, e);
    if (!rc) rc = add_names(ctx, SCMP_ACT_ERRNO(EPERM), refused, sizeof refused / sizeof *refused, e);
    if (!rc && add_arguments(ctx)) rc = err_set(e, ERR_INTERNAL, "seccomp rules with arguments were refused");
    if (!rc) rc = export_program(ctx, out, e);
    seccomp_release(ctx);
    return rc ? -1 : 0;
}
