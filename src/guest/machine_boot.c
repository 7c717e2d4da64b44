#include "guest/machine_boot.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "guest/machine_group.h"
#include "wire/guest_proto.h"

#define DISK_WAIT_MS 10000
#define OPEN_FILES 1048576 /* the kernel's own ceiling (fs.nr_open); each process of the cell gets its cell's limit */
#define PLAIN (MS_NOSUID | MS_NODEV | MS_NOEXEC)

bool machine_here(void) {
    char line[2048];
    if (getpid() != 1 || fcntl(GUEST_FD_STREAM, F_GETFD) >= 0) return false;
    (void)mkdir("/proc", 0755);
    (void)mount("proc", "/proc", "proc", PLAIN, NULL);
    cleanup_close int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (n <= 0) return false;
    line[n] = 0;
    char *rest = line;
    for (char *word; (word = strsep(&rest, " \n"));)
        if (!strcmp(word, "cella.machine")) return true;
    return false;
}

static int mount_at(const char *type, const char *where, unsigned long flags, const char *options, struct err *e) {
    if (mkdir(where, 0755) < 0 && errno != EEXIST && errno != EROFS) return err_sys(e, errno, "make %s", where);
    return mount(type, where, type, flags, options) < 0 ? err_sys(e, errno, "mount %s on %s", type, where) : 0;
}

/* ---- modules ---- */

static int load_module(const char *name, struct err *e) {
    char path[160];
    (void)snprintf(path, sizeof path, "/modules/%s", name);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) return err_sys(e, errno, "kernel module %s", name);
    (void)unlink(path); /* its memory is wanted back */
    return 0;
}

static int load_modules(struct err *e) {
    char name[128];
    cleanup_file FILE *list = fopen("/modules/order", "re");
    if (!list) return err_sys(e, errno, "/modules/order");
    while (fgets(name, sizeof name, list)) {
        name[strcspn(name, "\n")] = 0;
        if (*name && load_module(name, e) < 0) return -1;
    }
    return 0;
}

static int await_device(const char *path, struct err *e) {
    for (int waited = 0; access(path, F_OK) < 0; waited++) {
        if (waited >= DISK_WAIT_MS) return err_sys(e, errno, "%s", path);
        usleep(1000);
    }
    return 0;
}

/* ---- the cell's root ---- */

static int mount_disks(struct err *e) {
    if (await_device("/dev/vda", e) < 0 || await_device("/dev/vdb", e) < 0) return -1;
    if (mount("/dev/vda", "/root", "erofs", MS_RDONLY | MS_NODEV, NULL) < 0) return err_sys(e, errno, "mount the template");
    /* The disk is a hole: there are no inode tables to be zeroed (templates/builder/machine_image.py). */
    if (mount("/dev/vdb", "/disk", "ext4", MS_NODEV | MS_NOATIME, "noinit_itable,nobarrier") < 0) return err_sys(e, errno, "mount the disk");
    if ((mkdir("/disk/u", 0755) < 0 || mkdir("/disk/w", 0755) < 0) && errno != EEXIST) return err_sys(e, errno, "prepare the disk");
    return 0;
}

/* The overlay, as the process driver mounts it (userxattr: layer.h). Below the template lies a directory of the first root that has nothing but
 * usr/lib/cella, so that the place to mount the contexts on is no change of the cell's. volatile: the disk is never used without the memory that mounted it, so
 * fsync(2) in a cell has nothing to wait for. */
