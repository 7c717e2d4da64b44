#include "keeper/cell_start.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdpass.h"
#include "jail/landlock_policy.h"
#include "keeper/cell_root.h"
#include "keeper/cgroup.h"
#include "keeper/ferry.h"
#include "keeper/host.h"
#include "wire/guest_proto.h"

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
#define GUEST_CAPS                                                                                                     \
    ((1ull << CAP_SETUID) | (1ull << CAP_SETGID) | (1ull << CAP_SETPCAP) | (1ull << CAP_KILL) | (1ull << CAP_CHOWN) |  \
     (1ull << CAP_DAC_OVERRIDE) | (1ull << CAP_FOWNER))

/* ---- in the cell ---- */

/* Capabilities that survive the exec of the guest as an ordinary user: the ambient set. */
static int keep_capabilities(struct err *e) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = (uint32_t)GUEST_CAPS, .permitted = (uint32_t)GUEST_CAPS, .inheritable = (uint32_t)GUEST_CAPS}};
    if (syscall(SYS_capset, &header, data)) return err_sys(e, errno, "capset");
    for (int c = 0; c < 64; c++)
        if ((GUEST_CAPS >> c & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0)) return err_sys(e, errno, "ambient capability %d", c);
    return 0;
}

static int become_guest(struct err *e) {
    if (child_drop_bounding(GUEST_CAPS, e)) return -1;
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) || setgroups(0, NULL) || setresgid(CELL_UID_GUEST, CELL_UID_GUEST, CELL_UID_GUEST) ||
        setresuid(CELL_UID_GUEST, CELL_UID_GUEST, CELL_UID_GUEST))
        return err_sys(e, errno, "become the guest's user");
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* after the change of credentials, which clears it */
    return keep_capabilities(e);
}

/* What a blank is told. */
struct told {
    char hostname[16];
    uint64_t shm_bytes;
    uint32_t open_files;
};
enum { LOWER, LAYER, SHOW_LAYER, SHOW_LOWER, TOLD_FDS };

/* Final descriptors: 0 null, 1 and 2 the keeper's log, stream, slots, rules, the directories for looking at, and the guest's own file for the exec. */
static int place_descriptors(const struct cell_seed *s, int rules, const int fds[TOLD_FDS], int *sync_fd, int *guest_fd, struct err *e) {
    enum { HIGH = 210, PLACES = 5 };
    const int place[PLACES] = {GUEST_FD_STREAM, GUEST_FD_SLOTS, GUEST_FD_RULES, GUEST_FD_LAYER, GUEST_FD_LOWER};
    int from[PLACES + 2] = {s->guest_stream_fd, s->slot_fd, rules, fds[SHOW_LAYER], fds[SHOW_LOWER], host.guest_fd, *sync_fd};
    for (size_t i = 0; i < PLACES + 2; i++) /* out of the way of the numbers they will get */
        if (from[i] >= 0 && (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, HIGH)) < 0) return err_sys(e, errno, "move a descriptor");
    *guest_fd = from[PLACES];
    *sync_fd = from[PLACES + 1];
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0) return err_sys(e, errno, "open /dev/null");
    if (syscall(SYS_close_range, 3, HIGH - 1, 0)) return err_sys(e, errno, "close the keeper's descriptors");
    null = -1;
    for (size_t i = 0; i < PLACES; i++)
        if (from[i] >= 0 && dup2(from[i], place[i]) < 0) return err_sys(e, errno, "place descriptors");
    return 0; /* whatever the keeper has above is close-on-exec: it makes no other kind */
}

