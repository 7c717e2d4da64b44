#include "keeper/cell_root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "keeper/host.h"

/* Files of /proc that tell about the host or its hardware, or act on it; covered by the null device. What programs
 * ordinarily read (cpuinfo, meminfo, stat, uptime, loadavg, version, filesystems, self, sys, net) stays. */
static const char *const masked_files[] = {
    "cmdline",    "kcore",      "keys",      "key-users", "kmsg",      "kallsyms",    "kpagecount", "kpageflags", "kpagecgroup",
    "modules",    "partitions", "diskstats", "swaps",     "iomem",     "ioports",     "interrupts", "softirqs",   "locks",
    "timer_list", "slabinfo",   "vmallocinfo", "schedstat", "buddyinfo", "zoneinfo",  "pagetypeinfo", "sysrq-trigger", "latency_stats",
    "mtrr",       "config.gz",  "crypto",    "consoles",  "mdstat",    "bootconfig", "cgroups",    "devices",   "misc",
    "dma",        "allocinfo",
};
static const char *const masked_directories[] = {"acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "scsi", "tty", "pressure", "sysvipc"};

static int attach(int fd, const char *where, struct err *e) {
    if (syscall(SYS_move_mount, fd, "", AT_FDCWD, where, MOVE_MOUNT_F_EMPTY_PATH)) return err_sys(e, errno, "attach %s", where);
    return 0;
}

static int mount_at(const char *type, const char *where, unsigned long flags, const char *options, struct err *e) {
    return mount(type, where, type, flags, options) ? err_sys(e, errno, "mount %s on %s", type, where) : 0;
}

static int move(const char *from, const char *to, struct err *e) {
    if (syscall(SYS_move_mount, AT_FDCWD, from, AT_FDCWD, to, 0)) return err_sys(e, errno, "move %s to %s", from, to);
    return 0;
}

/* The overlay: idmapped template below, idmapped layer above, mounted by the cell's own user namespace (userxattr), so that files
 * written by one range of ids are read right under another. */
static int mount_overlay(const struct cell_root *r, struct err *e) {
    if (attach(r->lower_fd, "l", e) || attach(r->layer_fd, "u", e)) return -1;
    if (mount_at("overlay", "m", MS_NOSUID | MS_NODEV, "lowerdir=l,upperdir=u/u,workdir=u/w,userxattr", e)) return -1;
    return chdir("m") ? err_sys(e, errno, "enter the overlay") : 0;
}

static int mount_devices(int dev_fd, struct err *e) {
    if (attach(dev_fd, "dev", e)) return -1;
    char pts[64]; /* terminals are counted host-wide */
    (void)snprintf(pts, sizeof pts, "newinstance,ptmxmode=0666,mode=0620,max=%d", host.off[LAYER_USERLIMITS] ? 1 << 20 : HOST_PTYS_PER_CELL);
    return mount_at("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, pts, e);
}

static int mount_shm(uint64_t bytes, struct err *e) {
    char shm[64];
    (void)snprintf(shm, sizeof shm, "mode=1777,size=%llu", (unsigned long long)bytes);
    return mount_at("tmpfs", "dev/shm", MS_NOSUID | MS_NODEV, shm, e);
}

static int mask_proc(struct err *e) {
    char path[64];
    if (host.off[LAYER_MASKS]) return 0;
    for (size_t i = 0; i < sizeof masked_files / sizeof *masked_files; i++) {
        (void)snprintf(path, sizeof path, "proc/%s", masked_files[i]);
        if (mount("dev/null", path, NULL, MS_BIND, NULL) && errno != ENOENT) return err_sys(e, errno, "mask %s", path);
    }
    for (size_t i = 0; i < sizeof masked_directories / sizeof *masked_directories; i++) {
        (void)snprintf(path, sizeof path, "proc/%s", masked_directories[i]);
        if (mount("sys", path, NULL, MS_BIND, NULL) && errno != ENOENT) return err_sys(e, errno, "mask %s", path);
    }
    if (mount("proc/sys", "proc/sys", NULL, MS_BIND | MS_REC, NULL) ||
        mount(NULL, "proc/sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        return err_sys(e, errno, "make /proc/sys read-only");
    return 0;
}

static int write_text(const char *path, const char *text, struct err *e) {
    cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : err_sys(e, errno, "open %s", path); /* not in this kernel */
    return write(fd, text, strlen(text)) < 0 ? err_sys(e, errno, "write %s", path) : 0;
}

/* Per-user kernel resources are charged to the one host user that owns every cell's namespace. A cell's own ceiling here
 * keeps it from using up its neighbours' share; no further namespaces at all. */
static int limit_namespace(struct err *e) {
    static const struct {
        const char *name, *value;
    } limit[] = {
        {"max_user_namespaces", "0"},  {"max_pid_namespaces", "0"},  {"max_mnt_namespaces", "0"},   {"max_net_namespaces", "0"},
        {"max_ipc_namespaces", "0"},   {"max_uts_namespaces", "0"},  {"max_cgroup_namespaces", "0"}, {"max_time_namespaces", "0"},
        {"max_inotify_instances", HOST_INOTIFY_INSTANCES_PER_CELL}, {"max_inotify_watches", HOST_INOTIFY_WATCHES_PER_CELL}, {"max_fanotify_groups", "0"}, {"max_fanotify_marks", "0"},
    };
    char path[96];
    if (host.off[LAYER_USERLIMITS]) return 0;
    for (size_t i = 0; i < sizeof limit / sizeof *limit; i++) {
        (void)snprintf(path, sizeof path, "proc/sys/user/%s", limit[i].name);
        if (write_text(path, limit[i].value, e)) return -1;
    }
    return 0;
}

static int loopback_up(struct err *e) {
    cleanup_close int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0) return err_sys(e, errno, "socket for loopback");
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    return ioctl(s, SIOCSIFFLAGS, &lo) ? err_sys(e, errno, "bring loopback up") : 0;
}

int cell_root_prepare(const char *stage, int dev_fd, struct err *e) {
    static const char *const place[] = {"l", "u", "m", "dev", "proc", "sys"};
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return err_sys(e, errno, "make mounts private");
    if (mount_at("tmpfs", stage, MS_NOSUID | MS_NODEV, "size=64k,mode=755", e)) return -1;
    if (chdir(stage)) return err_sys(e, errno, "enter %s", stage);
    for (size_t i = 0; i < sizeof place / sizeof *place; i++)
        if (mkdir(place[i], 0755)) return err_sys(e, errno, "prepare %s", stage);
    /* while the host's tree is there: a new proc needs one that is fully visible in this namespace */
    if (mount_devices(dev_fd, e) || mount_at("proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e)) return -1;
    if (mount_at("tmpfs", "sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k,mode=555", e)) return -1;
    return limit_namespace(e) || mask_proc(e) || loopback_up(e) ? -1 : 0;
}

int cell_root_enter(const struct cell_root *r, struct err *e) {
    if (mount_overlay(r, e) || move("../dev", "dev", e) || move("../proc", "proc", e) || move("../sys", "sys", e)) return -1;
    if (mount_shm(r->shm_bytes, e)) return -1;
    if (syscall(SYS_pivot_root, ".", ".")) return err_sys(e, errno, "pivot_root");
    if (umount2(".", MNT_DETACH)) return err_sys(e, errno, "leave the host's tree");
    if (chdir("/")) return err_sys(e, errno, "enter the new root");
    return sethostname(r->hostname, strlen(r->hostname)) ? err_sys(e, errno, "set the host name") : 0;
}
