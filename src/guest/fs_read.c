/* The operations read, stat and list. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/entry.h"
#include "guest/path.h"
#include "guest/walk.h"
#include "guest/work.h"

/* /proc/self of this path is the worker itself: its memory and environment are the guest's, not the cell's. */
static bool is_own_proc(int fd) {
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC) return false;
    cleanup_free char *path = path_of_fd(fd);
    char own[32];
    int n = snprintf(own, sizeof own, "/proc/%d/", (int)getpid());
    return !*path || strncmp(path, own, (size_t)n) == 0;
}

/* What the path names in this view, as an O_PATH descriptor. */
static int view_open(const char *path, enum request_view view, struct err *e) {
    if (view == VIEW_FOLLOW) return path_open(path, O_PATH, e);
    cleanup_close int root = view == VIEW_ROOT ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    int fd = path_open_exact(view == VIEW_ROOT ? root : WORK_LOWER_FD, path, O_PATH | O_NOFOLLOW);
    return fd < 0 ? err_sys(e, errno, "%s", path) : fd;
}

/* A readable descriptor of a regular file: decided before it is opened, because opening a FIFO or a device does things.
 */
static int open_regular(const struct request *r, struct stat *st, struct err *e) {
    const char *path = r->path;
    cleanup_close int fd = view_open(path, r->view, e);
    if (fd < 0) return -1;
    if (fstat(fd, st) < 0) return err_sys(e, errno, "%s", path);
    if (S_ISDIR(st->st_mode)) return err_set(e, ERR_IS_DIRECTORY, "%s is a directory", path);
    if (!S_ISREG(st->st_mode)) return err_set(e, ERR_INVALID, "%s is no regular file", path);
    if (is_own_proc(fd)) return err_set(e, ERR_PERMISSION, "%s belongs to the guest", path);
    int readable = path_reopen(fd, O_RDONLY);
    if (readable < 0) return err_sys(e, errno, "%s", path);
    return readable;
}

int fs_read(struct work *w, const struct request *r, struct err *e) {
    struct stat st;
    cleanup_close int fd = open_regular(r, &st, e);
    if (fd < 0) return -1;
    if (r->offset && lseek(fd, (off_t)r->offset, SEEK_SET) < 0) return err_sys(e, errno, "%s", r->path);
    json_object *reply = json_object_new_object();
    json_object_object_add(reply, "size", json_object_new_int64(st.st_size));
    json_object_object_add(reply, "mode", json_object_new_int(st.st_mode & 07777));
    json_object_object_add(reply, "mtime_ms", json_object_new_int64(entry_mtime_ms(&st)));
    if (work_reply(w, reply, e) < 0) return -1;
    uint64_t left = r->length, total = 0;
    while (left) {
        static char bytes[WORK_CHUNK];
        ssize_t n = read(fd, bytes, left < sizeof bytes ? (size_t)left : sizeof bytes);
        if (n < 0) return err_sys(e, errno, "%s", r->path);
        if (n == 0) break;
        if (work_data(w, bytes, (size_t)n, e) < 0) return -1;
        left -= (uint64_t)n;
        total += (uint64_t)n;
    }
    w->end = json_object_new_object();
    json_object_object_add(w->end, "bytes", json_object_new_int64((int64_t)total));
    return 0;
}

/* The entry itself where it lies, not what it points at; a path that names a directory by way of another ("/", "x/..")
 * has no place of its own. */
static int stat_reply(struct work *w, const char *path, struct err *e) {
    struct place p;
    struct stat st;
    cleanup_free char *shown = path_shown(path);
    if (place_open(path, false, &p, e) == 0) {
        int rc = fstatat(p.dir, p.name, &st, AT_SYMLINK_NOFOLLOW) < 0
                     ? err_sys(e, errno, "%s", path)
                     : work_reply(w, entry_json(p.dir, p.name, shown, &st), e);
        place_close(&p);
        return rc;
    }
    if (e->sys_errno) return -1;
    cleanup_close int fd = path_open(path, O_PATH, e);
    if (fd < 0) return -1;
    if (fstat(fd, &st) < 0) return err_sys(e, errno, "%s", path);
    const char *name = strrchr(shown, '/');
    return work_reply(w, entry_json(-1, name && name[1] ? name + 1 : "/", shown, &st), e);
}

int fs_stat(struct work *w, const struct request *r, struct err *e) { return stat_reply(w, r->path, e); }

static int list_tree(struct work *w, const struct request *r, struct walk *walk, const char *root, struct err *e) {
    int64_t entries = 0;
    struct walk_item item;
    int got;
    while ((got = walk_next(walk, &item, e)) > 0) {
        if (item.leaving) continue;
        cleanup_free char *path = NULL;
        if (asprintf(&path, "%s/%s", strcmp(root, "/") ? root : "", item.path) < 0) abort();
        json_object *o = entry_json(item.dir, item.name, path, &item.st);
        if (S_ISDIR(item.st.st_mode) && item.depth < r->depth && walk_enter(walk, &item, e) < 0)
            json_object_object_add(o, "unreadable", json_object_new_boolean(true));
        if (work_line(w, o, e) < 0) return -1;
        entries++;
    }
    w->end = json_object_new_object();
    json_object_object_add(w->end, "entries", json_object_new_int64(entries));
    return got;
}

int fs_list(struct work *w, const struct request *r, struct err *e) {
    int dir = path_open(r->path, O_RDONLY | O_DIRECTORY, e);
    if (dir < 0) return -1;
    cleanup_free char *root = path_shown(r->path);
    struct walk walk;
    int rc = walk_open(&walk, dir, e);
    if (rc == 0) rc = list_tree(w, r, &walk, root, e);
    walk_close(&walk);
    return rc;
}