static int mount_root(struct err *e) {
    if (mkdir("/skeleton", 0755) < 0 || mkdir("/skeleton/usr", 0755) < 0 || mkdir("/skeleton/usr/lib", 0755) < 0 || mkdir("/skeleton/usr/lib/cella", 0755) < 0)
        return err_sys(e, errno, "prepare the first root");
    if (mount("overlay", "/cell", "overlay", 0, "lowerdir=/root:/skeleton,upperdir=/disk/u,workdir=/disk/w,userxattr,volatile") < 0)
        return err_sys(e, errno, "mount the cell's root");
    if (mount("/contexts", "/cell/usr/lib/cella", NULL, MS_BIND, NULL) < 0 ||
        mount(NULL, "/cell/usr/lib/cella", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0)
        return err_sys(e, errno, "mount the contexts");
    return 0;
}

static int mount_devices(struct err *e) {
    static const char *const links[][2] = {{"/proc/self/fd", "/cell/dev/fd"}, {"/proc/self/fd/0", "/cell/dev/stdin"}, {"/proc/self/fd/1", "/cell/dev/stdout"},
                                           {"/proc/self/fd/2", "/cell/dev/stderr"}};
    if (mount_at("devtmpfs", "/cell/dev", MS_NOSUID, NULL, e) < 0 || mount_at("devpts", "/cell/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5", e) < 0 ||
        mount_at("tmpfs", "/cell/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", e) < 0)
        return -1;
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST) return err_sys(e, errno, "%s", links[i][1]);
    return 0;
}

static int mount_kernel(struct err *e) {
    return mount_at("proc", "/cell/proc", PLAIN, NULL, e) < 0 || mount_at("sysfs", "/cell/sys", PLAIN | MS_RDONLY, NULL, e) < 0 ||
                   mount_at("cgroup2", "/cell/sys/fs/cgroup", PLAIN | MS_RDONLY, NULL, e) < 0
               ? -1
               : 0;
}

/* What `changes` looks at (wire/guest_proto.h). */
static int show_layers(struct err *e) {
    cleanup_close int layer = open("/disk/u", O_RDONLY | O_DIRECTORY | O_CLOEXEC), lower = open("/root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (layer < 0 || lower < 0) return err_sys(e, errno, "the cell's layers");
    return dup3(layer, GUEST_FD_LAYER, O_CLOEXEC) < 0 || dup3(lower, GUEST_FD_LOWER, O_CLOEXEC) < 0 ? err_sys(e, errno, "the cell's layers") : 0;
}

/* The first root cannot be left by pivot_root: the cell's is moved over it. */
static int enter_root(struct err *e) {
    if (chdir("/cell") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0) return err_sys(e, errno, "enter the cell's root");
    return 0;
}

static int loopback_up(struct err *e) {
    cleanup_close int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    return s < 0 || ioctl(s, SIOCSIFFLAGS, &lo) < 0 ? err_sys(e, errno, "bring loopback up") : 0;
}

/* The kernel's defaults are for a program that is nobody's child (4,096 files), or follow from the machine's memory; processes are the group's to limit. */
static int raise_limits(struct err *e) {
    const struct rlimit files = {OPEN_FILES, OPEN_FILES}, any = {RLIM_INFINITY, RLIM_INFINITY};
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_NPROC, &any) < 0 || setrlimit(RLIMIT_SIGPENDING, &any) < 0) return err_sys(e, errno, "limits of the first program");
    return 0;
}

/* The kernel must never end process 1 for its memory: that would be the end of the machine. */
static int survive(struct err *e) {
    cleanup_close int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    return fd < 0 || write(fd, "-1000", 5) < 0 ? err_sys(e, errno, "oom_score_adj") : 0;
}

int machine_boot(struct err *e) {
    if (mount_at("devtmpfs", "/dev", MS_NOSUID, NULL, e) < 0 || mount_at("sysfs", "/sys", PLAIN, NULL, e) < 0) return -1;
    if (mount_at("cgroup2", "/sys/fs/cgroup", PLAIN, NULL, e) < 0) return -1;
    if (load_modules(e) < 0 || mount_disks(e) < 0 || mount_root(e) < 0 || mount_devices(e) < 0 || mount_kernel(e) < 0) return -1;
    if (group_open("/sys/fs/cgroup", "/disk", "vdb", e) < 0 || show_layers(e) < 0 || survive(e) < 0 || enter_root(e) < 0) return -1;
    if (loopback_up(e) < 0 || raise_limits(e) < 0) return -1;
    umask(022);
    return sethostname("template", 8) < 0 ? err_sys(e, errno, "host name") : 0;
}
