#include "keeper/vmm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/host.h"

#define USERS HOST_UID_MONITORS_COUNT
#define GROUP_MAX 64 /* processes of a monitor's group that are looked at: it is limited to fewer */

static int program_fd = -1; /* cella-vmm */
static uint16_t user_uses[USERS];

/* ---- at start ---- */

static int find_program(struct err *e) {
    char path[PATH_MAX + 16];
    const ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    if (n <= 0) return err_sys(e, errno, "read /proc/self/exe");
    path[n] = 0;
    char *slash = strrchr(path, '/');
    (void)snprintf(slash + 1, sizeof path - (size_t)(slash + 1 - path), "cella-vmm");
    program_fd = open(path, O_RDONLY | O_CLOEXEC);
    return program_fd < 0 ? err_sys(e, errno, "open %s", path) : 0;
}

static int open_kvm(struct err *e) {
    const int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    return fd < 0 ? err_sys(e, errno, "open /dev/kvm") : fd;
}

bool vmm_possible(void) {
    struct err e = {0};
    cleanup_close int kvm = open_kvm(&e);
    if (kvm >= 0) {
        const int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
        cleanup_close int vm = version == 12 ? ioctl(kvm, KVM_CREATE_VM, 0) : -1;
        if (version != 12) err_set(&e, ERR_UNSUPPORTED, "/dev/kvm has version %d of the interface, not 12", version);
        else if (vm < 0) err_sys(&e, errno, "/dev/kvm makes no virtual machine");
        else if (!find_program(&e)) return true;
    }
    log_info("no virtual machines: %s", e.text);
    return false;
}

/* ---- users ---- */

uid_t vmm_uid(void) {
    static unsigned next; /* round and round, so that a number rests before it is used again */
    for (unsigned i = 0; i < USERS; i++, next++)
        if (!user_uses[next % USERS]) return HOST_UID_MONITORS + next++ % USERS;
    return HOST_UID_MONITORS; /* there are more numbers than there can be machines */
}

static void user_count(uid_t uid, int by) {
    if (uid >= HOST_UID_MONITORS && uid < HOST_UID_MONITORS + USERS) user_uses[uid - HOST_UID_MONITORS] = (uint16_t)(user_uses[uid - HOST_UID_MONITORS] + by);
}

/* ---- the program ---- */

/* Final descriptors: 0 to 1 nothing, 2 where it says why it did not start, control socket, KVM. */
static int place_descriptors(int said, int control, int kvm, int *program, struct err *e) {
    enum { HIGH = 210 };
    int from[] = {said, control, kvm, program_fd};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) /* out of the way of the numbers they will get */
        if ((from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, HIGH)) < 0) return err_sys(e, errno, "move a descriptor");
    *program = from[3];
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(from[0], 2) < 0) return err_sys(e, errno, "descriptors");
    if (syscall(SYS_close_range, 3, HIGH - 1, 0)) return err_sys(e, errno, "close the keeper's descriptors");
    if (dup2(from[1], VMM_FD_CONTROL) < 0 || dup2(from[2], VMM_FD_KVM) < 0) return err_sys(e, errno, "descriptors");
    return 0; /* whatever the keeper has above is close-on-exec: it makes no other kind */
}

static void child_main(const struct vmm *v, bool of_template, int said, int control, int kvm) {
    static char *const environment[] = {NULL};
    char user[32];
    char *argv[] = {"cella-vmm", "--user", user, of_template ? "--children-change-user" : NULL, NULL};
    struct err e;
    int program = -1;
    (void)snprintf(user, sizeof user, "%u:%u", v->uid, v->uid);
    child_signals();
    setsid();
    if (!cgroup_enter(v->group, CGROUP_RUN, 0, &e) && !place_descriptors(said, control, kvm, &program, &e)) {
        syscall(SYS_execveat, program, "", argv, environment, AT_EMPTY_PATH);
        err_sys(&e, errno, "run cella-vmm");
    }
    if (write(2, e.text, strlen(e.text)) < 0) _exit(2);
    _exit(1);
}

/* The first message of a monitor, by the process that wrote it. */
static int await_ready(struct vmm *v, int limit_ms, struct ucred *who, struct err *e) {
    const int64_t until = monotonic_ms() + limit_ms;
    for (int got; (got = vmm_receive(v, who)) <= 0;) {
        if (got < 0) return err_set(e, ERR_LOST, "the monitor of a machine ended at its start");
        if (vmm_readable(v, until, limit_ms, e)) return -1;
    }
    const char *text;
    const struct vmm_message *m = vmm_received(&text);
    if (m->type != VMM_READY || m->seq) return err_set(e, ERR_LOST, "the monitor of a machine did not say that it is ready");
    if (m->status) return vmm_refused(m, text, e);
    if (m->arg[1] != VMM_PROTO_VERSION) return err_set(e, ERR_UNSUPPORTED, "cella-vmm speaks version %u of its protocol, this keeper %d", (unsigned)m->arg[1], VMM_PROTO_VERSION);
    const int off = 0;
    return setsockopt(v->watch.fd, SOL_SOCKET, SO_PASSCRED, &off, sizeof off) ? err_sys(e, errno, "control socket") : 0;
}

int vmm_pair(struct vmm *v, struct err *e) {
    int ends[2];
    const int on = 1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return err_sys(e, errno, "control socket of a monitor");
    v->watch.fd = ends[0];
    v->over = false;
    user_count(v->uid, 1);
    if (!setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on)) return ends[1];
    err_sys(e, errno, "control socket of a monitor");
    close(ends[1]);
    return -1;
}

