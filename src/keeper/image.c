#include "keeper/image.h"

#include <errno.h>
#include <dirent.h>
#include <elf.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper/host.h"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

static const uint64_t all_signals = ~0ull;

static void read_name(pid_t tid, char name[16]) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/comm", tid);
    cleanup_file FILE *f = fopen(path, "re");
    name[0] = 0;
    if (f && fgets(name, 16, f)) name[strcspn(name, "\n")] = 0;
}

static unsigned read_umask(pid_t pid) {
    char path[64], line[128];
    unsigned mask = 022;
    (void)snprintf(path, sizeof path, "/proc/%d/status", pid);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Umask: %o", &mask) == 1) break;
    return mask;
}

/* What only the thread itself can tell: its alternate signal stack and the address cleared at its end. */
static int ask_thread(struct image_thread *t, struct err *e) {
    long result;
    struct {
        stack_t stack;
        uint64_t clear_tid;
    } answer;
    const long alt[6] = {0, (long)STUB_SCRATCH};
    const long tid[6] = {PR_GET_TID_ADDRESS, (long)(STUB_SCRATCH + sizeof(stack_t))};
    if (inject_single(t->host_tid, &t->regs, SYS_sigaltstack, alt, &result, NULL, e)) return -1;
    if (result) return err_sys(e, (int)-result, "sigaltstack in task %d", t->host_tid);
    if (inject_single(t->host_tid, &t->regs, SYS_prctl, tid, &result, NULL, e)) return -1;
    if (result) return err_sys(e, (int)-result, "PR_GET_TID_ADDRESS in task %d", t->host_tid);
    if (task_read(t->host_tid, STUB_SCRATCH, &answer, sizeof answer, e)) return -1;
    t->altstack = answer.stack;
    t->clear_tid = answer.clear_tid;
    return 0;
}

static int capture_thread(struct image_thread *t, pid_t tid, struct err *e) {
    t->host_tid = tid;
    if (task_get_regs(tid, &t->regs, e)) return -1;
    struct iovec iov = {t->xstate, sizeof t->xstate};
    if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &iov)) return err_sys(e, errno, "vector state of task %d", tid);
    t->xstate_len = iov.iov_len;
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof t->signal_mask, &t->signal_mask)) return err_sys(e, errno, "signal mask of task %d", tid);
    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof t->rseq, &t->rseq) != sizeof t->rseq)
        return err_sys(e, errno, "rseq of task %d", tid);
    if (syscall(SYS_get_robust_list, tid, &t->robust_list, &t->robust_len)) return err_sys(e, errno, "robust list of task %d", tid);
    read_name(tid, t->name);
    /* no signal may interrupt the injected calls */
    if (ptrace(PTRACE_SETSIGMASK, tid, sizeof all_signals, &all_signals)) return err_sys(e, errno, "block signals of task %d", tid);
    int rc = ask_thread(t, e);
    if (ptrace(PTRACE_SETSIGMASK, tid, sizeof t->signal_mask, &t->signal_mask) && !rc)
        rc = err_sys(e, errno, "unblock signals of task %d", tid);
    if (task_set_regs(tid, &t->regs, e)) rc = -1;
    return rc;
}

int image_capture(struct image *out, pid_t leader, struct err *e) {
    *out = (struct image){.zygote = true, .threads = 1, .cwd = "/", .umask = read_umask(leader)};
    out->thread = calloc(1, sizeof *out->thread);
    if (!out->thread) return err_sys(e, ENOMEM, "image of task %d", leader);
    if (capture_thread(&out->thread[0], leader, e)) {
        image_free(out);
        return -1;
    }
    return 0;
}

/* ---- a running context ---- */

/* The thread's id as its own pid namespace sees it: the last number of NSpid. */
static int own_tid(pid_t tid) {
    char path[64], line[256];
    int own = -1;
    (void)snprintf(path, sizeof path, "/proc/%d/status", tid);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && own < 0 && fgets(line, sizeof line, f)) {
        char *last = strncmp(line, "NSpid:", 6) ? NULL : strrchr(line, '\t');
        if (last) own = atoi(last);
    }
    return own;
}

