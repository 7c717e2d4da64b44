#include "keeper/ferry.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdpass.h"
#include "keeper/cgroup.h"
#include "keeper/descriptors.h"
#include "keeper/host.h"
#include "keeper/shared.h"
#include "wire/context_proto.h"
#include "wire/guest_proto.h"

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
#define SECUREBITS_ALL                                                                                                           \
    (SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | \
     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED)

struct streams {
    int control[2], out[2], err[2]; /* [0] daemon, [1] cell */
};

static void streams_close(struct streams *s) {
    for (int i = 0; i < 2; i++) {
        close_fd(&s->control[i]);
        close_fd(&s->out[i]);
        close_fd(&s->err[i]);
    }
}

static int streams_open(struct streams *s, struct err *e) {
    *s = (struct streams){{-1, -1}, {-1, -1}, {-1, -1}};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->control) || pipe2(s->out, O_CLOEXEC) || pipe2(s->err, O_CLOEXEC)) {
        int rc = err_sys(e, errno, "streams of a context");
        streams_close(s);
        return rc;
    }
    /* the flag belongs to each end by itself: the cell's ends stay blocking */
    (void)fcntl(s->control[0], F_SETFL, O_NONBLOCK);
    (void)fcntl(s->out[0], F_SETFL, O_NONBLOCK);
    (void)fcntl(s->err[0], F_SETFL, O_NONBLOCK);
    return 0;
}

/* Leave the cell's ends in the guest's slot socket: T takes them out of there. */
static int streams_post(int slot_fd, const struct streams *s, struct err *e) {
    const int fds[3] = {s->control[1], s->out[1], s->err[1]};
    return fdpass_send(slot_fd, "S", 1, fds, 3, MSG_DONTWAIT) ? err_sys(e, errno, "hand the streams over") : 0;
}

/* What T's calls point to; lies at STUB_SCRATCH. */
struct passage {
    struct msghdr message;
    struct iovec iov;
    char byte[8];
    char control[64];
    struct __user_cap_header_struct cap_header;
    struct __user_cap_data_struct cap_data[2];
    struct clone_args clone;
    pid_t set_tid;
    struct rlimit files;
    char null_path[16];
};
_Static_assert(sizeof(struct passage) <= STUB_SCRATCH_SIZE, "the passage fits the scratch area");
#define AT(field) ((long)(STUB_SCRATCH + offsetof(struct passage, field)))

static void passage_fill(struct passage *p, const struct image *im, const struct ferry_target *to) {
    const rlim_t open_files = to->open_files < host.open_files_max ? to->open_files : host.open_files_max;
    *p = (struct passage){
        .message = {.msg_iov = (struct iovec *)AT(iov), .msg_iovlen = 1, .msg_control = (void *)AT(control), .msg_controllen = sizeof p->control},
        .iov = {(void *)AT(byte), 1},
        .cap_header.version = _LINUX_CAPABILITY_VERSION_3,
        .clone.flags = CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_PARENT,
        .files = {open_files, open_files},
        .null_path = "/dev/null",
    };
    if (im->zygote) { /* a new id: the kernel writes it to where the C library keeps it */
        p->clone.flags |= CLONE_CHILD_SETTID;
        p->clone.child_tid = im->thread[0].clear_tid;
    } else { /* the same id as before, which needs CAP_CHECKPOINT_RESTORE */
        p->clone.set_tid = (uint64_t)AT(set_tid);
        p->clone.set_tid_size = 1;
        p->set_tid = im->thread[0].tid;
        p->cap_data[1].effective = p->cap_data[1].permitted = CAP_TO_MASK(CAP_CHECKPOINT_RESTORE);
    }
}

