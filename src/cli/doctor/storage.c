/* Where cells' layers lie: btrfs (the state's own, or in a loop image), reflinks, quotas. */
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/doctor/report.h"
#include "cli/output.h"

#define QUOTA_SIMPLE_ENABLE 4    /* BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, Linux 6.7; newer than Debian 12's headers */
#define IMAGE_BYTES (128l << 20) /* mkfs.btrfs wants 109 MiB at least; the file is sparse */
#define FREE_WANTED (4ull << 30)
#define TRIAL_MS 20000

static const char group[] = "Storage";

static void existing_parent(const char *state, char out[4096]) {
    struct stat st;
    (void)snprintf(out, 4096, "%s", state);
    while (stat(out, &st) < 0 && strcmp(out, "/") != 0) {
        char *slash = strrchr(out, '/');
        slash[slash == out ? 1 : 0] = 0;
    }
}

static void free_space(struct report *r, const char *where) {
    struct statvfs v;
    char text[16];
    if (statvfs(where, &v) < 0) return;
    unsigned long long bytes = (unsigned long long)v.f_bavail * v.f_frsize;
    struct finding *f = report_add(r, group, "free space", bytes >= FREE_WANTED ? FINDING_OK : FINDING_DEGRADED,
                                   "%s on the disk of %.200s", size_text(text, (int64_t)bytes), where);
    if (bytes < FREE_WANTED)
        finding_remedy(f, "a template takes about 1 GB, each cell what it writes: put --state on a larger disk");
}

/* ---- reflink on the state's own file system ---- */

static int try_reflink(void *arg, char *why, size_t room) {
    int a = open(arg, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), b = open(arg, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char block[4096] = "x";
    if (a < 0 || b < 0 || write(a, block, sizeof block) != sizeof block || ioctl(b, FICLONE, a) < 0) {
        (void)snprintf(why, room, "%s", strerror(errno));
        return 1;
    }
    return 0;
}

static const char *file_system_name(const char *where) {
    struct statfs s;
    if (statfs(where, &s) < 0) return "?";
    switch ((unsigned long)s.f_type) {
    case BTRFS_SUPER_MAGIC: return "btrfs";
    case EXT4_SUPER_MAGIC: return "ext4";
    case XFS_SUPER_MAGIC: return "xfs";
    case TMPFS_MAGIC: return "tmpfs";
    case OVERLAYFS_SUPER_MAGIC: return "overlay";
    default: return "another kind";
    }
}

static bool reflinks(struct report *r, char *where) {
    char why[256];
    const char *name = file_system_name(where);
    if (access(where, W_OK) < 0) {
        (void)report_add(r, group, "reflink", FINDING_DEGRADED, "%s, not tried: %.200s is not writable for this user",
                         name, where);
        return false;
    }
    if (probe_child(try_reflink, where, TRIAL_MS, why, sizeof why) == 0) {
        (void)report_add(r, group, "reflink", FINDING_OK, "files on %s can share blocks", name);
        return strcmp(name, "btrfs") == 0;
    }
    (void)report_add(r, group, "reflink", FINDING_OK,
                     "not on %s (%s): cells' layers lie in a btrfs image that the keeper makes", name, why);
    return false;
}

/* ---- btrfs in a loop image, as the keeper makes it ---- */

struct trial {
    char image[4200], point[4200];
    bool quotas, idmapped;
};

static int attach_loop(const char *image, char device[32], char *why, size_t room) {
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), backing = open(image, O_RDWR | O_CLOEXEC);
    int number = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
    if (number < 0 || backing < 0) {
        (void)snprintf(why, room, "no loop device: %s", strerror(errno));
        return -1;
    }
    (void)snprintf(device, 32, "/dev/loop%d", number);
    int loop = open(device, O_RDWR | O_CLOEXEC);
    struct loop_config config = {.fd = (uint32_t)backing, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    if (loop < 0 || ioctl(loop, LOOP_CONFIGURE, &config) < 0) {
        (void)snprintf(why, room, "%s: %s", device, strerror(errno));
        return -1;
    }
    return loop; /* autoclear: gone when this process and the mount are */
}

static int make_btrfs(const char *image, char *why, size_t room) {
    int fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, IMAGE_BYTES) < 0) {
        (void)snprintf(why, room, "an image: %s", strerror(errno));
        return 1;
    }
    close(fd);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        (void)dup2(null, 1), (void)dup2(null, 2);
        execlp("mkfs.btrfs", "mkfs.btrfs", "-q", "-f", image, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    bool absent = WIFEXITED(status) && WEXITSTATUS(status) == 127;
    (void)snprintf(why, room, absent ? "mkfs.btrfs is not installed" : "mkfs.btrfs failed");
    return absent ? 2 : 1;
}

