#include "guest/fs_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/fs_temp.h"
#include "guest/walk.h"

#define COPY_PIECE (16u << 20) /* bytes copied between two looks at whether the move is still wanted */

static int copy_bytes(struct work *w, int in, int out, struct err *e) {
    for (;;) {
        static char bytes[65536];
        ssize_t n = copy_file_range(in, NULL, out, NULL, COPY_PIECE, 0);
        if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS)) {
            n = read(in, bytes, sizeof bytes);
            if (n > 0 && write_all(out, bytes, (size_t)n) < 0) return err_sys(e, errno, "cannot write");
        }
        if (n < 0) return err_sys(e, errno, "cannot copy");
        if (n == 0) return 0;
        if (work_wanted(w, e) < 0) return -1;
    }
}

static void copy_owner(int fd, const struct stat *st) {
    (void)!fchown(fd, st->st_uid, st->st_gid); /* only root may; a user's copy is the user's */
}

static int copy_file(struct work *w, int from_dir, const char *from, const struct stat *st, int to_dir, const char *to,
                     struct err *e) {
    cleanup_close int in = openat(from_dir, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (in < 0) return err_sys(e, errno, "%s", from);
    cleanup_close int out = openat(to_dir, to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (out < 0) return err_sys(e, errno, "%s", to);
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    if (copy_bytes(w, in, out, e) < 0) return -1;
    copy_owner(out, st);
    if (fchmod(out, st->st_mode & 0777) < 0 || futimens(out, times) < 0) return err_sys(e, errno, "%s", to);
    return close(steal_fd(&out)) < 0 ? err_sys(e, errno, "%s", to) : 0;
}

static int copy_entry(struct work *w, int from_dir, const char *from, const struct stat *st, int to_dir, const char *to,
                      struct err *e) {
    char target[PATH_MAX];
    ssize_t n;
    if (S_ISREG(st->st_mode)) return copy_file(w, from_dir, from, st, to_dir, to, e);
    if (S_ISDIR(st->st_mode)) return mkdirat(to_dir, to, 0700) < 0 ? err_sys(e, errno, "%s", to) : 0;
    if (!S_ISLNK(st->st_mode)) return err_set(e, ERR_UNSUPPORTED, "%s is neither file, directory nor symlink", from);
    n = readlinkat(from_dir, from, target, sizeof target - 1);
    if (n < 0) return err_sys(e, errno, "%s", from);
    target[n] = 0;
    return symlinkat(target, to_dir, to) < 0 ? err_sys(e, errno, "%s", to) : 0;
}

static int finish_dir(int dir, const struct stat *st, struct err *e) {
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    cleanup_close int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "cannot open a directory");
    copy_owner(fd, st);
    return fchmod(fd, st->st_mode & 01777) < 0 || futimens(fd, times) < 0
               ? err_sys(e, errno, "cannot set mode and time")
               : 0;
}

/* Where the copy of an entry goes, looked up from the top of the copy each time: a process of the cell that moves
 * directories meanwhile cannot lead it out. */
static int copy_parent(int top, const char *path, bool itself) {
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = itself ? strlen(path) : slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof parent) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, path, n);
    parent[n] = 0;
    return path_open_raw(top, n ? parent : ".", O_PATH | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
}

static int copy_walk(struct work *w, struct walk *walk, int top, struct err *e) {
    struct walk_item item;
    int got;
    while ((got = walk_next(walk, &item, e)) > 0) {
        cleanup_close int out = copy_parent(top, item.path, item.leaving);
        if (out < 0) return err_sys(e, errno, "%s", item.path);
        int rc = item.leaving ? finish_dir(out, &item.st, e)
                              : copy_entry(w, item.dir, item.name, &item.st, out, item.name, e);
        if (rc < 0) return err_wrap(e, "%s", item.path);
        if (S_ISDIR(item.st.st_mode) && !item.leaving && walk_enter(walk, &item, e) < 0) return -1;
    }
    return got;
}

static int copy_tree(struct work *w, const struct place *from, const struct stat *st, const struct place *temp,
                     struct err *e) {
    int in = openat(from->dir, from->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (in < 0) return err_sys(e, errno, "%s", from->name);
    struct walk walk;
    int rc = walk_open(&walk, in, e);
    cleanup_close int out = openat(temp->dir, temp->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (rc == 0 && out < 0) rc = err_sys(e, errno, "%s", temp->name);
    if (rc == 0) rc = copy_walk(w, &walk, out, e);
    if (rc == 0) rc = finish_dir(out, st, e);
    walk_close(&walk);
    return rc;
}

int copy_place(struct work *w, const struct place *from, const struct stat *st, const struct place *to, bool overwrite,
               struct err *e) {
    struct place temp = {.dir = to->dir};
    struct err ignored;
    temp_name(temp.name);
    if (!overwrite && faccessat(to->dir, to->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return err_sys(e, EEXIST, "%s", to->name);
    int rc = copy_entry(w, from->dir, from->name, st, temp.dir, temp.name, e);
    if (rc == 0 && S_ISDIR(st->st_mode)) rc = copy_tree(w, from, st, &temp, e);
    if (rc == 0 && renameat2(temp.dir, temp.name, to->dir, to->name, overwrite ? 0 : RENAME_NOREPLACE) < 0)
        rc = err_sys(e, errno, "%s", to->name);
    if (rc < 0 && S_ISDIR(st->st_mode))
        (void)remove_tree(NULL, &temp, temp.name, &ignored);
    else if (rc < 0)
        (void)unlinkat(temp.dir, temp.name, 0);
    return rc;
}