/* T, in one batch; the order is part of the recipe. The descriptor table is emptied first, so every number below is known. */
static void passage_calls(struct batch *b, const struct ferry_target *to) {
    int fd = 3;
    batch_add(b, SYS_close_range, 3, ~0u, 0, 0, 0);
    batch_add(b, SYS_pidfd_open, to->guest, 0, 0, 0, 0);
    const int pidfd = fd++;
    batch_add(b, SYS_setns, pidfd, NAMESPACES, 0, 0, 0); /* one call, all seven: now with all capabilities inside the cell */
    batch_add(b, SYS_pidfd_getfd, pidfd, GUEST_FD_SLOTS, 0, 0, 0);
    const int slots = fd++;
    int rules = -1;
    if (to->landlock) {
        batch_add(b, SYS_pidfd_getfd, pidfd, GUEST_FD_RULES, 0, 0, 0);
        rules = fd++;
    }
    batch_add(b, SYS_recvmsg, slots, AT(message), MSG_DONTWAIT, 0, 0);
    const int control = fd, out = fd + 1, err = fd + 2;
    fd += 3;
    batch_add(b, SYS_open, AT(null_path), O_RDWR, 0, 0, 0);
    const int null = fd;
    batch_add(b, SYS_dup2, null, 0, 0, 0, 0);
    batch_add(b, SYS_dup2, out, 1, 0, 0, 0);
    batch_add(b, SYS_dup2, err, 2, 0, 0, 0);
    batch_add(b, SYS_dup3, control, CONTEXT_FD, O_CLOEXEC, 0, 0);
    if (rules >= 0) batch_add(b, SYS_landlock_restrict_self, rules, 0, 0, 0, 0);
    batch_add(b, SYS_prlimit64, 0, RLIMIT_NOFILE, AT(files), 0, 0); /* lower than the zygote's: always allowed */
    batch_add(b, SYS_close_range, 3, CONTEXT_FD - 1, 0, 0, 0);
    batch_add(b, SYS_close_range, CONTEXT_FD + 1, ~0u, 0, 0, 0);
    if (!host.off[LAYER_CAPS]) {
        for (int c = 0; c <= CAP_LAST_CAP; c++) batch_try(b, SYS_prctl, PR_CAPBSET_DROP, c, 0, 0, 0);
        batch_add(b, SYS_prctl, PR_SET_SECUREBITS, SECUREBITS_ALL, 0, 0, 0);
    }
    batch_add(b, SYS_setgroups, 0, 0, 0, 0, 0);
    batch_add(b, SYS_setresgid, CELL_UID_USER, CELL_UID_USER, CELL_UID_USER, 0, 0);
    batch_add(b, SYS_setresuid, CELL_UID_USER, CELL_UID_USER, CELL_UID_USER, 0, 0);
    if (!host.off[LAYER_CAPS]) batch_add(b, SYS_capset, AT(cap_header), AT(cap_data), 0, 0, 0);
    batch_add(b, SYS_clone3, AT(clone), sizeof(struct clone_args), 0, 0, 0);
}

/* S' -> T -> R'. T ends here; the memory lives on in S' and R'. */
static int cross(pid_t copy, const struct image *im, const struct ferry_target *to, pid_t *context, struct err *e) {
    const arch_regs *base = &im->thread[0].regs;
    const long arg[6] = {CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_PARENT | SIGCHLD};
    pid_t made[8] = {0};
    long result;
    if (inject_single(copy, base, SYS_clone, arg, &result, made, e)) return -1;
    if (result < 0) return err_sys(e, (int)-result, "clone of the sentinel");
    pid_t boat = made[0];

    struct passage p;
    struct batch b = {.n = 0};
    passage_fill(&p, im, to);
    passage_calls(&b, to);
    int rc = task_write(boat, STUB_SCRATCH, &p, sizeof p, e);
    if (!rc) rc = inject_batch(boat, base, &b, context, e);
    if (!rc) rc = inject_exit(boat, base, e);
    if (rc) {
        kill(boat, SIGKILL);
        (void)waitpid(boat, NULL, __WALL);
    }
    return rc;
}

/* The other threads of a live context, made by R' itself while it still may choose their ids. */
static int make_threads(const struct image *im, pid_t task[], struct err *e) {
    struct {
        struct clone_args clone;
        pid_t tid, pad;
    } arg[IMAGE_THREADS_MAX];
    struct batch b = {.n = 0};
    if (im->threads < 2) return 0;
    memset(arg, 0, sizeof arg);
    for (int i = 1; i < im->threads; i++) {
        const struct image_thread *t = &im->thread[i];
        const uint64_t at = STUB_SCRATCH + (uint64_t)i * sizeof arg[0];
        arg[i].tid = t->tid;
        arg[i].clone = (struct clone_args){
            .flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | (t->clear_tid ? CLONE_CHILD_CLEARTID : 0u),
            .child_tid = t->clear_tid, .tls = arch_thread_pointer(&t->regs), .set_tid = at + offsetof(__typeof__(arg[0]), tid), .set_tid_size = 1};
        batch_add(&b, SYS_clone3, (long)at, sizeof(struct clone_args), 0, 0, 0);
    }
    _Static_assert(sizeof arg <= STUB_SCRATCH_SIZE, "the threads' arguments fit the scratch area");
    if (task_write(task[0], STUB_SCRATCH, arg, (size_t)im->threads * sizeof arg[0], e)) return -1;
    return inject_batch(task[0], &im->thread[0].regs, &b, task + 1, e);
}

