#include "keeper/host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "base/log.h"
#include "jail/landlock_policy.h"
#include "jail/seccomp_policy.h"
#include "keeper/arch.h"

#ifndef SYS_mseal
#define SYS_mseal 462 /* Linux 6.10 */
#endif

struct host host = {.dev_fd = -1, .guest_fd = -1, .stub_fd = -1};

int host_layer_off(const char *name) {
#ifdef CELLA_TEST_LAYERS
    static const char *const names[LAYERS] = {"seccomp", "landlock", "masks", "caps", "limits", "userlimits"};
    for (int i = 0; i < LAYERS; i++)
        if (!strcmp(name, names[i])) {
            host.off[i] = true;
            return 0;
        }
#endif
    (void)name;
    return -1;
}

int host_template_fd(const char *template_id, struct err *e) {
    char path[sizeof host.state + 128];
    if (!memchr(template_id, 0, KEEPER_TEMPLATE) || !hex_valid(template_id, 64))
        return err_set(e, ERR_INVALID, "a template id is 64 hexadecimal digits");
    (void)snprintf(path, sizeof path, "%s/templates/%s/root", host.state, template_id);
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? err_sys(e, errno, "open template %s", template_id) : fd;
}

/* A memory file with these bytes that nobody can change any more. */
static int sealed_file(const char *name, const void *bytes, size_t n, int source, struct err *e) {
    cleanup_close int fd = memfd_create(name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "memfd_create");
    if (bytes && write(fd, bytes, n) != (ssize_t)n) return err_sys(e, errno, "fill %s", name);
    for (ssize_t got = 1; source >= 0 && got > 0;)
        if ((got = sendfile(fd, source, NULL, 1 << 20)) < 0) return err_sys(e, errno, "copy %s", name);
    /* whole pages: a mapping must not end inside the file's last page */
    off_t size = lseek(fd, 0, SEEK_END);
    if (bytes && ftruncate(fd, (size + 4095) & ~4095)) return err_sys(e, errno, "size %s", name);
    if (fchmod(fd, 0555) || fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
        return err_sys(e, errno, "seal %s", name);
    return steal_fd(&fd);
}

/* A tiny read-only tree with the device nodes that a cell has, made once and cloned into each. */
static int make_devices(struct err *e) {
    static const struct {
        const char *name;
        unsigned major, minor;
    } node[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const char *const link[][2] = {{"pts/ptmx", "ptmx"},           {"/proc/self/fd", "fd"},     {"/proc/self/fd/0", "stdin"},
                                          {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}};
    static const char *const directory[] = {"pts", "shm"};
    char path[sizeof host.state + 64];
    (void)snprintf(path, sizeof path, "%s/run/dev", host.state);
    if (mkdir(path, 0755) && errno != EEXIST) return err_sys(e, errno, "make %s", path);
    if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=755")) return err_sys(e, errno, "mount %s", path);
    cleanup_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return err_sys(e, errno, "open %s", path);
    mode_t old = umask(0);
    for (size_t i = 0; i < sizeof node / sizeof *node; i++)
        if (mknodat(dir, node[i].name, S_IFCHR | 0666, makedev(node[i].major, node[i].minor))) return err_sys(e, errno, "device %s", node[i].name);
    for (size_t i = 0; i < sizeof link / sizeof *link; i++)
        if (symlinkat(link[i][0], dir, link[i][1])) return err_sys(e, errno, "link %s", link[i][1]);
    for (size_t i = 0; i < sizeof directory / sizeof *directory; i++)
        if (mkdirat(dir, directory[i], 0755)) return err_sys(e, errno, "directory %s", directory[i]);
    umask(old);
    if (mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL)) return err_sys(e, errno, "make %s read-only", path);
    host.dev_fd = steal_fd(&dir);
    return 0;
}

/* Cells share one owner of user namespaces, and terminals: each has its own ceilings, so the common ones may be the sum of them. */
static void raise_common_limits(void) {
    static const struct {
        const char *file;
        long want;
    } limit[] = {
        {"/proc/sys/fs/inotify/max_user_instances", 128l * KEEPER_CELLS_MAX}, {"/proc/sys/fs/inotify/max_user_watches", 16384l * KEEPER_CELLS_MAX},
        {"/proc/sys/user/max_user_namespaces", 128l * KEEPER_CELLS_MAX},   {"/proc/sys/user/max_pid_namespaces", 128l * KEEPER_CELLS_MAX},
        {"/proc/sys/user/max_net_namespaces", 128l * KEEPER_CELLS_MAX},    {"/proc/sys/user/max_mnt_namespaces", 128l * KEEPER_CELLS_MAX},
        {"/proc/sys/user/max_ipc_namespaces", 128l * KEEPER_CELLS_MAX},    {"/proc/sys/user/max_uts_namespaces", 128l * KEEPER_CELLS_MAX},
        {"/proc/sys/user/max_cgroup_namespaces", 128l * KEEPER_CELLS_MAX}, {"/proc/sys/kernel/pty/max", (long)HOST_PTYS_PER_CELL * KEEPER_CELLS_MAX},
    };
    for (size_t i = 0; i < sizeof limit / sizeof *limit; i++) {
        cleanup_close int in = open(limit[i].file, O_RDONLY | O_CLOEXEC);
        char text[32] = "";
        if (in < 0 || read(in, text, sizeof text - 1) <= 0 || atol(text) >= limit[i].want) continue;
        /* below user/ writing takes CAP_SYS_RESOURCE, which root of a container may lack */
        cleanup_close int out = open(limit[i].file, O_WRONLY | O_CLOEXEC);
        int n = snprintf(text, sizeof text, "%ld", limit[i].want);
        if (out < 0 || write(out, text, (size_t)n) < 0) log_warn("cannot raise %s: %s", limit[i].file, strerror(errno));
    }
}

int host_open(const char *state, const char *contexts, const char *guest, struct err *e) {
    char path[sizeof host.state + 64];
    if (!realpath(state, path) || strlen(path) >= sizeof host.state) return err_sys(e, errno, "state directory %s", state);
    (void)snprintf(host.state, sizeof host.state, "%s", path);
    if (!realpath(contexts, path) || strlen(path) >= sizeof host.contexts) return err_sys(e, errno, "contexts directory %s", contexts);
    (void)snprintf(host.contexts, sizeof host.contexts, "%s", path);
    (void)snprintf(path, sizeof path, "%s/run", host.state);
    if (mkdir(path, 0755) && errno != EEXIST) return err_sys(e, errno, "make %s", path);
    (void)snprintf(path, sizeof path, "%s/run/" HOST_STAGE, host.state);
    if (mkdir(path, 0755) && errno != EEXIST) return err_sys(e, errno, "make %s", path);
    /* mounts of the keeper are nobody else's: they go with it */
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return err_sys(e, errno, "private mount namespace");

    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return err_sys(e, errno, "getrlimit");
    host.open_files_max = files.rlim_max;

    cleanup_close int source = open(guest, O_RDONLY | O_CLOEXEC);
    if (source < 0) return err_sys(e, errno, "open %s", guest);
    if ((host.guest_fd = sealed_file("cella-guest", NULL, 0, source, e)) < 0) return -1;
    if ((host.stub_fd = sealed_file("cella-stub", arch_stub, arch_stub_size, -1, e)) < 0) return -1;
    if (make_devices(e) || seccomp_policy_build(&host.filter, e)) return -1;
    host.landlock_abi = landlock_policy_abi();
    if (host.landlock_abi) host.features |= KEEPER_HAS_LANDLOCK;
    if (!syscall(SYS_mseal, NULL, 0, 0)) host.features |= KEEPER_HAS_MSEAL; /* of nothing: tells whether the call is there */
    raise_common_limits();
    return 0;
}

int host_settle(struct err *e) {
    char path[sizeof host.state + 16];
    (void)snprintf(path, sizeof path, "%s/run", host.state);
    return chdir(path) ? err_sys(e, errno, "enter %s", path) : 0;
}

void child_signals(void) {
    sigset_t none;
    /* An ignored one would stay ignored across exec. By the system call itself: the C library keeps 32 and 33 from its callers, and some
     * programs start others with these two ignored. */
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } standard = {0};
    for (int signo = 1; signo <= 64; signo++) (void)syscall(SYS_rt_sigaction, signo, &standard, NULL, sizeof standard.mask);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Both limits at `value`, or at the hard limit where that is lower: raising it takes a capability that a container may lack. */
static int lower_rlimit(int what, rlim_t value, struct rlimit *out) {
    if (getrlimit((__rlimit_resource_t)what, out)) return -1;
    if (value > out->rlim_max) value = out->rlim_max;
    *out = (struct rlimit){value, value};
    return 0;
}

/* Signals that wait are counted per cell, and for all cells together up to the keeper's own hard limit: endless where it could be lifted
 * (main.c), else every cell gets a share of it, small enough that a few hostile ones do not use it up. */
static rlim_t pending_signals(void) {
    enum { SHARES = 256, MOST = 4096 };
    struct rlimit r;
    if (getrlimit(RLIMIT_SIGPENDING, &r) || r.rlim_max / SHARES >= MOST) return MOST;
    return r.rlim_max / SHARES > 64 ? r.rlim_max / SHARES : 64;
}

void child_ordinary(pid_t pid) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) log_debug("%s: %s", path, strerror(errno));
}

