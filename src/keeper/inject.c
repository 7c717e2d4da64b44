#include "keeper/inject.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

size_t batch_add(struct batch *b, long nr, long a0, long a1, long a2, long a3, long a4) {
    struct stub_call *c = &b->call[b->n];
    *c = (struct stub_call){.nr = (uint64_t)nr,
                            .arg = {(uint64_t)a0, (uint64_t)a1, (uint64_t)a2, (uint64_t)a3, (uint64_t)a4, 0}};
    return b->n++;
}

void batch_try(struct batch *b, long nr, long a0, long a1, long a2, long a3, long a4) {
    size_t i = batch_add(b, nr, a0, a1, a2, a3, a4);
    b->call[i].ignore = 1;
}

static volatile sig_atomic_t expired;
static void on_alarm(int signo) {
    (void)signo;
    expired = 1;
}

/* SIGALRM without SA_RESTART ends a waitpid that would never return. It repeats, in case it strikes just before the wait. */
void inject_deadline(unsigned ms) {
    static bool armed;
    if (!armed) {
        struct sigaction sa = {.sa_handler = on_alarm};
        sigaction(SIGALRM, &sa, NULL);
        armed = true;
    }
    expired = 0;
    struct itimerval t = {.it_value = {ms / 1000, (ms % 1000) * 1000}};
    if (ms) t.it_interval.tv_usec = 100000;
    setitimer(ITIMER_REAL, &t, NULL);
}

/* ---- one processor ---- */

static struct affinity keepers_own, here;
static bool staying;

void inject_stay(bool on) {
    if (on == staying) return;
    int cpu = on ? sched_getcpu() : -1;
    if (on && (cpu < 0 || cpu >= 1024 || sched_getaffinity(0, sizeof keepers_own, (cpu_set_t *)keepers_own.bits))) return;
    if (on) {
        here = (struct affinity){0};
        here.bits[cpu / 64] = 1ull << (cpu % 64);
    }
    staying = on && !sched_setaffinity(0, sizeof here, (cpu_set_t *)here.bits);
    if (!on) (void)sched_setaffinity(0, sizeof keepers_own, (cpu_set_t *)keepers_own.bits);
}

void inject_here(pid_t pid, struct affinity *old) {
    if (old) *old = (struct affinity){0};
    if (!staying) return;
    if (old && sched_getaffinity(pid, sizeof *old, (cpu_set_t *)old->bits)) return;
    (void)sched_setaffinity(pid, sizeof here, (cpu_set_t *)here.bits);
}

void inject_back(pid_t pid, const struct affinity *a) {
    static const struct affinity none;
    const bool known = a && memcmp(a, &none, sizeof none);
    if (!known && !staying) return;
    (void)sched_setaffinity(pid, sizeof keepers_own, (cpu_set_t *)(uintptr_t)(known ? a : &keepers_own)->bits);
}

/* A stop is taken; an end is only looked at. Who ended may be a context, and the server's loop must hear of it (reap); until then nobody else gets the number. */
static int wait_status(pid_t pid, int *status, struct err *e) {
    for (;;) {
        siginfo_t seen = {0};
        if (!waitid(P_PID, (id_t)pid, &seen, WEXITED | WSTOPPED | __WALL | WNOWAIT)) {
            const bool exited = seen.si_code == CLD_EXITED;
            *status = exited ? (seen.si_status & 0xff) << 8 : seen.si_status & 0x7f;
            if (exited || seen.si_code == CLD_KILLED || seen.si_code == CLD_DUMPED) return 0;
            seen = (siginfo_t){0};
            if (waitid(P_PID, (id_t)pid, &seen, WSTOPPED | __WALL | WNOHANG) || !seen.si_pid) continue; /* killed in this moment */
            *status = seen.si_status << 8 | 0x7f; /* as waitpid(2) has it */
            return 0;
        }
        if (errno != EINTR) return err_sys(e, errno, "wait for task %d", pid);
        if (expired) return err_set(e, ERR_INTERNAL, "task %d did not stop in time", pid);
    }
}

int task_wait_stop(pid_t pid, int *event, int *signo, struct err *e) {
    int status;
    if (wait_status(pid, &status, e)) return -1;
    if (!WIFSTOPPED(status)) return err_set(e, ERR_LOST, "task %d ended (status %#x)", pid, status);
    if (event) *event = status >> 16;
    if (signo) *signo = WSTOPSIG(status);
    return 0;
}

int task_read(pid_t pid, uint64_t address, void *out, size_t n, struct err *e) {
    struct iovec local = {out, n}, remote = {(void *)address, n};
    if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)n) return err_sys(e, errno, "read memory of task %d", pid);
    return 0;
}

int task_write(pid_t pid, uint64_t address, const void *data, size_t n, struct err *e) {
    struct iovec local = {(void *)(uintptr_t)data, n}, remote = {(void *)address, n};
    if (process_vm_writev(pid, &local, 1, &remote, 1, 0) != (ssize_t)n) return err_sys(e, errno, "write memory of task %d", pid);
    return 0;
}

int task_get_regs(pid_t pid, arch_regs *r, struct err *e) {
    return ptrace(PTRACE_GETREGS, pid, 0, r) ? err_sys(e, errno, "registers of task %d", pid) : 0;
}

