#include "keeper/image.h"

#include <errno.h>
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
    *out = (struct image){.zygote = true, .threads = 1, .umask = read_umask(leader)};
    out->thread = calloc(1, sizeof *out->thread);
    if (!out->thread) return err_sys(e, ENOMEM, "image of task %d", leader);
    if (capture_thread(&out->thread[0], leader, e)) {
        image_free(out);
        return -1;
    }
    return 0;
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

int image_apply_registers(const struct image *im, int i, pid_t to, struct err *e) {
    const struct image_thread *t = &im->thread[i];
    arch_regs r = t->regs;
    if (im->zygote)
        arch_return(&r, -EINTR); /* the fork point is pause(2): in the copy it returns */
    else
        arch_fix_restart(&r);
    struct iovec iov = {(void *)(uintptr_t)t->xstate, t->xstate_len};
    if (ptrace(PTRACE_SETREGSET, to, NT_X86_XSTATE, &iov)) return err_sys(e, errno, "set vector state of task %d", to);
    if (task_set_regs(to, &r, e)) return -1;
    if (ptrace(PTRACE_SETSIGMASK, to, sizeof t->signal_mask, &t->signal_mask)) return err_sys(e, errno, "set signal mask of task %d", to);
    return 0;
}
