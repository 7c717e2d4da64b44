#include "keeper/machine_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/host.h"
#include "keeper/layers.h"

#define MEMORY_LEAST (16ull << 20)
#define MEMORY_MOST (64ull << 30)

/* Of this directory, without links on the way. */
static int open_below(int dir, const char *path, uint64_t flags, uint64_t mode, struct err *e) {
    struct open_how how = {.flags = flags | O_CLOEXEC | O_NOFOLLOW, .mode = mode, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    const int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
    return fd < 0 ? err_sys(e, errno, "open %s of the template's machines", path) : fd;
}

static int open_regular(int dir, const char *path, uint64_t flags, struct err *e) {
    cleanup_close int fd = open_below(dir, path, flags | O_NONBLOCK, 0, e); /* a pipe would make the keeper wait */
    struct stat st;
    if (fd < 0) return -1;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) return err_set(e, ERR_INVALID, "%s of the template's machines is not a file", path);
    return steal_fd(&fd);
}

static int machines_dir(struct err *e) {
    cleanup_close int state = open(host.state, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return state < 0 ? err_sys(e, errno, "open %s", host.state) : open_below(state, "machines", O_RDONLY | O_DIRECTORY, 0, e);
}

int machine_dir(const char *template_id, struct err *e) {
    if (!memchr(template_id, 0, KEEPER_TEMPLATE) || !hex_valid(template_id, 64)) return err_set(e, ERR_INVALID, "a template id is 64 hexadecimal digits");
    cleanup_close int all = machines_dir(e);
    const int dir = all < 0 ? -1 : open_below(all, template_id, O_RDONLY | O_DIRECTORY, 0, e);
    if (dir < 0) e->hint = "build the template again: `cella template build`";
    return dir;
}

int machine_file(int dir, const char *name, struct err *e) { return open_regular(dir, name, O_RDONLY, e); }

/* ---- bases ---- */

int base_newest(int dir, char out[KEEPER_ID], struct err *e) {
    char text[KEEPER_ID] = "";
    const ssize_t n = readlinkat(dir, "newest", text, sizeof text - 1);
    struct stat st;
    if (n > 0 && id_valid(text, "bas_") && !fstatat(dir, text, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode)) {
        memcpy(out, text, sizeof text);
        return 0;
    }
    err_set(e, ERR_NOT_FOUND, "the template has no baked machine");
    e->sys_errno = ENOENT;
    return -1;
}

int base_file(int dir, const char *base, const char *name, struct err *e) {
    char path[KEEPER_ID + 16];
    if (!id_valid(base, "bas_")) return err_set(e, ERR_INVALID, "not the name of a base");
    (void)snprintf(path, sizeof path, "%s/%s", base, name);
    return open_regular(dir, path, O_RDONLY, e);
}

int base_read(int dir, const char *base, struct base_config *c, struct err *e) {
    cleanup_close int fd = base_file(dir, base, "config", e);
    if (fd < 0) return -1;
    if (read(fd, c, sizeof *c) != sizeof *c || memcmp(c->magic, BASE_MAGIC, sizeof c->magic) || !c->vcpus || c->vcpus > 8 || c->memory_bytes < MEMORY_LEAST ||
        c->memory_bytes > MEMORY_MOST || !c->disk_size || c->disk_size > INT64_MAX)
        return err_set(e, ERR_IMAGE, "the template's baked machine was made by another version, or is damaged");
    return 0;
}

static void new_name(char out[KEEPER_ID + 8], const char *base) { (void)snprintf(out, KEEPER_ID + 8, ".new-%s", base); }

static int make_file(int dir, const char *name, struct err *e) {
    const int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? err_sys(e, errno, "make %s of a base", name) : fd;
}

/* The guest's memory holds parts of this file system: another one in its place, by a template that is built again, would not fit it. */
static int link_root(int there, int root_fd, struct err *e) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", root_fd);
    if (!linkat(AT_FDCWD, path, there, "root.erofs", AT_SYMLINK_FOLLOW)) return 0;
    return errno == ENOENT ? err_set(e, ERR_CONFLICT, "the template's root was replaced since the machine was booted") : err_sys(e, errno, "link the template's root");
}

int base_begin(int dir, const char *base, const struct base_config *c, int root_fd, struct base_files *f, struct err *e) {
    char name[KEEPER_ID + 8];
    new_name(name, base);
    if (mkdirat(dir, name, 0700)) return err_sys(e, errno, "make a base");
    cleanup_close int there = open_below(dir, name, O_RDONLY | O_DIRECTORY, 0, e);
    cleanup_close int state = there < 0 ? -1 : make_file(there, "state", e), memory = state < 0 ? -1 : make_file(there, "memory", e);
    cleanup_close int config = memory < 0 ? -1 : make_file(there, "config", e);
    const ssize_t wrote = config < 0 ? -1 : write(config, c, sizeof *c);
    if (config >= 0 && wrote != sizeof *c) err_sys(e, wrote < 0 ? errno : EIO, "write the config of a base");
    if (wrote == sizeof *c && !link_root(there, root_fd, e)) {
        *f = (struct base_files){steal_fd(&state), steal_fd(&memory)};
        return 0;
    }
    base_drop(dir, base);
    return -1;
}

static int settle(int dir, const char *name, uint64_t *bytes, struct err *e) {
    struct stat st;
    cleanup_close int fd = open_below(dir, name, O_RDONLY, 0, e);
    if (fd < 0) return -1;
    if (fsync(fd) || fstat(fd, &st)) return err_sys(e, errno, "flush %s of a base", name);
    *bytes += (uint64_t)st.st_blocks * 512;
    return 0;
}

