#include "keeper/image.h"

#include <errno.h>
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper/host.h"

static const uint64_t all_signals = IMAGE_SIGNALS_OFF;

/* A line of /proc/TID/status: what follows "NAME:\t"; "" when it is not there. */
static const char *status_line(const char *text, const char *name) {
    const size_t n = strlen(name);
    for (const char *at = text; at; at = (at = strchr(at, '\n')) ? at + 1 : NULL)
        if (!strncmp(at, name, n)) return at + n;
    return "";
}

static void read_text(pid_t tid, const char *file, char *text, size_t size) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/%s", tid, file);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);
    text[n > 0 ? n : 0] = 0;
}

static int filters_in(const char *status) {
    const char *n = status_line(status, "Seccomp_filters:\t");
    return *n ? atoi(n) : -1; /* Linux 5.9 */
}

static int filters_of(pid_t pid) {
    char text[4096];
    read_text(pid, "status", text, sizeof text);
    return filters_in(text);
}

/* Name, its id as its own pid namespace sees it (the last number of NSpid), how many filters it has, and for the leader the umask: one read for all. */
static void read_status(struct image_thread *t, struct image *process, int *filters) {
    char text[4096];
    read_text(t->host_tid, "status", text, sizeof text);
    *filters = filters_in(text);
    for (const char *at = status_line(text, "NSpid:"); *at == '\t'; at += strspn(at, "0123456789")) t->tid = atoi(++at);
    if (process) process->anon_bytes = strtoull(status_line(text, "RssAnon:\t"), NULL, 10) << 10;
    if (process) process->umask = (unsigned)strtoul(status_line(text, "Umask:\t"), NULL, 8);
    const char *name = status_line(text, "Name:\t");
    const size_t n = strcspn(name, "\n");
    if (memchr(name, '\\', n)) { /* escaped there */
        read_text(t->host_tid, "comm", t->name, sizeof t->name);
        t->name[strcspn(t->name, "\n")] = 0;
    } else {
        (void)snprintf(t->name, sizeof t->name, "%.*s", (int)n, name);
    }
}

/* By their text, a line each in the order of their numbers: prlimit(2) of another process takes a capability that root of a container may lack. */
static void read_limits(pid_t pid, struct image *im) {
    char text[4096];
    const char *at = text;
    read_text(pid, "limits", text, sizeof text);
    for (int i = 0; i < IMAGE_LIMITS; i++) {
        char soft[24], hard[24];
        at = at ? strchr(at, '\n') : NULL;
        im->limit[i].soft = 1, im->limit[i].hard = 0; /* not known */
        if (!at || strlen(++at) < 26 || sscanf(at + 26, "%23s %23s", soft, hard) != 2) continue; /* "%-25s %-20s %-20s": proc(5) */
        im->limit[i].soft = soft[0] == 'u' ? RLIM_INFINITY : strtoull(soft, NULL, 10);
        im->limit[i].hard = hard[0] == 'u' ? RLIM_INFINITY : strtoull(hard, NULL, 10);
    }
}

/* Limits, and ITIMER_REAL as the leader told it. */
static void note_process(struct image *im, pid_t leader, const struct stub_told *told) {
    const uint64_t *v = told->real_timer; /* interval, then what is left: seconds and microseconds */
    read_limits(leader, im);
    if (v[0] > INT32_MAX || v[1] > 999999 || v[2] > INT32_MAX || v[3] > 999999) return;
    im->timer_interval_us = v[0] * 1000000 + v[1];
    im->timer_us = v[2] * 1000000 + v[3];
}

/* A restartable sequence that was caught in the middle is aborted here and now, as the kernel would do it, and its mark is taken away. Where it stays,
 * the kernel finds the thread in the injected code: outside, so that it takes the mark away itself and the sequence goes on as if nobody had
 * interrupted it; or, when a hostile program names the injected code as its sequence, inside, and it runs the program's code instead. */
static void leave_sequence(const struct image_thread *t, arch_regs *r) {
    struct err ignored;
    struct {
        uint32_t version, flags;
        uint64_t start, length, abort;
    } sequence;
    uint64_t at = 0;
    const uint64_t mark = t->rseq.rseq_abi_pointer + 8; /* struct rseq: rseq_cs */
    if (!t->rseq.rseq_abi_pointer || task_read(t->host_tid, mark, &at, sizeof at, &ignored) || !at) return;
    if (task_read(t->host_tid, at, &sequence, sizeof sequence, &ignored)) return; /* the kernel ends a program that does this */
    arch_abort_section(r, sequence.start, sequence.length, sequence.abort);
    at = 0;
    (void)task_write(t->host_tid, mark, &at, sizeof at, &ignored);
}

/* process: the image, when this is its leader. filters: how many it may have, -1: any. What the thread tells lies in memory that the cell can write: a
 * wrong answer harms nobody else. */