int vmm_start(struct vmm *v, bool of_template, struct err *e) {
    int pipe_ends[2];
    struct ucred who;
    if (program_fd < 0) return err_hint(e, ERR_UNSUPPORTED, "`cella doctor` says what is missing", "there are no virtual machines on this host");
    cleanup_close int theirs = vmm_pair(v, e);
    cleanup_close int kvm = theirs < 0 ? -1 : open_kvm(e);
    if (kvm < 0) return -1;
    if (pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK)) return err_sys(e, errno, "pipe");
    cleanup_close int said = pipe_ends[0], says = pipe_ends[1];
    const pid_t pid = fork();
    if (!pid) child_main(v, of_template, says, theirs, kvm);
    if (pid < 0) return err_sys(e, errno, "fork");
    child_ordinary(pid);
    v->pid = pid;
    close_fd(&theirs);
    close_fd(&says);
    if (!await_ready(v, VMM_START_MS, &who, e) && who.pid == pid) return 0;
    char text[160];
    const ssize_t n = read(said, text, sizeof text - 1);
    if (n > 0) {
        text[n] = 0;
        text[strcspn(text, "\n")] = 0;
        err_wrap(e, "%s", text);
    }
    return -1;
}

/* ---- forks ---- */

struct group { /* what was in one at a moment */
    pid_t pid[GROUP_MAX];
    int n;
};

static bool has(const struct group *g, pid_t pid) {
    for (int i = 0; i < g->n; i++)
        if (g->pid[i] == pid) return true;
    return false;
}

static bool in_group(const char *group, pid_t pid) {
    struct group g;
    g.n = cgroup_processes(group, g.pid, GROUP_MAX);
    return has(&g, pid);
}

static bool is_kernel_thread(pid_t pid) {
    enum { PF_KTHREAD = 0x200000 };
    char path[64], line[512];
    unsigned flags;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    cleanup_file FILE *f = fopen(path, "re");
    const char *rest = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    return rest && sscanf(rest, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & PF_KTHREAD;
}

/* Before 6.13 the kernel's worker for a virtual machine is a thread of its own, which it puts into the group where the machine was made: the parent's, for a fork. There it would
 * count, and keep the group from being removed as long as the fork lives. Those that were not there before: */
static void move_workers(const char *from, const struct group *before, const char *to) {
    struct group g;
    struct err e;
    g.n = cgroup_processes(from, g.pid, GROUP_MAX);
    for (int i = 0; i < g.n; i++)
        if (!has(before, g.pid[i]) && is_kernel_thread(g.pid[i]) && cgroup_enter(to, CGROUP_RUN, g.pid[i], &e)) log_warn("worker of a machine: %s", e.text);
}

int vmm_move(struct vmm *v, const char *group, struct err *e) {
    if (!in_group(v->group, v->pid)) return err_set(e, ERR_LOST, "the monitor of the machine is gone");
    if (cgroup_enter(group, CGROUP_RUN, v->pid, e)) return -1;
    move_workers(v->group, &(struct group){0}, group);
    (void)snprintf(v->group, sizeof v->group, "%s", group);
    return 0;
}

static struct group before; /* the fork that is under way: the parent's */

int vmm_fork(struct vmm *parent, struct vmm *v, int theirs, struct err *e) {
    before.n = cgroup_processes(parent->group, before.pid, GROUP_MAX);
    const bool other_user = v->uid != parent->uid;
    const struct vmm_ask ask = {.arg = {other_user ? VMM_FORK_UID : 0, v->uid, v->uid}, .fd = {theirs}, .fds = 1};
    uint64_t said[6];
    const int rc = vmm_ask(parent, VMM_FORK, &ask, VMM_ANSWER_MS, said, e);
    close(theirs);
    if (rc) return -1;
    v->pid = said[0] <= INT_MAX ? (pid_t)said[0] : 0; /* not believed before vmm_forked() */
    return 0;
}

/* The parent may be a guest's that took its monitor over, and say any number: it must be a process that the parent made, which the kernel says of the one that wrote
 * the first message, and which can be nowhere but in the parent's group. */
int vmm_forked(struct vmm *parent, struct vmm *v, struct err *e) {
    struct ucred who;
    const int ready = await_ready(v, VMM_ANSWER_MS, &who, e);
    const bool its = v->pid != parent->pid && in_group(parent->group, v->pid);
    if (!ready && its && v->pid == who.pid && who.uid == v->uid) {
        move_workers(parent->group, &before, v->group);
        return cgroup_enter(v->group, CGROUP_RUN, v->pid, e);
    }
    if (its) kill(v->pid, SIGKILL);
    if (ready) return -1;
    vmm_lost(parent, "its fork is not the process that it says");
    return err_set(e, ERR_LOST, "the fork of a monitor is not the process that it says");
}

/* ---- the end ---- */

void vmm_end(struct vmm *v) {
    if (v->watch.fd >= 0) user_count(v->uid, -1);
    watch_end(&v->watch);
    if (v->group[0]) cgroup_kill(v->group);
    v->over = true;
}

struct grave {
    struct grave *next;
    char group[KEEPER_ID];
};
static struct grave *graves;

void vmm_bury(const char *group) {
    struct grave *g = calloc(1, sizeof *g);
    if (!cgroup_remove(group) || !g) {
        free(g);
        return;
    }
    (void)snprintf(g->group, sizeof g->group, "%s", group);
    g->next = graves;
    graves = g;
}

bool vmm_sweep(void) {
    for (struct grave **g = &graves; *g;) {
        struct grave *one = *g;
        if (cgroup_remove(one->group)) {
            g = &one->next;
            continue;
        }
        *g = one->next;
        free(one);
    }
    return graves != NULL;
}