/* A subvolume, a snapshot of it, simple quotas, an idmapped mount. Exit: 0 all, +4 no quotas, +8 no idmapped mounts. */
static int use_btrfs(const char *point, char *why, size_t room) {
    int fd = open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
    struct btrfs_ioctl_vol_args volume = {.name = "one"};
    if (fd < 0 || ioctl(fd, BTRFS_IOC_SUBVOL_CREATE, &volume) < 0) {
        (void)snprintf(why, room, "a subvolume: %s", strerror(errno));
        return 1;
    }
    int source = openat(fd, "one", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct btrfs_ioctl_vol_args_v2 snapshot = {.fd = source, .name = "two"};
    if (source < 0 || ioctl(fd, BTRFS_IOC_SNAP_CREATE_V2, &snapshot) < 0) {
        (void)snprintf(why, room, "a snapshot: %s", strerror(errno));
        return 1;
    }
    struct btrfs_ioctl_quota_ctl_args quota = {.cmd = QUOTA_SIMPLE_ENABLE};
    if (ioctl(fd, BTRFS_IOC_QUOTA_CTL, &quota) < 0) result |= 4;
    int error = probe_idmap(point);
    if (error) result |= 8;
    return result;
}

static int try_btrfs(void *arg, char *why, size_t room) {
    struct trial *t = arg;
    char device[32];
    int made = make_btrfs(t->image, why, room);
    if (made) return made;
    if (unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0) {
        (void)snprintf(why, room, "a mount namespace: %s", strerror(errno));
        return 1;
    }
    int loop = attach_loop(t->image, device, why, room);
    if (loop < 0) return 3;
    if (mount(device, t->point, "btrfs", 0, NULL) < 0) {
        (void)snprintf(why, room, "mounting btrfs: %s", strerror(errno));
        return errno == ENODEV ? 16 : 1;
    }
    int result = use_btrfs(t->point, why, room);
    (void)umount2(t->point, MNT_DETACH);
    close(loop);
    return result;
}

static void say_btrfs(struct report *r, int result, const char *why) {
    if (result < 0 || (result & ~12)) {
        struct finding *f = report_add(r, group, "btrfs", FINDING_DEGRADED,
                                       "a btrfs image cannot be used (%s): cells' files are plain directories, without disk limits, and a fork or snapshot copies them",
                                       result == CHILD_TIMEOUT ? "the trial hung" : why);
        finding_remedy(f, result == 2 ? "apt-get install btrfs-progs"
                          : result == 3
                              ? "modprobe loop; inside a container, /dev/loop-control and /dev/loop* must be there"
                          : result == 16 ? "modprobe btrfs (a kernel with CONFIG_BTRFS_FS)"
                                         : "see the reason");
        return;
    }
    (void)report_add(r, group, "btrfs", FINDING_OK,
                     "a loop image can be made and mounted; subvolumes and snapshots work");
    if (result & 8)
        finding_remedy(
            report_add(r, group, "btrfs idmapped", FINDING_MISSING, "btrfs cannot be mounted with mapped ids"),
            "Linux 5.15 or newer");
    else
        (void)report_add(r, group, "btrfs idmapped", FINDING_OK, "btrfs can be mounted with mapped ids");
    if (result & 4)
        finding_remedy(report_add(r, group, "simple quotas", FINDING_DEGRADED,
                                  "not in this kernel: disk limits use the slower qgroups"),
                       "Linux 6.7 or newer");
    else
        (void)report_add(r, group, "simple quotas", FINDING_OK, "disk limits cost next to nothing");
}

static void btrfs(struct report *r, const char *where) {
    char directory[] = "/tmp/cella-doctor-XXXXXX", why[256];
    (void)where;
    if (geteuid() != 0) {
        finding_remedy(report_add(r, group, "btrfs", FINDING_DEGRADED, "not tried: needs root"), "sudo cella doctor");
        return;
    }
    if (!mkdtemp(directory)) {
        (void)report_add(r, group, "btrfs", FINDING_DEGRADED, "not tried: no directory in /tmp: %s", strerror(errno));
        return;
    }
    struct trial t = {0};
    (void)snprintf(t.image, sizeof t.image, "%s/image", directory);
    (void)snprintf(t.point, sizeof t.point, "%s/mounted", directory);
    (void)mkdir(t.point, 0700);
    int result = probe_child(try_btrfs, &t, TRIAL_MS, why, sizeof why);
    (void)unlink(t.image);
    (void)rmdir(t.point);
    (void)rmdir(directory);
    say_btrfs(r, result, why);
}

void probe_storage(struct report *r) {
    char where[4096];
    existing_parent(r->state, where);
    free_space(r, where);
    (void)reflinks(r, where);
    btrfs(r, where);
}
