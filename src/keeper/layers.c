#include "keeper/layers.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/host.h"
#include "keeper/layer_copy.h"
#include "wire/keeper_proto.h"

#define IMAGE_LEAST (128ull << 20) /* mkfs.btrfs wants 109 MiB */
#define IMAGE_STEP (16ull << 20)
#define QUOTA_CTL_ENABLE_SIMPLE 4 /* BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, Linux 6.7; older headers lack the name */

#define BYTES_XATTR "user.cella.bytes" /* of a kept layer, on its directory, which no cell sees */

static char root[PATH_MAX];
static int root_fd = -1;
static bool subvolumes, quota;
static uint64_t reserve = LAYERS_RESERVE;
static int image_fd = -1, loop_fd = -1; /* of the loop image, when there is one */
static char sysfs[64]; /* /sys/fs/btrfs/<uuid> */

static int run(const char *const argv[], struct err *e) {
    pid_t pid = fork();
    if (pid < 0) return err_sys(e, errno, "fork for %s", argv[0]);
    if (!pid) {
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return err_sys(e, errno, "wait for %s", argv[0]);
    if (status == 127 << 8) return err_hint(e, ERR_UNSUPPORTED, "install btrfs-progs", "%s is not installed", argv[0]);
    return status ? err_set(e, ERR_INTERNAL, "%s ended with status %#x", argv[0], status) : 0;
}

/* A loop device that already has this file (of a keeper that died a moment ago), "" when none. */
static void find_loop(const char *image, char *out, size_t size) {
    out[0] = 0;
    for (int i = 0; i < 256 && !out[0]; i++) {
        char path[64], backing[PATH_MAX];
        (void)snprintf(path, sizeof path, "/sys/block/loop%d/loop/backing_file", i);
        cleanup_file FILE *f = fopen(path, "re");
        if (!f || !fgets(backing, sizeof backing, f)) continue;
        backing[strcspn(backing, "\n")] = 0;
        if (!strcmp(backing, image)) (void)snprintf(out, size, "/dev/loop%d", i);
    }
}

/* Attach image to a free loop device that goes away with its last user. *held keeps it alive until the mount has it. */
static int attach_loop(const char *image, char *device, size_t size, int *held, struct err *e) {
    cleanup_close int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    cleanup_close int file = open(image, O_RDWR | O_CLOEXEC);
    if (control < 0) return err_sys(e, errno, "open /dev/loop-control");
    if (file < 0) return err_sys(e, errno, "open %s", image);
    for (int round = 0; round < 16; round++) { /* another program may take the free number first */
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0) return err_sys(e, errno, "no free loop device");
        (void)snprintf(device, size, "/dev/loop%d", number);
        cleanup_close int loop = open(device, O_RDWR | O_CLOEXEC);
        if (loop < 0) return err_sys(e, errno, "open %s", device);
        struct loop_config c = {.fd = (uint32_t)file, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
        (void)snprintf((char *)c.info.lo_file_name, sizeof c.info.lo_file_name, "cella-layers");
        if (!ioctl(loop, LOOP_CONFIGURE, &c)) {
            (void)ioctl(loop, LOOP_SET_DIRECT_IO, 1ul); /* no second page cache where the disk allows it */
            *held = steal_fd(&loop);
            return 0;
        }
        if (errno != EBUSY) return err_sys(e, errno, "attach %s to %s", image, device);
    }
    return err_set(e, ERR_INTERNAL, "loop devices are taken faster than they can be attached");
}

/* Give the image this size, with blocks of its own for all of it. */
static int reserve_blocks(int fd, uint64_t size, struct err *e) {
    if (!fallocate(fd, 0, 0, (off_t)size)) return 0;
    if (errno != EOPNOTSUPP) return err_sys(e, errno, "size the layers' image");
    return ftruncate(fd, (off_t)size) ? err_sys(e, errno, "size the layers' image") : 0; /* a file system that cannot promise blocks */
}

static int make_image(const char *image, struct err *e) {
    cleanup_close int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC | O_EXCL, 0600);
    if (fd < 0) return err_sys(e, errno, "create %s", image);
    const uint64_t size = reserve * 2 < IMAGE_LEAST ? IMAGE_LEAST : reserve * 2;
    const char *const argv[] = {"mkfs.btrfs", "-q", "-f", "-m", "single", "-d", "single", "-L", "cella-layers", image, NULL};
    if (!reserve_blocks(fd, size & ~(IMAGE_STEP - 1), e) && !run(argv, e) && !fsync(fd)) return 0;
    (void)unlink(image);
    return -1;
}

