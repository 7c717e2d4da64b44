/* Namespaces, ptrace and chosen thread ids: tried in children, as the keeper will do them. */
#include <elf.h>
#include <errno.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/doctor/report.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f /* Linux 5.13 */
#endif

#define TRIAL_MS 5000
static const char group[] = "Process driver";

/* ---- user namespaces, made by a user without privileges, as the keeper's helper does ---- */

static int try_namespaces(void *arg, char *why, size_t room) {
    (void)arg;
    const uid_t nobody = 65534;
    if (geteuid() == 0 &&
        (setgroups(0, NULL) < 0 || setresgid(nobody, nobody, nobody) < 0 || setresuid(nobody, nobody, nobody) < 0)) {
        (void)snprintf(why, room, "cannot drop privileges: %s", strerror(errno));
        return 1;
    }
    if (unshare(CLONE_NEWUSER) < 0) {
        (void)snprintf(why, room, "%s", strerror(errno));
        return errno == ENOSPC ? 2 : 1;
    }
    if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) == 0)
        return 0;
    (void)snprintf(why, room, "the namespaces inside: %s", strerror(errno));
    return 3;
}

static void namespaces(struct report *r) {
    char why[256], value[64];
    int result = probe_child(try_namespaces, NULL, TRIAL_MS, why, sizeof why);
    if (result == 0) {
        (void)report_add(r, group, "user namespaces", FINDING_OK, "a user without privileges can make all seven kinds");
        return;
    }
    struct finding *f = report_add(r, group, "user namespaces", FINDING_MISSING, "cannot be made: %s", why);
    if (strcmp(probe_read("/proc/sys/kernel/unprivileged_userns_clone", value, sizeof value), "0") == 0)
        finding_remedy(f, "sysctl -w kernel.unprivileged_userns_clone=1");
    else if (strcmp(probe_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", value, sizeof value), "1") ==
             0)
        finding_remedy(f, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    else if (result == 2)
        finding_remedy(f, "raise user.max_user_namespaces (now %s)",
                       probe_read("/proc/sys/user/max_user_namespaces", value, sizeof value));
    else
        finding_remedy(
            f, "a kernel with CONFIG_USER_NS; inside a container, its seccomp profile and capabilities must allow it");
}

/* ---- ptrace, as the sentinel's keeper uses it ---- */

static int try_ptrace(void *arg, char *why, size_t room) {
    (void)arg;
    pid_t pid = fork();
    if (pid == 0)
        for (;;) pause();
    bool root = geteuid() == 0;
    unsigned long options =
        PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL | (root ? PTRACE_O_SUSPEND_SECCOMP : 0);
    const char *step = "PTRACE_SEIZE";
    int status, failed = 0;
    uint8_t xstate[16384];
    uint64_t rseq[4];
    struct iovec io = {xstate, sizeof xstate};
    if (ptrace(PTRACE_SEIZE, pid, 0, options) < 0)
        failed = 1;
    else if (step = "PTRACE_INTERRUPT", ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 || waitpid(pid, &status, 0) != pid)
        failed = 1;
    else if (step = "registers (NT_X86_XSTATE)", ptrace(PTRACE_GETREGSET, pid, (void *)(long)NT_X86_XSTATE, &io) < 0)
        failed = 1;
    else if (step = "rseq configuration", ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, (void *)sizeof rseq, rseq) < 0)
        failed = 1;
    if (failed) (void)snprintf(why, room, "%s: %s", step, strerror(errno));
    (void)kill(pid, SIGKILL);
    return failed;
}

static void tracing(struct report *r) {
    char why[256], scope[16];
    if (probe_child(try_ptrace, NULL, TRIAL_MS, why, sizeof why) == 0) {
        (void)report_add(r, group, "ptrace", FINDING_OK, "seize, interrupt, extended registers, rseq%s",
                         geteuid() == 0 ? ", suspended seccomp" : "");
        return;
    }
    struct finding *f = report_add(r, group, "ptrace", FINDING_MISSING, "%s", why[0] ? why : "the trial hung");
    if (strcmp(probe_read("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof scope), "3") == 0)
        finding_remedy(f, "kernel.yama.ptrace_scope is 3, which only a reboot undoes: remove it from sysctl.d");
    else
        finding_remedy(f, "CAP_SYS_PTRACE, and a kernel from 5.13 on with CONFIG_CHECKPOINT_RESTORE");
}

/* ---- clone3 with a chosen pid: how threads get their old ids back ---- */

static int first_of_namespace(void) {
    pid_t wanted = 4242;
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) _exit(getpid() == 4242 ? 0 : 1);
    if (pid < 0) return errno;
    int status = 0;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EINVAL;
}

static int try_set_tid(void *arg, char *why, size_t room) {
    (void)arg;
    if (unshare(geteuid() == 0 ? CLONE_NEWPID : CLONE_NEWUSER | CLONE_NEWPID) < 0) {
        (void)snprintf(why, room, "a pid namespace: %s", strerror(errno));
        return 1;
    }
    pid_t pid = fork();
    if (pid == 0) _exit(first_of_namespace() & 0x7f);
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    (void)snprintf(why, room, "%s", strerror(WIFEXITED(status) ? WEXITSTATUS(status) : EIO));
    return 1;
}

static void chosen_ids(struct report *r) {
    char why[256];
    if (probe_child(try_set_tid, NULL, TRIAL_MS, why, sizeof why) == 0)
        (void)report_add(r, group, "clone3 set_tid", FINDING_OK, "a process got the id it asked for");
    else
        finding_remedy(report_add(r, group, "clone3 set_tid", FINDING_MISSING, "%s", why[0] ? why : "the trial hung"),
                       "a kernel from 5.5 on; inside a container its seccomp profile must allow clone3");
}

void probe_process(struct report *r) {
    namespaces(r);
    tracing(r);
    chosen_ids(r);
}