/* One message with exactly n descriptors; 0 bytes: the keeper does not want this blank any more. */
static int receive(int sync_fd, void *data, size_t size, int *fds, size_t n, struct err *e) {
    struct iovec iov = {data, size};
    union {
        char space[CMSG_SPACE(TOLD_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t got = recvmsg(sync_fd, &m, MSG_CMSG_CLOEXEC);
    if (!got) _exit(0);
    if (got != (ssize_t)size) return err_sys(e, errno, "wait for the mounts");
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_len != CMSG_LEN(n * sizeof(int))) return err_set(e, ERR_INTERNAL, "the mounts did not arrive");
    memcpy(fds, CMSG_DATA(c), n * sizeof(int));
    return 0;
}

static int guest_prepare(const struct cell_seed *s, int *sync_fd, int *guest_fd, int *rules, struct told *t, struct err *e) {
    int dev, fds[TOLD_FDS];
    char byte;
    if (receive(*sync_fd, &byte, 1, &dev, 1, e)) return -1;
    /* root of the new user namespace, now that its map is written */
    if (setresgid(0, 0, 0) || setresuid(0, 0, 0)) return err_sys(e, errno, "become the cell's root");
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (cell_root_prepare(HOST_STAGE, dev, e)) return -1;
    if (receive(*sync_fd, t, sizeof *t, fds, TOLD_FDS, e)) return -1;
    const struct cell_root root = {.hostname = t->hostname, .shm_bytes = t->shm_bytes, .lower_fd = fds[LOWER], .layer_fd = fds[LAYER]};
    if (cell_root_enter(&root, e)) return -1;
    if (host.landlock_abi && !host.off[LAYER_LANDLOCK]) {
        if ((*rules = landlock_policy_build(e)) < 0) return -1;
        if (landlock_policy_show(*rules, fds[SHOW_LAYER], e) || landlock_policy_show(*rules, fds[SHOW_LOWER], e)) return -1;
    }
    return place_descriptors(s, *rules, fds, sync_fd, guest_fd, e);
}

static int guest_confine(const struct told *t, int rules, struct err *e) {
    if (child_rlimits(t->open_files, e) || become_guest(e)) return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return err_sys(e, errno, "no_new_privs");
    if (rules >= 0 && landlock_policy_enter(GUEST_FD_RULES, e)) return -1;
    return child_filter(e);
}

/* A blank may wait for long: of the keeper's descriptors it holds its own. */
static void drop_descriptors(const struct cell_seed *s, int sync_fd) {
    const int mine[] = {s->guest_stream_fd, s->slot_fd, sync_fd, host.guest_fd};
    for (unsigned from = 3, next; from != ~0u; from = next + 1) {
        next = ~0u - 1;
        for (size_t i = 0; i < sizeof mine / sizeof *mine; i++)
            if ((unsigned)mine[i] >= from && (unsigned)mine[i] < next) next = (unsigned)mine[i];
        if (next > from) (void)syscall(SYS_close_range, from, next == ~0u - 1 ? ~0u : next - 1, 0);
    }
}

static void guest_main(const struct cell_seed *s, int sync_fd) {
    static char *const argv[] = {"cella-guest", NULL}, *const environment[] = {NULL};
    struct err e;
    struct told t;
    int guest_fd = -1, rules = -1;
    child_signals();
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    drop_descriptors(s, sync_fd);
    if (!guest_prepare(s, &sync_fd, &guest_fd, &rules, &t, &e) && !guest_confine(&t, rules, &e)) {
        syscall(SYS_execveat, guest_fd, "", argv, environment, AT_EMPTY_PATH);
        err_sys(&e, errno, "run cella-guest");
    }
    (void)send(sync_fd, e.text, strlen(e.text), MSG_NOSIGNAL);
    _exit(1);
}

/* ---- in the keeper ---- */

/* The helper shares the keeper's memory (vfork) and exists to have other credentials: the creator's effective id owns the new user namespace. */
static pid_t clone_guest(const struct cell_seed *s, int sync_fd, struct err *e) {
    volatile pid_t guest = -1;
    volatile int failed = 0;
    struct err volatile_error = {0};
    struct err *inner = &volatile_error;
    pid_t helper = vfork();
    if (helper < 0) return err_sys(e, errno, "vfork");
    if (!helper) {
        const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
        /* ceilings of the namespace's counters are its creator's limits at this moment */
        (void)setrlimit(RLIMIT_SIGPENDING, &none);
        (void)setrlimit(RLIMIT_MSGQUEUE, &none);
        (void)setrlimit(RLIMIT_MEMLOCK, &none);
        (void)setrlimit(RLIMIT_NPROC, &none);
        /* born inside its groups, so that they are the root of its cgroup namespace */
        if (cgroup_enter(s->name, CGROUP_RUN, 0, inner)) {
            failed = 1;
        } else if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, HOST_UID_OWNER, HOST_UID_OWNER, HOST_UID_OWNER) ||
                   syscall(SYS_setresuid, HOST_UID_OWNER, HOST_UID_OWNER, HOST_UID_OWNER)) {
            failed = 2;
        } else {
            /* CLONE_PARENT: the keeper itself is the parent, for wait and for the death signal */
            pid_t pid = (pid_t)syscall(SYS_clone, NAMESPACES | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
            if (!pid) guest_main(s, sync_fd);
            guest = pid;
            failed = pid < 0 ? errno + 1000 : 0;
        }
        _exit(0);
    }
    while (waitpid(helper, NULL, 0) < 0 && errno == EINTR) continue;
    if (failed == 1) *e = volatile_error;
    if (failed == 2) err_set(e, ERR_INTERNAL, "cannot become the owner of cells");
    if (failed >= 1000) err_sys(e, failed - 1000, "new namespaces");
    return failed ? -1 : guest;
}

static int write_map(pid_t pid, const char *file, uint32_t base, struct err *e) {
    char path[64], text[64];
    (void)snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    int n = snprintf(text, sizeof text, "0 %u %u\n", base, HOST_UID_RANGE);
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)n) != n) return err_sys(e, errno, "write %s", path);
    return 0;
}