/* A stop that is not the interrupt's own delivers a signal: hand it on and wait again, or it would be lost. */
static int wait_interrupt(pid_t tid, struct err *e) {
    for (;;) {
        int event, signo;
        if (task_wait_stop(tid, &event, &signo, e)) return -1;
        if (event == PTRACE_EVENT_STOP) return 0;
        if (ptrace(PTRACE_CONT, tid, 0, event ? 0 : signo)) return err_sys(e, errno, "continue task %d", tid);
    }
}

static bool known(const struct image *im, pid_t tid) {
    for (int i = 0; i < im->threads; i++)
        if (im->thread[i].host_tid == tid) return true;
    return false;
}

/* Seize and interrupt what one look at the task directory finds new. */
static int seize_new(struct image *im, pid_t leader, struct err *e) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/task", leader);
    cleanup_dir DIR *d = opendir(path);
    if (!d) return err_sys(e, errno, "threads of task %d", leader);
    for (struct dirent *t; (t = readdir(d));) {
        pid_t tid = atoi(t->d_name);
        if (tid <= 0 || known(im, tid)) continue;
        if (im->threads == IMAGE_THREADS_MAX) return err_set(e, ERR_LIMIT, "the context has more than %d threads", IMAGE_THREADS_MAX);
        if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_SUSPEND_SECCOMP)) {
            if (errno == ESRCH) continue; /* it has just ended */
            return err_sys(e, errno, "seize thread %d (a context whose main thread has ended cannot be copied)", tid);
        }
        (void)ptrace(PTRACE_INTERRUPT, tid, 0, 0);
        im->thread[im->threads++].host_tid = tid;
    }
    return 0;
}

/* A thread that still runs may make another: look again until a look finds nobody new. */
static int stop_all(struct image *im, pid_t leader, struct err *e) {
    for (int stopped = 0;;) {
        if (seize_new(im, leader, e)) return -1;
        if (stopped == im->threads) return 0;
        for (; stopped < im->threads; stopped++)
            if (wait_interrupt(im->thread[stopped].host_tid, e)) return -1;
    }
}

static void leader_first(struct image *im, pid_t leader) {
    for (int i = 1; i < im->threads; i++)
        if (im->thread[i].host_tid == leader) {
            struct image_thread t = im->thread[0];
            im->thread[0] = im->thread[i];
            im->thread[i] = t;
        }
}

int image_freeze(struct image *out, pid_t leader, struct err *e) {
    char path[64];
    *out = (struct image){.frozen = true};
    if (!(out->thread = calloc(IMAGE_THREADS_MAX, sizeof *out->thread))) return err_sys(e, ENOMEM, "image of task %d", leader);
    if (stop_all(out, leader, e)) return -1;
    leader_first(out, leader);
    out->umask = read_umask(leader);
    (void)snprintf(path, sizeof path, "/proc/%d/cwd", leader);
    ssize_t n = readlink(path, out->cwd, sizeof out->cwd - 1);
    out->cwd[n > 0 && out->cwd[0] == '/' ? n : 0] = 0;
    for (int i = 0; i < out->threads; i++) {
        pid_t tid = out->thread[i].host_tid;
        if (capture_thread(&out->thread[i], tid, e)) return -1;
        if ((out->thread[i].tid = own_tid(tid)) < 1) return err_set(e, ERR_INTERNAL, "thread %d has no id of its own", tid);
    }
    return 0;
}

void image_thaw(struct image *im) {
    /* one that did not stop in time cannot be let go now; the server does it when it stops */
    for (int i = 0; im->frozen && i < im->threads; i++) (void)ptrace(PTRACE_DETACH, im->thread[i].host_tid, 0, 0);
    im->frozen = false;
}

void image_free(struct image *im) {
    free(im->thread);
    *im = (struct image){0};
}