int base_finish(int dir, const char *base, uint64_t *bytes, struct err *e) {
    char name[KEEPER_ID + 8];
    uint64_t disk = 0;
    new_name(name, base);
    cleanup_close int there = open_below(dir, name, O_RDONLY | O_DIRECTORY, 0, e);
    *bytes = 0;
    if (there < 0 || settle(there, "state", bytes, e) || settle(there, "memory", bytes, e) || settle(there, "config", bytes, e)) return -1;
    if (fsync(there)) return err_sys(e, errno, "flush a base");
    if (layer_settle(base, &disk, e)) return -1;
    *bytes += disk;
    fault_point("keeper.base.settled");
    if (renameat(dir, name, dir, base)) return err_sys(e, errno, "name a base");
    fault_point("keeper.base.named");
    (void)unlinkat(dir, ".newest", 0);
    if (symlinkat(base, dir, ".newest") || renameat(dir, ".newest", dir, "newest") || fsync(dir)) return err_sys(e, errno, "make a base the newest");
    return 0;
}

static void drop_directory(int dir, const char *name) {
    static const char *const files[] = {"state", "memory", "config", "root.erofs"};
    struct err ignored;
    cleanup_close int there = open_below(dir, name, O_RDONLY | O_DIRECTORY, 0, &ignored);
    for (size_t i = 0; there >= 0 && i < sizeof files / sizeof *files; i++) (void)unlinkat(there, files[i], 0);
    if (there >= 0 && unlinkat(dir, name, AT_REMOVEDIR)) log_warn("half a base: %s", strerror(errno));
}

void base_drop(int dir, const char *base) {
    char name[KEEPER_ID + 8];
    struct err e;
    new_name(name, base);
    drop_directory(dir, name);
    drop_directory(dir, base);
    if (layer_remove(base, &e)) log_warn("%s", e.text);
}

/* ---- consoles and disks ---- */

static void console_name(char out[KEEPER_ID + 16], const char *name) { (void)snprintf(out, KEEPER_ID + 16, "console-%s.log", name ? name : "boot"); }

int console_make(int dir, const char *name, struct err *e) {
    char file[KEEPER_ID + 16];
    console_name(file, name);
    (void)unlinkat(dir, file, 0); /* one of an earlier boot may still be written to */
    const int fd = openat(dir, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, name ? 0600 : 0644);
    return fd < 0 ? err_sys(e, errno, "make the file for a machine's console") : fd;
}

void console_drop(const char *template_id, const char *name) {
    char file[KEEPER_ID + 16];
    struct err ignored;
    cleanup_close int dir = machine_dir(template_id, &ignored);
    console_name(file, name);
    if (dir >= 0) (void)unlinkat(dir, file, 0);
}

int disk_open(const char *layer, struct err *e) {
    cleanup_close int dir = layer_fd(layer, e);
    return dir < 0 ? -1 : open_regular(dir, "disk.img", O_RDWR, e);
}

int disk_fresh(int dir, const char *layer, struct err *e) {
    cleanup_close int from = machine_file(dir, "disk.img", e);
    cleanup_close int there = from < 0 ? -1 : layer_fd(layer, e);
    if (there < 0) return -1;
    cleanup_close int to = openat(there, "disk.img", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    const off_t size = lseek(from, 0, SEEK_END);
    if (to < 0 || size < 0 || ftruncate(to, size)) return err_sys(e, errno, "make a disk");
    for (off_t at = 0; at < size;) {
        const off_t data = lseek(from, at, SEEK_DATA), end = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
        if (data < 0 && errno == ENXIO) return 0; /* a hole up to the end */
        if (end < 0 || lseek(to, data, SEEK_SET) < 0) return err_sys(e, errno, "read the template's disk");
        for (at = data; at < end;) { /* copy_file_range refuses other kinds of file systems */
            const ssize_t n = sendfile(to, from, &at, (size_t)(end - at));
            if (n <= 0) return err_sys(e, n ? errno : EIO, "copy the template's disk");
        }
    }
    return 0;
}

/* ---- what is left over ---- */

/* A directory of a template: true when it has this base. */
static bool has_base(int all, const char *base) {
    cleanup_close int copy = openat(all, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_dir DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (d) copy = -1;
    for (struct dirent *c; d && (c = readdir(d));) {
        char path[NAME_MAX + KEEPER_ID];
        struct stat st;
        if (!hex_valid(c->d_name, 64)) continue;
        (void)snprintf(path, sizeof path, "%s/%s", c->d_name, base);
        if (!fstatat(all, path, &st, AT_SYMLINK_NOFOLLOW)) return true;
    }
    return false;
}

static void sweep_template(int all, const char *template_id) {
    struct err e;
    const int dir = open_below(all, template_id, O_RDONLY | O_DIRECTORY, 0, &e);
    cleanup_dir DIR *d = dir < 0 ? NULL : fdopendir(dir);
    for (struct dirent *c; d && (c = readdir(d));) {
        if (!strncmp(c->d_name, ".new-", 5)) drop_directory(dir, c->d_name);
        if (!strncmp(c->d_name, "console-cel_", 12)) (void)unlinkat(dir, c->d_name, 0);
    }
}

void machine_files_open(void) {
    struct err e;
    cleanup_close int all = machines_dir(&e), copy = all < 0 ? -1 : openat(all, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_dir DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (d) copy = -1;
    for (struct dirent *c; d && (c = readdir(d));)
        if (hex_valid(c->d_name, 64)) sweep_template(all, c->d_name);
    if (all < 0 && e.sys_errno != ENOENT) return; /* it is there, only not now: its disks are to stay */
    cleanup_dir DIR *layers = layers_list();
    for (const char *base; layers && (base = layers_next_base(layers));)
        if ((all < 0 || !has_base(all, base)) && layer_remove(base, &e)) log_warn("disk of a base that is gone: %s", e.text);
}