static int send_devices(int sync_fd, struct err *e) {
    cleanup_close int dev = detached_mount(host.dev_fd, "", -1, 0, e);
    if (dev < 0) return err_wrap(e, "devices");
    return fdpass_send(sync_fd, "D", 1, &dev, 1, 0) ? err_sys(e, errno, "send the devices") : 0;
}

void cell_hostname(char out[16], const char *id) {
    const char *digits = strchr(id, '_');
    (void)snprintf(out, 16, "%.12s", digits ? digits + 1 : id);
}

int cell_start_blank(const struct cell_seed *s, struct cell_blank *out, struct err *e) {
    int sync_fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync_fds)) return err_sys(e, errno, "socketpair");
    cleanup_close int mine = sync_fds[0], theirs = sync_fds[1];
    pid_t guest = clone_guest(s, theirs, e);
    if (guest < 0) return -1;
    child_ordinary(guest);
    if (!write_map(guest, "uid_map", s->uid_base, e) && !write_map(guest, "gid_map", s->uid_base, e) && !send_devices(mine, e)) {
        *out = (struct cell_blank){.guest = guest, .sync_fd = steal_fd(&mine)};
        return 0;
    }
    kill(guest, SIGKILL);
    while (waitpid(guest, NULL, __WALL) < 0 && errno == EINTR) continue;
    return err_wrap(e, "cell");
}

int cell_start_tell(const struct cell_blank *b, const struct cell_start *s, struct err *e) {
    const uint64_t safe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    struct told t = {.shm_bytes = s->limits->memory_bytes / 2, .open_files = s->limits->open_files};
    char path[64];
    cell_hostname(t.hostname, s->id);
    (void)snprintf(path, sizeof path, "/proc/%d/ns/user", b->guest);
    cleanup_close int userns = open(path, O_RDONLY | O_CLOEXEC);
    if (userns < 0) return err_sys(e, errno, "open %s", path);
    /* template and layer under the cell's owners; once more for looking at */
    cleanup_close int lower = detached_mount(s->template_fd, "", userns, safe | MOUNT_ATTR_RDONLY, e);
    if (lower < 0) return err_wrap(e, "template");
    cleanup_close int layer = detached_mount(s->layer_fd, "", userns, safe, e);
    if (layer < 0) return err_wrap(e, "layer");
    cleanup_close int show_layer = detached_mount(s->layer_fd, "u", userns, safe | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, e);
    if (show_layer < 0) return err_wrap(e, "layer for looking at");
    cleanup_close int show_lower = detached_mount(s->template_fd, "", userns, safe | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, e);
    if (show_lower < 0) return err_wrap(e, "template for looking at");
    const int fds[TOLD_FDS] = {[LOWER] = lower, [LAYER] = layer, [SHOW_LAYER] = show_layer, [SHOW_LOWER] = show_lower};
    return fdpass_send(b->sync_fd, &t, sizeof t, fds, TOLD_FDS, 0) ? err_sys(e, errno, "send the mounts") : 0;
}

/* The exec closes the guest's end; anything it says before is the reason why it failed. Contexts cannot be brought in earlier: until then the
 * guest's memory is a copy of the keeper's, and nobody in a cell may look into its process. */
int cell_start_await(struct cell_blank *b, struct err *e) {
    char text[KEEPER_TEXT];
    struct timeval limit = {10, 0};
    (void)setsockopt(b->sync_fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ssize_t n = recv(b->sync_fd, text, sizeof text - 1, 0);
    int failed = errno;
    close_fd(&b->sync_fd);
    if (!n) return 0; /* or it was killed: then the ferry fails */
    if (n < 0) return err_sys(e, failed, "wait for the cell's start");
    text[n] = 0;
    return err_set(e, ERR_INTERNAL, "cell: %s", text);
}