int child_rlimits(uint32_t open_files, struct err *e) {
    const struct {
        int what;
        rlim_t value;
    } limit[] = {
        {RLIMIT_NOFILE, open_files}, {RLIMIT_CORE, HOST_NO_CORE}, {RLIMIT_SIGPENDING, pending_signals()}, {RLIMIT_MSGQUEUE, 0},
        {RLIMIT_MEMLOCK, 64u << 20}, {RLIMIT_RTPRIO, 0},        {RLIMIT_NICE, 0},          {RLIMIT_NPROC, RLIM_INFINITY},
    };
    for (size_t i = 0; i < sizeof limit / sizeof *limit; i++) {
        struct rlimit r;
        if (host.off[LAYER_USERLIMITS] && limit[i].what == RLIMIT_SIGPENDING) continue;
        if (lower_rlimit(limit[i].what, limit[i].value, &r) || setrlimit((__rlimit_resource_t)limit[i].what, &r))
            return err_sys(e, errno, "resource limit %d", limit[i].what);
    }
    return 0;
}

int child_drop_bounding(uint64_t keep, struct err *e) {
    if (host.off[LAYER_CAPS]) return 0;
    for (int c = 0; c < 64; c++)
        if (!(keep >> c & 1) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) && errno != EINVAL) return err_sys(e, errno, "drop capability %d", c);
    return 0;
}

int child_filter(struct err *e) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return err_sys(e, errno, "no_new_privs");
    if (host.off[LAYER_SECCOMP]) return 0;
    return prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &host.filter) ? err_sys(e, errno, "load the system call filter") : 0;
}

int detached_mount(int dir_fd, const char *path, int userns_fd, uint64_t attr, struct err *e) {
    cleanup_close int fd =
        (int)syscall(SYS_open_tree, dir_fd, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path ? 0u : (unsigned)AT_EMPTY_PATH));
    if (fd < 0) return err_sys(e, errno, "clone mount %s", path);
    struct mount_attr a = {.attr_set = attr | (userns_fd >= 0 ? MOUNT_ATTR_IDMAP : 0), .userns_fd = (uint64_t)(userns_fd >= 0 ? userns_fd : 0)};
    if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &a, sizeof a)) return err_sys(e, errno, "owners of mount %s", path);
    return steal_fd(&fd);
}