static int open_again(const struct image *im, pid_t context, struct notes *notes, struct err *e) {
    struct reopen o;
    if (!im->files) return 0;
    reopen_begin(&o, im, context, notes);
    return descriptors_open(&o, e) || shared_open(&o, e) ? -1 : 0;
}

static int settle(const struct image *im, const struct ferry_target *to, pid_t context, struct err *e) {
    pid_t task[IMAGE_THREADS_MAX] = {context};
    if (make_threads(im, task, e)) return -1;
    for (int i = im->threads - 1; i >= 0; i--)
        if (image_apply_kernel(im, i, task[i], e)) return -1;
    if (open_again(im, context, to->notes, e)) return -1;
    if (cgroup_enter_leaf(to->cell_name, CGROUP_RUN, context, e)) return -1;
    if (image_apply_process(im, context, e)) return -1; /* with it the memory becomes dumpable again */
    for (int i = 0; i < im->threads; i++)
        if (image_apply_registers(im, i, task[i], e)) return -1;
    /* its main thread takes new entropy before anything else; ignored where nobody asked for it */
    if (!im->zygote && syscall(SYS_tgkill, context, context, CONTEXT_FORKED_SIGNAL)) return err_sys(e, errno, "tell a context that it is a copy");
    for (int i = 0; i < im->threads; i++) inject_back(task[i], &im->thread[i].affinity);
    for (int i = im->threads - 1; i >= 0; i--) /* the leader last */
        if (ptrace(PTRACE_DETACH, task[i], 0, 0)) return err_sys(e, errno, "let the context go");
    return 0;
}

static void drop_task(pid_t pid) {
    if (pid <= 0) return;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) continue;
}

pid_t sentinel_copy(pid_t sentinel, const struct image *im, struct err *e) {
    const arch_regs *base = &im->thread[0].regs;
    const long arg[6] = {CLONE_PARENT | SIGCHLD};
    pid_t copy = 0;
    long result = 0;
    struct affinity old;
    inject_here(sentinel, &old);
    int rc = inject_single(sentinel, base, SYS_clone, arg, &result, &copy, e);
    inject_back(sentinel, &old);
    if (copy > 0) inject_back(copy, &old);
    if (rc) return -1;
    return result < 0 ? err_sys(e, (int)-result, "copy the sentinel") : copy;
}

int ferry_begin(pid_t sentinel, pid_t spare, const struct image *im, const struct ferry_target *to, struct ferry_result *out, struct err *e) {
    struct streams s;
    pid_t copy = spare, context = 0;
    if (streams_open(&s, e)) {
        drop_task(copy);
        return -1;
    }
    inject_deadline(10000);
    inject_stay(true);
    int rc = streams_post(to->slot_fd, &s, e);
    if (!rc && !copy && (copy = sentinel_copy(sentinel, im, e)) < 0) rc = -1;
    /* memory is charged to the group of the task that owns it: the copy. Not its cpu limit: a busy cell would make the ferry, and with it
     * every other cell, wait. */
    if (!rc) rc = cgroup_enter(to->cell_name, CGROUP_SENTINEL, copy, e);
    if (!rc) inject_here(copy, NULL); /* and all that it makes */
    if (!rc) rc = cross(copy, im, to, &context, e);
    if (!rc) inject_back(copy, NULL);
    inject_stay(false);
    inject_deadline(0);
    *out = (struct ferry_result){.sentinel = copy, .context = context, .control_fd = s.control[0], .stdout_fd = s.out[0], .stderr_fd = s.err[0]};
    s.control[0] = s.out[0] = s.err[0] = -1;
    streams_close(&s);
    if (rc) ferry_drop(out);
    return rc;
}

int ferry_settle(const struct image *im, const struct ferry_target *to, const struct ferry_result *r, struct err *e) {
    inject_deadline(10000);
    inject_stay(true);
    inject_here(r->context, NULL);
    int rc = settle(im, to, r->context, e);
    inject_stay(false);
    inject_deadline(0);
    return rc;
}

void ferry_drop(struct ferry_result *r) {
    drop_task(r->context);
    drop_task(r->sentinel);
    close_fd(&r->control_fd);
    close_fd(&r->stdout_fd);
    close_fd(&r->stderr_fd);
    *r = (struct ferry_result){.control_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
}

int ferry(pid_t sentinel, pid_t spare, const struct image *im, const struct ferry_target *to, struct ferry_result *out, struct err *e) {
    if (ferry_begin(sentinel, spare, im, to, out, e)) return -1;
    if (!ferry_settle(im, to, out, e)) return 0;
    ferry_drop(out);
    return -1;
}