struct no_capabilities {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

int image_apply_kernel(const struct image *im, int i, pid_t to, struct err *e) {
    const struct image_thread *t = &im->thread[i];
    struct {
        stack_t stack;
        struct no_capabilities none;
        char name[16];
        char cwd[sizeof im->cwd];
    } arg = {.stack = t->altstack, .none.header.version = _LINUX_CAPABILITY_VERSION_3};
    arg.stack.ss_flags &= ~SS_ONSTACK; /* whether it runs on it follows from the stack pointer */
    memcpy(arg.name, t->name, sizeof arg.name);
    memcpy(arg.cwd, im->cwd, sizeof arg.cwd);
    if (task_write(to, STUB_SCRATCH, &arg, sizeof arg, e)) return -1;

    struct batch b = {.n = 0};
    const long base = (long)STUB_SCRATCH;
    batch_add(&b, SYS_sigaltstack, base + (long)offsetof(__typeof__(arg), stack), 0, 0, 0, 0);
    if (t->rseq.rseq_abi_pointer)
        batch_add(&b, SYS_rseq, (long)t->rseq.rseq_abi_pointer, t->rseq.rseq_abi_size, t->rseq.flags, t->rseq.signature, 0);
    if (t->robust_list) batch_add(&b, SYS_set_robust_list, (long)t->robust_list, (long)t->robust_len, 0, 0, 0);
    batch_add(&b, SYS_prctl, PR_SET_NAME, base + (long)offsetof(__typeof__(arg), name), 0, 0, 0);
    if (i == 0) {
        batch_add(&b, SYS_set_tid_address, (long)t->clear_tid, 0, 0, 0, 0);
        /* The zygote's session and process group are those of its copies in every cell: kill(0, SIGCONT) would reach them all. */
        batch_add(&b, SYS_setsid, 0, 0, 0, 0, 0);
        batch_add(&b, SYS_umask, im->umask, 0, 0, 0, 0);
        if (im->cwd[0]) batch_try(&b, SYS_chdir, base + (long)offsetof(__typeof__(arg), cwd), 0, 0, 0, 0);
    }
    if (!host.off[LAYER_CAPS])
        batch_add(&b, SYS_capset, base + (long)offsetof(__typeof__(arg), none.header), base + (long)offsetof(__typeof__(arg), none.data), 0, 0, 0);
    /* every change of credentials made the shared memory undumpable: debuggers of the cell's own user would be shut out */
    if (i == 0) batch_add(&b, SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    return inject_batch(to, &t->regs, &b, NULL, e);
}

/* A restartable sequence that was caught in the middle would not be aborted under a fresh registration: do it here. */
static int leave_critical_section(const struct image_thread *t, pid_t to, arch_regs *r, struct err *e) {
    uint64_t at = 0;
    struct {
        uint32_t version, flags;
        uint64_t start, length, abort;
    } section;
    if (!t->rseq.rseq_abi_pointer) return 0;
    if (task_read(to, t->rseq.rseq_abi_pointer + 8 /* struct rseq: rseq_cs */, &at, sizeof at, e)) return -1;
    if (!at) return 0;
    if (task_read(to, at, &section, sizeof section, e)) return -1;
    arch_abort_section(r, section.start, section.length, section.abort);
    at = 0;
    return task_write(to, t->rseq.rseq_abi_pointer + 8, &at, sizeof at, e);
}

int image_apply_registers(const struct image *im, int i, pid_t to, struct err *e) {
    const struct image_thread *t = &im->thread[i];
    arch_regs r = t->regs;
    if (im->zygote)
        arch_return(&r, -EINTR); /* the fork point is pause(2): in the copy it returns */
    else
        arch_fix_restart(&r);
    if (!im->zygote && leave_critical_section(t, to, &r, e)) return -1;
    struct iovec iov = {(void *)(uintptr_t)t->xstate, t->xstate_len};
    if (ptrace(PTRACE_SETREGSET, to, NT_X86_XSTATE, &iov)) return err_sys(e, errno, "set vector state of task %d", to);
    if (task_set_regs(to, &r, e)) return -1;
    if (ptrace(PTRACE_SETSIGMASK, to, sizeof t->signal_mask, &t->signal_mask)) return err_sys(e, errno, "set signal mask of task %d", to);
    return 0;
}