static int capture_thread(struct image_thread *t, pid_t tid, struct image *process, int filters, struct err *e) {
    int has;
    t->host_tid = tid;
    if (task_get_regs(tid, &t->regs, e)) return -1;
    struct iovec iov = {t->xstate, sizeof t->xstate};
    if (ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &iov)) return err_sys(e, errno, "vector state of task %d", tid);
    t->xstate_len = iov.iov_len;
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof t->signal_mask, &t->signal_mask)) return err_sys(e, errno, "signal mask of task %d", tid);
    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof t->rseq, &t->rseq) != sizeof t->rseq)
        return err_sys(e, errno, "rseq of task %d", tid);
    if (syscall(SYS_get_robust_list, tid, &t->robust_list, &t->robust_len)) return err_sys(e, errno, "robust list of task %d", tid);
    read_status(t, process, &has);
    /* it would stop the injected calls, and a copy would not have it */
    if (filters >= 0 && has != filters) return err_set(e, ERR_UNSUPPORTED, "the context has forbidden itself system calls (seccomp) and cannot be copied");
    leave_sequence(t, &t->regs);
    /* no signal may interrupt the injected calls */
    if (ptrace(PTRACE_SETSIGMASK, tid, sizeof all_signals, &all_signals)) return err_sys(e, errno, "block signals of task %d", tid);
    struct stub_told told;
    int rc = inject_ask(tid, &t->regs, &told, e);
    if (!rc) {
        memcpy(&t->altstack, told.altstack, sizeof t->altstack);
        t->clear_tid = told.clear_tid;
        if (process) note_process(process, tid, &told);
    }
    if (ptrace(PTRACE_SETSIGMASK, tid, sizeof t->signal_mask, &t->signal_mask) && !rc)
        rc = err_sys(e, errno, "unblock signals of task %d", tid);
    if (task_set_regs(tid, &t->regs, e)) rc = -1;
    return rc;
}

int image_capture(struct image *out, pid_t leader, struct err *e) {
    *out = (struct image){.zygote = true, .threads = 1, .cwd = "/"};
    out->thread = calloc(1, sizeof *out->thread);
    if (!out->thread) return err_sys(e, ENOMEM, "image of task %d", leader);
    if (capture_thread(&out->thread[0], leader, out, -1, e)) {
        image_free(out);
        return -1;
    }
    return 0;
}

/* ---- a running context ---- */

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

static int not_seized(pid_t tid, struct err *e) {
    const int why = errno;
    char text[4096];
    read_text(tid, "status", text, sizeof text);
    if (why == EPERM && atoi(status_line(text, "TracerPid:\t")) == getpid())
        return err_set(e, ERR_CONFLICT, "a thread of the context has not stopped since an earlier attempt to copy it (it waits in vfork, perhaps)");
    if (why == EPERM) return err_set(e, ERR_CONFLICT, "the main thread of the context has ended: it cannot be copied");
    return err_sys(e, why, "seize thread %d", tid);
}

/* Room for one more; it doubles. Sixty-four at once would be 800 KB of zeros for the one thread that most contexts have. */
static struct image_thread *add_thread(struct image *im) {
    const int n = im->threads;
    if (n < 2 ? n == 0 : (n & (n - 1)) == 0) {
        struct image_thread *more = realloc(im->thread, (n < 2 ? 2 : 2 * (size_t)n) * sizeof *more);
        if (!more) return NULL;
        im->thread = more;
    }
    struct image_thread *t = &im->thread[im->threads++];
    memset(t, 0, sizeof *t);
    return t;
}

/* Seize and interrupt what one look at the task directory finds new. Never with PTRACE_O_SUSPEND_SECCOMP: from the seizure to the stop the thread runs on,
 * and so it would without the filter. The calls injected here are ones that the filter allows. */
static int seize_new(struct image *im, pid_t leader, struct err *e) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/task", leader);
    cleanup_dir DIR *d = opendir(path);
    if (!d) return err_sys(e, errno, "threads of task %d", leader);
    for (struct dirent *t; (t = readdir(d));) {
        pid_t tid = atoi(t->d_name);
        if (tid <= 0 || known(im, tid)) continue;
        if (im->threads == IMAGE_THREADS_MAX) return err_set(e, ERR_LIMIT, "the context has more than %d threads", IMAGE_THREADS_MAX);
        if (ptrace(PTRACE_SEIZE, tid, 0, 0)) {
            if (errno == ESRCH) continue; /* it has just ended */
            return not_seized(tid, e);
        }
        struct image_thread *thread = add_thread(im);
        if (!thread) {
            (void)ptrace(PTRACE_INTERRUPT, tid, 0, 0); /* let go when it stops (server.c) */
            return err_sys(e, ENOMEM, "image of task %d", leader);
        }
        thread->host_tid = tid;
        inject_here(tid, &thread->affinity);
        (void)ptrace(PTRACE_INTERRUPT, tid, 0, 0);
    }
    return 0;
}