/* The image's blocks, then the device, then the file system. */
static int grow_to(uint64_t size, struct err *e) {
    struct btrfs_ioctl_vol_args v = {.name = "max"};
    if (fault_error("keeper.layers.grow", e) || reserve_blocks(image_fd, size, e)) return -1;
    if (ioctl(loop_fd, LOOP_SET_CAPACITY, 0)) return err_sys(e, errno, "size the layers' device");
    return ioctl(root_fd, BTRFS_IOC_RESIZE, &v) ? err_sys(e, errno, "size the layers' file system") : 0;
}

static uint64_t data_bytes(const char *which) {
    char path[128], text[32] = "";
    (void)snprintf(path, sizeof path, "%s/allocation/data/%s", sysfs, which);
    cleanup_close int fd = sysfs[0] ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    return fd >= 0 && read(fd, text, sizeof text - 1) > 0 ? strtoull(text, NULL, 10) : 0;
}

void layers_grow(void) {
    static bool told;
    struct statfs fs;
    struct stat st;
    struct err e;
    if (image_fd < 0 || fstatfs(root_fd, &fs)) return;
    /* What was written but has no place yet: gigabytes, when memory is large. statfs(2) counts it as free, the next write(2) does not. */
    const uint64_t promised = data_bytes("bytes_may_use") + data_bytes("bytes_reserved") + data_bytes("bytes_pinned");
    if ((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize >= reserve + promised || fstat(image_fd, &st)) return;
    const uint64_t size = ((uint64_t)st.st_size + reserve * 2 + promised) & ~(IMAGE_STEP - 1);
    if (!grow_to(size, &e)) {
        log_info("layers' image grown to %llu MiB", (unsigned long long)size >> 20);
        told = false;
    } else if (!told) {
        log_warn("layers' image cannot grow (cells get \"no space\" when it is full): %s", e.text);
        told = true;
    }
}

static int mount_image(const char *state_dir, struct err *e) {
    char image[PATH_MAX + 32], device[64];
    int held = -1;
    (void)snprintf(image, sizeof image, "%s/layers.btrfs", state_dir);
    if (access(image, F_OK) && make_image(image, e)) return -1;
    find_loop(image, device, sizeof device);
    if (!device[0] && attach_loop(image, device, sizeof device, &held, e)) return -1;
    /* no discard: the blocks stay the image's. Space of deleted layers can be used again after a commit: soon, but not at the price of a commit per cell */
    if (mount(device, root, "btrfs", MS_NODEV | MS_NOSUID | MS_NOATIME, "nodiscard,commit=5")) {
        if (held >= 0) close(held);
        return err_sys(e, errno, "mount %s", image);
    }
    loop_fd = held >= 0 ? held : open(device, O_RDWR | O_CLOEXEC);
    image_fd = open(image, O_RDWR | O_CLOEXEC);
    return loop_fd < 0 || image_fd < 0 ? err_sys(e, errno, "open %s", image) : 0;
}

static void find_sysfs(void) {
    struct btrfs_ioctl_fs_info_args info = {0};
    if (ioctl(root_fd, BTRFS_IOC_FS_INFO, &info)) return;
    const uint8_t *u = info.fsid;
    (void)snprintf(sysfs, sizeof sysfs, "/sys/fs/btrfs/%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4], u[5], u[6],
                   u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static void enable_quota(void) {
    struct btrfs_ioctl_quota_ctl_args ctl = {.cmd = QUOTA_CTL_ENABLE_SIMPLE};
    if (ioctl(root_fd, BTRFS_IOC_QUOTA_CTL, &ctl)) {
        ctl.cmd = BTRFS_QUOTA_CTL_ENABLE; /* before Linux 6.7: full qgroups */
        if (ioctl(root_fd, BTRFS_IOC_QUOTA_CTL, &ctl)) {
            log_warn("no disk limits: btrfs quotas cannot be enabled: %s", strerror(errno));
            return;
        }
    }
    quota = true;
}

static void remove_leftovers(void) {
    cleanup_dir DIR *d = layers_list();
    struct err e;
    for (struct dirent *c; d && (c = readdir(d));)
        if (c->d_name[0] != '.' && !id_valid(c->d_name, "img_") && !id_valid(c->d_name, "bas_") && layer_remove(c->d_name, &e)) log_warn("left-over layer: %s", e.text);
}

int layers_open(const char *state_dir, const struct layers_options *o, uint32_t *features, struct err *e) {
    struct statfs fs;
    if (o->reserve_bytes) reserve = o->reserve_bytes;
    (void)snprintf(root, sizeof root, "%s/layers", state_dir);
    if (mkdir(root, 0700) && errno != EEXIST) return err_sys(e, errno, "make %s", root);
    if (statfs(root, &fs)) return err_sys(e, errno, "statfs %s", root);
    if (o->plain) {
        log_warn("layers are plain directories, as the command line says");
    } else if (fs.f_type != BTRFS_SUPER_MAGIC && mount_image(state_dir, e)) {
        log_warn("layers are plain directories: %s", e->text);
    }
    root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) return err_sys(e, errno, "open %s", root);
    if (fstatfs(root_fd, &fs)) return err_sys(e, errno, "statfs %s", root);
    subvolumes = fs.f_type == BTRFS_SUPER_MAGIC && !o->plain;
    if (subvolumes) find_sysfs(), enable_quota();
    layers_grow();
    *features |= (subvolumes ? KEEPER_HAS_BTRFS : 0u) | (quota ? KEEPER_HAS_DISK_QUOTA : 0u);
    remove_leftovers();
    return 0;
}

int layer_fd(const char *id, struct err *e) {
    int fd = openat(root_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? err_sys(e, errno, "open layer %s", id) : fd;
}

int layer_make_empty(const char *id, uint64_t disk_bytes, struct err *e) {
    if (subvolumes) {
        struct btrfs_ioctl_vol_args v = {0};
        (void)snprintf(v.name, sizeof v.name, "%s", id);
        if (ioctl(root_fd, BTRFS_IOC_SUBVOL_CREATE, &v)) return err_sys(e, errno, "make layer %s", id);
    } else if (mkdirat(root_fd, id, 0755)) {
        return err_sys(e, errno, "make layer %s", id);
    }
    return layer_limit(id, disk_bytes, e);
}

int layer_make(const char *id, uint64_t disk_bytes, struct err *e) {
    cleanup_close int fd = layer_make_empty(id, disk_bytes, e) ? -1 : layer_fd(id, e);
    if (fd < 0) return -1;
    return mkdirat(fd, "u", 0755) || mkdirat(fd, "w", 0755) ? err_sys(e, errno, "fill layer %s", id) : 0;
}

int layer_snapshot(const char *from, const char *id, struct err *e) {
    cleanup_close int source = layer_fd(from, e);
    if (source < 0) return -1;
    if (!subvolumes) {
        if (mkdirat(root_fd, id, 0755)) return err_sys(e, errno, "make layer %s", id);
        cleanup_close int copy = layer_fd(id, e);
        if (copy >= 0 && !layer_copy(source, copy, e)) return 0;
        struct err ignored;
        (void)layer_remove(id, &ignored);
        return -1;
    }
    struct btrfs_ioctl_vol_args_v2 v = {.fd = source};
    (void)snprintf(v.name, sizeof v.name, "%s", id);
    return ioctl(root_fd, BTRFS_IOC_SNAP_CREATE_V2, &v) ? err_sys(e, errno, "snapshot of layer %s", from) : 0;
}

int layer_rename(const char *from, const char *to, struct err *e) {
    return renameat2(root_fd, from, root_fd, to, RENAME_NOREPLACE) ? err_sys(e, errno, "rename layer %s", from) : 0;
}

int layer_flush(const char *from, const char *id, struct err *e) {
    if (!subvolumes) return 0;
    return layer_snapshot(from, id, e) || layer_remove(id, e) ? -1 : 0;
}

int layer_limit(const char *id, uint64_t disk_bytes, struct err *e) {
    if (!quota || host.off[LAYER_LIMITS]) return 0;
    cleanup_close int fd = layer_fd(id, e);
    if (fd < 0) return -1;
    struct btrfs_ioctl_qgroup_limit_args l = {.lim = {.flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = disk_bytes}};
    return ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, &l) ? err_sys(e, errno, "disk limit of layer %s", id) : 0;
}

uint64_t layer_used(const char *id) {
    struct err e;
    struct btrfs_ioctl_ino_lookup_args l = {.objectid = BTRFS_FIRST_FREE_OBJECTID};
    char path[256];
    unsigned long long bytes = 0;
    cleanup_close int fd = layer_fd(id, &e);
    if (!quota || fd < 0 || ioctl(fd, BTRFS_IOC_INO_LOOKUP, &l)) return 0;
    (void)snprintf(path, sizeof path, "%s/qgroups/0_%llu/referenced", sysfs, (unsigned long long)l.treeid);
    cleanup_file FILE *f = fopen(path, "re");
    return f && fscanf(f, "%llu", &bytes) == 1 ? bytes : 0;
}

/* ---- kept layers ---- */

static uint64_t counted; /* by count_entry; one walk at a time */

static int count_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)path, (void)type, (void)ftw;
    counted += (uint64_t)st->st_blocks * 512 / (S_ISDIR(st->st_mode) || !st->st_nlink ? 1 : st->st_nlink);
    return 0;
}