int task_set_regs(pid_t pid, const arch_regs *r, struct err *e) {
    return ptrace(PTRACE_SETREGS, pid, 0, r) ? err_sys(e, errno, "set registers of task %d", pid) : 0;
}

/* The code that is about to run in the keeper's name must be ours to the byte. */
static int verify_stub(pid_t pid, struct err *e) {
    uint8_t seen[256];
    if (task_read(pid, STUB_CODE, seen, arch_stub_size, e)) /* MADV_DONTFORK, by a process that shares the memory and was not stopped */
        return e->sys_errno == EFAULT ? err_set(e, ERR_CONFLICT, "the context keeps the injected code out of its copies, and cannot be copied") : -1;
    if (memcmp(seen, arch_stub, arch_stub_size)) return err_set(e, ERR_LOST, "the injected code of task %d was changed", pid);
    return 0;
}

static int resume(pid_t pid, struct err *e) {
    return ptrace(PTRACE_CONT, pid, 0, 0) ? err_sys(e, errno, "continue task %d", pid) : 0;
}

/* Let pid run to the breakpoint behind its calls; tasks that it makes are attached by the kernel and left in their first stop. */
static int run_to_breakpoint(pid_t pid, pid_t *child, struct err *e) {
    if (resume(pid, e)) return -1;
    for (;;) {
        int event, signo;
        if (task_wait_stop(pid, &event, &signo, e)) return -1;
        if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
            unsigned long made = 0;
            if (ptrace(PTRACE_GETEVENTMSG, pid, 0, &made)) return err_sys(e, errno, "pid of the new task");
            if (child) *child++ = (pid_t)made;
            if (task_wait_stop((pid_t)made, NULL, NULL, e)) return -1;
        } else if (!event && signo == SIGTRAP) {
            return 0;
        } else if (!event) {
            return err_set(e, ERR_LOST, "task %d got signal %d in an injected call", pid, signo);
        }
        if (resume(pid, e)) return -1;
    }
}

int inject_single(pid_t pid, const arch_regs *base, long nr, const long arg[6], long *result, pid_t *child, struct err *e) {
    arch_regs r;
    if (verify_stub(pid, e)) return -1;
    arch_enter_single(&r, base, nr, arg);
    if (task_set_regs(pid, &r, e) || run_to_breakpoint(pid, child, e) || task_get_regs(pid, &r, e)) return -1;
    if (!arch_single_done(&r)) return err_set(e, ERR_LOST, "task %d left the injected code", pid);
    *result = arch_result(&r);
    return 0;
}

int inject_ask(pid_t pid, const arch_regs *base, struct stub_told *told, struct err *e) {
    arch_regs r;
    if (verify_stub(pid, e)) return -1;
    arch_enter_ask(&r, base);
    if (task_set_regs(pid, &r, e) || run_to_breakpoint(pid, NULL, e) || task_get_regs(pid, &r, e)) return -1;
    if (!arch_ask_done(&r)) return err_set(e, ERR_LOST, "task %d left the injected code", pid);
    if (arch_asked(&r)) return err_set(e, ERR_INTERNAL, "task %d cannot tell its state", pid);
    return task_read(pid, STUB_SCRATCH, told, sizeof *told, e);
}

int inject_at(pid_t pid, const arch_regs *base, uint64_t address, long nr, const long arg[6], long *result, struct err *e) {
    arch_regs r;
    arch_enter_at(&r, base, address, nr, arg);
    if (task_set_regs(pid, &r, e)) return -1;
    if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0)) return err_sys(e, errno, "step task %d", pid);
    if (task_wait_stop(pid, NULL, NULL, e) || task_get_regs(pid, &r, e)) return -1;
    *result = arch_result(&r);
    return 0;
}

int inject_table(pid_t pid, const arch_regs *base, struct batch *b, pid_t *child, struct err *e) {
    arch_regs r;
    size_t bytes = b->n * sizeof b->call[0];
    if (verify_stub(pid, e) || task_write(pid, STUB_DATA, b->call, bytes, e)) return -1;
    arch_enter_batch(&r, base, b->n);
    if (task_set_regs(pid, &r, e) || run_to_breakpoint(pid, child, e)) return -1;
    return task_read(pid, STUB_DATA, b->call, bytes, e);
}

int inject_batch(pid_t pid, const arch_regs *base, struct batch *b, pid_t *child, struct err *e) {
    if (inject_table(pid, base, b, child, e)) return -1;
    for (size_t i = 0; i < b->n; i++)
        if (b->call[i].ret < 0 && !b->call[i].ignore)
            return err_sys(e, (int)-b->call[i].ret, "injected call %zu (number %d) in task %d", i, (int)b->call[i].nr, pid);
    return 0;
}

int inject_exit(pid_t pid, const arch_regs *base, struct err *e) {
    struct batch b = {.n = 0};
    arch_regs r;
    int status;
    batch_add(&b, SYS_exit, 0, 0, 0, 0, 0);
    if (verify_stub(pid, e) || task_write(pid, STUB_DATA, b.call, sizeof b.call[0], e)) return -1;
    arch_enter_batch(&r, base, 1);
    if (task_set_regs(pid, &r, e) || resume(pid, e)) return -1;
    do {
        if (wait_status(pid, &status, e)) return -1;
        if (WIFSTOPPED(status) && resume(pid, e)) return -1;
    } while (WIFSTOPPED(status));
    (void)waitpid(pid, NULL, __WALL);
    return 0;
}
