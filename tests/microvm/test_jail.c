/* The jail of the VMM, from inside: each child enters it as main.c does and tries one thing. Needs root, as cella-vmm does. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/filters.h"
#include "vmm/jail.h"

#define USER 64321

static int kvm_fd;

/* How a child ended that entered the jail, applied the filters up to `last`, and then did `what`. */
static int ended(enum filter last, int (*what)(void)) {
    const pid_t pid = fork();
    if (pid == 0) {
        struct err e;
        if (jail_enter(USER, USER, false, &e) < 0 || filters_build(&e) < 0) _exit(100);
        for (enum filter f = FILTER_LOOP; f <= last; f++)
            if (filters_apply(f, &e) < 0) _exit(101);
        syscall(SYS_exit_group, what());
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int is_killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS; }
static int is_exit(int status, int code) { return WIFEXITED(status) && WEXITSTATUS(status) == code; }

/* ---- what a taken-over VMM would like to do ---- */

static int do_open(void) { return (int)syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY); }
static int do_socket(void) { return (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }
static int do_exec(void) { return (int)syscall(SYS_execve, "/", NULL, NULL); }
static int do_ptrace(void) { return (int)syscall(SYS_ptrace, 0, 0, 0, 0); }
static int do_read_other(void) { return (int)syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0); }
static int do_kill(void) { return (int)syscall(SYS_kill, 1, 0); }
static int do_kill_thread(void) { return (int)syscall(SYS_tgkill, syscall(SYS_getpid), syscall(SYS_gettid), SIGKILL); }
static int do_user(void) { return (int)syscall(SYS_setresuid, 0, 0, 0); }
static int do_namespace(void) { return (int)syscall(SYS_unshare, 0x10000000); }
static int do_namespace_clone(void) { return (int)syscall(SYS_clone, 0x10000000 | SIGCHLD, 0, 0, 0, 0); }
static int do_executable(void) { return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED; }
static int do_make_executable(void) { return mprotect((void *)((uintptr_t)&kvm_fd & ~4095ul), 4096, PROT_READ | PROT_WRITE | PROT_EXEC); }
static int do_io_uring(void) { return (int)syscall(SYS_io_uring_setup, 1, NULL); }
static int do_bpf(void) { return (int)syscall(SYS_bpf, 0, NULL, 0); }
static int do_other_ioctl(void) { return ioctl(kvm_fd, KVM_CREATE_PIT2, NULL); }
static int do_terminal(void) { return ioctl(0, 0x5412 /* TIOCSTI */, "x"); }
static int do_userfault(void) { return (int)syscall(SYS_userfaultfd, 0); }

static int do_map(void) { return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED; }
static int do_create_vm(void) { return ioctl(kvm_fd, KVM_CREATE_VM, 0) < 0; }
static int do_fork(void) { return (int)syscall(SYS_clone, 0x01200000 | SIGCHLD, 0, 0, 0, 0) < 0; }
static int do_message(void) { return (int)syscall(SYS_recvmsg, -1, NULL, 0) != -1; }
static int do_write(void) { return (int)syscall(SYS_write, -1, NULL, 0) != -1; }
static int do_wait_events(void) { return (int)syscall(SYS_epoll_wait, -1, NULL, 0, 0) != -1; }

static void forbidden_calls_kill(void **state) {
    (void)state;
    int (*const forbidden[])(void) = {do_open, do_socket, do_exec, do_ptrace, do_read_other, do_kill, do_kill_thread, do_user, do_namespace, do_namespace_clone,
                                      do_executable, do_make_executable, do_io_uring, do_bpf, do_other_ioctl, do_terminal, do_userfault};
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        const int loop = ended(FILTER_LOOP, forbidden[i]), vcpu = ended(FILTER_VCPU, forbidden[i]);
        if (!is_killed(loop) || !is_killed(vcpu)) fail_msg("forbidden call %zu: %#x, %#x", i, loop, vcpu);
    }
}

static void loop_may_and_vcpu_may_not(void **state) {
    (void)state;
    int (*const loop_only[])(void) = {do_map, do_create_vm, do_fork, do_message, do_wait_events};
    for (size_t i = 0; i < sizeof loop_only / sizeof *loop_only; i++) {
        const int loop = ended(FILTER_LOOP, loop_only[i]), vcpu = ended(FILTER_VCPU, loop_only[i]);
        if (!is_exit(loop, 0) || !is_killed(vcpu)) fail_msg("call %zu: %#x, %#x", i, loop, vcpu);
    }
    assert_true(is_exit(ended(FILTER_VCPU, do_write), 0));
}

/* ---- without the filters: what the rest of the jail leaves ---- */

static int in_jail(int (*what)(void), bool children) {
    const pid_t pid = fork();
    if (pid == 0) {
        struct err e;
        _exit(jail_enter(USER, USER, children, &e) < 0 ? 100 : what());
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int root_is_empty(void) {
    const char *const names[] = {"/dev", "/proc", "/etc/passwd", "/usr", "/tmp", "..", "/../dev/kvm"};
    struct stat st;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], "..") && stat(names[i], &st) == 0) return 1;
    if (mkdir("/x", 0700) == 0 || open("/x", O_CREAT | O_WRONLY, 0600) >= 0) return 2;
    return stat("/", &st) == 0 && st.st_nlink == 2 ? 0 : 3;
}

static int is_nobody(void) {
    FILE *none = fopen("/proc/self/status", "r"); /* not there */
    if (none) return 1;
    if (getuid() != USER || geteuid() != USER || getgid() != USER || getgroups(0, NULL) != 0) return 2;
    if (setresuid(0, 0, 0) == 0 || setgid(0) == 0 || chroot("/") == 0) return 3;
    return socket(AF_INET, SOCK_DGRAM, 0) < 0 ? 4 : 0; /* a socket can be made; there is nowhere to go: below */
}

static int network_is_empty(void) {
    const unsigned char to[16] = {2, 0, 0, 9, 127, 0, 0, 1}; /* 127.0.0.1 */
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    return connect(fd, (const struct sockaddr *)to, sizeof to) < 0 && errno == ENETUNREACH ? 0 : 1;
}

static int child_becomes(void) {
    struct err e;
    if (jail_become(0, 0, &e) == 0) return 1;
    if (jail_become(USER + 1, USER + 1, &e) < 0) return 2;
    if (getuid() != USER + 1 || setresuid(USER, USER, USER) == 0) return 3;
    return jail_become(USER, USER, &e) == 0 ? 4 : 0;
}

static int may_not_become(void) {
    struct err e;
    return jail_become(USER + 1, USER + 1, &e) == 0;
}

static void nothing_is_left(void **state) {
    (void)state;
    assert_true(is_exit(in_jail(root_is_empty, false), 0));
    assert_true(is_exit(in_jail(is_nobody, false), 0));
    assert_true(is_exit(in_jail(network_is_empty, false), 0));
    assert_true(is_exit(in_jail(may_not_become, false), 0));
    assert_true(is_exit(in_jail(child_becomes, true), 0));
}

static void root_is_refused(void **state) {
    struct err e;
    (void)state;
    assert_int_equal(jail_enter(0, USER, false, &e), -1);
    assert_int_equal(jail_enter(USER, 0, false, &e), -1);
}

int main(void) {
    kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (geteuid() != 0 || kvm_fd < 0) {
        fprintf(stderr, "needs root and /dev/kvm\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(forbidden_calls_kill), cmocka_unit_test(loop_may_and_vcpu_may_not), cmocka_unit_test(nothing_is_left),
                                       cmocka_unit_test(root_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