static int sync_image(struct err *e) {
    return image_fd >= 0 && fsync(image_fd) ? err_sys(e, errno, "flush the layers' image") : 0;
}

int layer_settle(const char *id, uint64_t *bytes, struct err *e) {
    char path[PATH_MAX + 64];
    (void)snprintf(path, sizeof path, "%s/%s", root, id);
    counted = 0;
    if (nftw(path, count_entry, 16, FTW_PHYS | FTW_MOUNT)) return err_sys(e, errno, "count layer %s", id);
    *bytes = counted;
    cleanup_close int fd = layer_fd(id, e);
    if (fd < 0) return -1;
    if (fsetxattr(fd, BYTES_XATTR, bytes, sizeof *bytes, 0)) return err_sys(e, errno, "mark layer %s", id);
    if (syncfs(fd)) return err_sys(e, errno, "flush layer %s", id);
    return sync_image(e);
}

uint64_t layer_bytes(const char *id) {
    struct err e;
    uint64_t bytes = 0;
    cleanup_close int fd = layer_fd(id, &e);
    return fd >= 0 && fgetxattr(fd, BYTES_XATTR, &bytes, sizeof bytes) == sizeof bytes ? bytes : 0;
}

DIR *layers_list(void) {
    int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* not dup: that would share the position */
    return fd < 0 ? NULL : fdopendir(fd);
}

const char *layers_next_kept(DIR *d) {
    for (struct dirent *c; (c = readdir(d));)
        if (id_valid(c->d_name, "img_")) return c->d_name;
    return NULL;
}

const char *layers_next_base(DIR *d) {
    for (struct dirent *c; (c = readdir(d));)
        if (id_valid(c->d_name, "bas_")) return c->d_name;
    return NULL;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path) && errno != ENOENT ? -1 : 0;
}

int layer_remove(const char *id, struct err *e) {
    if (subvolumes) {
        struct btrfs_ioctl_vol_args v = {0};
        (void)snprintf(v.name, sizeof v.name, "%s", id);
        return ioctl(root_fd, BTRFS_IOC_SNAP_DESTROY, &v) && errno != ENOENT ? err_sys(e, errno, "remove layer %s", id) : 0;
    }
    char path[PATH_MAX + 256];
    (void)snprintf(path, sizeof path, "%s/%s", root, id);
    return nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) && errno != ENOENT
               ? err_sys(e, errno, "remove layer %s", id)
               : 0;
}