/* A thread that still runs may make another: look again until a look finds nobody new. */
static int stop_all(struct image *im, pid_t leader, struct err *e) {
    for (int stopped = 0;;) {
        if (seize_new(im, leader, e)) return -1;
        if (stopped == im->threads) return 0;
        while (stopped < im->threads) {
            const pid_t tid = im->thread[stopped].host_tid;
            if (!wait_interrupt(tid, e)) stopped++;
            else if (tid == leader || strcmp(e->code, ERR_LOST)) return -1;
            else im->thread[stopped] = im->thread[--im->threads]; /* it has just ended, which threads may */
        }
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

int image_freeze(struct image *out, pid_t leader, pid_t sentinel, struct err *e) {
    char path[64];
    const int filters = filters_of(sentinel);
    *out = (struct image){.frozen = true}; /* thread: seize_new() */
    if (stop_all(out, leader, e)) return -1;
    leader_first(out, leader);
    (void)snprintf(path, sizeof path, "/proc/%d/cwd", leader);
    ssize_t n = readlink(path, out->cwd, sizeof out->cwd - 1);
    out->cwd[n > 0 && out->cwd[0] == '/' ? n : 0] = 0;
    for (int i = 0; i < out->threads; i++) {
        pid_t tid = out->thread[i].host_tid;
        if (capture_thread(&out->thread[i], tid, i ? NULL : out, filters, e)) return -1;
        if (out->thread[i].tid < 1) return err_set(e, ERR_INTERNAL, "thread %d has no id of its own", tid);
    }
    return 0;
}

void image_thaw(struct image *im) {
    /* one that does not stand (it did not stop in time, or ran away from an injected call) cannot be let go now; the server does it when it stops */
    for (int i = 0; im->frozen && i < im->threads; i++) {
        if (im->thread[i].host_tid) inject_back(im->thread[i].host_tid, &im->thread[i].affinity);
        if (ptrace(PTRACE_DETACH, im->thread[i].host_tid, 0, 0)) (void)ptrace(PTRACE_INTERRUPT, im->thread[i].host_tid, 0, 0);
    }
    im->frozen = false;
}

struct image_file *image_add_file(struct image *im) {
    const uint32_t n = im->files;
    if (n == STATE_FILES_MAX) return NULL;
    if (n < 16 ? n == 0 : (n & (n - 1)) == 0) { /* room doubles */
        struct image_file *more = realloc(im->file, (n < 16 ? 16 : 2 * n) * sizeof *more);
        if (!more) return NULL;
        im->file = more;
    }
    im->file[n] = (struct image_file){0};
    im->files++;
    return &im->file[n];
}

void image_free(struct image *im) {
    for (uint32_t i = 0; i < im->files; i++) free(im->file[i].extra);
    free(im->file);
    free(im->action);
    notes_free(&im->notes);
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
    if (t->rseq.rseq_abi_pointer && im->zygote) /* the template's memory; what a cell wrote is believed last (register_rseq) */
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
    return inject_batch(to, &t->regs, &b, NULL, e);
}

/* ---- the process ---- */

#define SIGNALS 64

/* struct kernel_sigaction, as rt_sigaction(2) takes it */
struct action {
    uint64_t handler, flags, restorer, mask;
};

int image_ask_actions(struct image *im, pid_t copy, struct err *e) {
    struct action told[SIGNALS];
    struct batch b = {.n = 0};
    if (im->action) return 0;
    inject_deadline(1000);
    for (int signo = 1; signo <= SIGNALS; signo++) batch_try(&b, SYS_rt_sigaction, signo, 0, (long)(STUB_SCRATCH + (uint64_t)(signo - 1) * sizeof told[0]), 8, 0);
    int rc = inject_batch(copy, &im->thread[0].regs, &b, NULL, e);
    inject_deadline(0);
    if (rc || task_read(copy, STUB_SCRATCH, told, sizeof told, e)) return -1;
    if (!(im->action = calloc(SIGNALS, sizeof *im->action))) return err_sys(e, ENOMEM, "signal actions");
    for (int i = 0; i < SIGNALS; i++) {
        if (b.call[i].ret || !told[i].handler) continue;
        im->action[im->actions++] = (struct state_action){.signo = i + 1, .handler = told[i].handler, .flags = told[i].flags, .restorer = told[i].restorer, .mask = told[i].mask};
    }
    return 0;
}

/* Every signal, also those the image does not name: the memory came into a process that has the zygote's actions. */
static int set_actions(const struct image *im, pid_t to, struct err *e) {
    struct action set[SIGNALS] = {0};
    struct batch b = {.n = 0};
    for (uint32_t i = 0; i < im->actions; i++) {
        const struct state_action *a = &im->action[i];
        set[a->signo - 1] = (struct action){a->handler, a->flags, a->restorer, a->mask};
    }
    if (task_write(to, STUB_SCRATCH, set, sizeof set, e)) return -1;
    for (int signo = 1; signo <= SIGNALS; signo++)
        if (signo != SIGKILL && signo != SIGSTOP) batch_add(&b, SYS_rt_sigaction, signo, (long)(STUB_SCRATCH + (uint64_t)(signo - 1) * sizeof set[0]), 0, 8, 0);
    return inject_batch(to, &im->thread[0].regs, &b, NULL, e);
}

/* Never above what the cell has; NOFILE and CORE are the cell's own (ferry.c, host.h). */
static int set_limits(const struct image *im, pid_t to, struct err *e) {
    struct image now;
    struct rlimit want[IMAGE_LIMITS];
    struct batch b = {.n = 0};
    if (im->zygote) return 0;
    read_limits(to, &now);
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        want[i] = (struct rlimit){im->limit[i].soft, im->limit[i].hard};
        if (i == RLIMIT_NOFILE || i == RLIMIT_CORE || want[i].rlim_cur > want[i].rlim_max || now.limit[i].soft > now.limit[i].hard) continue;
        if (want[i].rlim_max > now.limit[i].hard) want[i].rlim_max = now.limit[i].hard;
        if (want[i].rlim_cur > want[i].rlim_max) want[i].rlim_cur = want[i].rlim_max;
        if (want[i].rlim_cur == now.limit[i].soft && want[i].rlim_max == now.limit[i].hard) continue;
        batch_try(&b, SYS_prlimit64, 0, i, (long)(STUB_SCRATCH + (uint64_t)i * sizeof want[0]), 0, 0);
    }
    if (!b.n) return 0;
    if (task_write(to, STUB_SCRATCH, want, sizeof want, e)) return -1;
    return inject_batch(to, &im->thread[0].regs, &b, NULL, e);
}

int image_apply_process(const struct image *im, pid_t leader, struct err *e) {
    const struct itimerval timer = {.it_interval = {(time_t)(im->timer_interval_us / 1000000), (suseconds_t)(im->timer_interval_us % 1000000)},
                                    .it_value = {(time_t)(im->timer_us / 1000000), (suseconds_t)(im->timer_us % 1000000)}};
    struct batch b = {.n = 0};
    if (im->stated && set_actions(im, leader, e)) return -1;
    if (set_limits(im, leader, e)) return -1;
    if (im->timer_us) {
        if (task_write(leader, STUB_SCRATCH, &timer, sizeof timer, e)) return -1;
        batch_add(&b, SYS_setitimer, ITIMER_REAL, (long)STUB_SCRATCH, 0, 0, 0);
    }
    /* every change of credentials made the shared memory undumpable */
    batch_add(&b, SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    return inject_batch(leader, &im->thread[0].regs, &b, NULL, e);
}

/* The very last call: from here on the area steers the thread (leave_sequence), so before it all memory must be the copy's own, and no mark may stand. */
static int register_rseq(const struct image_thread *t, pid_t to, struct err *e) {
    const uint64_t none = 0;
    const long arg[6] = {(long)t->rseq.rseq_abi_pointer, t->rseq.rseq_abi_size, t->rseq.flags, t->rseq.signature};
    long result;
    if (!t->rseq.rseq_abi_pointer) return 0;
    if (task_write(to, t->rseq.rseq_abi_pointer + 8, &none, sizeof none, e) || inject_single(to, &t->regs, SYS_rseq, arg, &result, NULL, e)) return -1;
    return result < 0 ? err_sys(e, (int)-result, "rseq of task %d", to) : 0;
}

int image_apply_registers(const struct image *im, int i, pid_t to, struct err *e) {
    const struct image_thread *t = &im->thread[i];
    arch_regs r = t->regs;
    if (im->zygote)
        arch_return(&r, -EINTR); /* the fork point is pause(2): in the copy it returns */
    else
        arch_fix_restart(&r);
    if (!im->zygote && register_rseq(t, to, e)) return -1;
    struct iovec iov = {(void *)(uintptr_t)t->xstate, t->xstate_len};
    if (ptrace(PTRACE_SETREGSET, to, NT_X86_XSTATE, &iov)) return err_sys(e, errno, "set vector state of task %d", to);
    if (task_set_regs(to, &r, e)) return -1;
    if (ptrace(PTRACE_SETSIGMASK, to, sizeof t->signal_mask, &t->signal_mask)) return err_sys(e, errno, "set signal mask of task %d", to);
    return 0;
}
