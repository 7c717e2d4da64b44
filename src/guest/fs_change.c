/* The operations mkdir, move and remove. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/fs_copy.h"
#include "guest/path.h"
#include "guest/walk.h"
#include "guest/work.h"

#define DEFAULT_DIR_MODE 0755

static int mkdir_parents(const struct request *r, mode_t mode, bool *made, struct err *e) {
    cleanup_close int fd = path_make_dirs(AT_FDCWD, r->path, mode, 0, made);
    return fd < 0 ? err_sys(e, errno, "%s", r->path) : 0;
}

static int mkdir_one(const struct request *r, mode_t mode, bool *made, struct err *e) {
    cleanup_close int there = path_open_raw(AT_FDCWD, r->path, O_PATH | O_DIRECTORY, 0, 0);
    if (there >= 0) return 0;
    struct place p;
    if (place_open(r->path, false, &p, e) < 0) return -1;
    *made = mkdirat(p.dir, p.name, mode) == 0;
    int kept = errno;
    place_close(&p);
    return *made ? 0 : err_sys(e, kept, "%s", r->path);
}

int fs_mkdir(struct work *w, const struct request *r, struct err *e) {
    mode_t mode = r->mode >= 0 ? (mode_t)r->mode & 01777 : DEFAULT_DIR_MODE;
    bool made = false;
    if ((r->parents ? mkdir_parents : mkdir_one)(r, mode, &made, e) < 0) return -1;
    w->end = json_object_new_object();
    json_object_object_add(w->end, "created", json_object_new_boolean(made));
    return 0;
}

/* Everything below p, then p itself. */
int remove_tree(struct work *w, const struct place *p, const char *path, struct err *e) {
    int dir = openat(p->dir, p->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0) return err_sys(e, errno, "%s", path);
    struct walk walk;
    struct walk_item item;
    int rc = walk_open(&walk, dir, e);
    while (rc >= 0 && (rc = walk_next(&walk, &item, e)) > 0) {
        if (w && work_wanted(w, e) < 0)
            rc = -1;
        else if (S_ISDIR(item.st.st_mode) && !item.leaving)
            rc = walk_enter(&walk, &item, e);
        else if (unlinkat(item.dir, item.name, item.leaving ? AT_REMOVEDIR : 0) < 0 && errno != ENOENT)
            rc = err_sys(e, errno, "%s/%s", path, item.path);
    }
    walk_close(&walk);
    if (rc < 0) return -1;
    return unlinkat(p->dir, p->name, AT_REMOVEDIR) < 0 ? err_sys(e, errno, "%s", path) : 0;
}

static int remove_place(struct work *w, const struct request *r, const struct place *p, struct err *e) {
    struct stat st;
    if (fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0) return err_sys(e, errno, "%s", r->path);
    if (!S_ISDIR(st.st_mode)) return unlinkat(p->dir, p->name, 0) < 0 ? err_sys(e, errno, "%s", r->path) : 0;
    if (r->recursive) {
        /* Not first the contents and then the refusal. */
        if (faccessat(p->dir, ".", W_OK | X_OK, AT_EACCESS) < 0) return err_sys(e, errno, "%s", r->path);
        return remove_tree(w, p, r->path, e);
    }
    if (unlinkat(p->dir, p->name, AT_REMOVEDIR) == 0) return 0;
    if (errno == ENOTEMPTY || errno == EEXIST)
        return err_hint(e, ERR_CONFLICT, "pass recursive: true to remove what is in it", "%s is not empty", r->path);
    return err_sys(e, errno, "%s", r->path);
}

int fs_remove(struct work *w, const struct request *r, struct err *e) {
    struct place p;
    if (place_open(r->path, false, &p, e) < 0) return -1;
    int rc = remove_place(w, r, &p, e);
    place_close(&p);
    return rc;
}

static int move_error(const struct request *r, int number, struct err *e) {
    if (number == EEXIST && !r->overwrite)
        return err_hint(e, ERR_EXISTS, "pass overwrite: true to replace it", "%s exists already", r->to);
    if (number == EINVAL) return err_set(e, ERR_INVALID, "cannot move %s into itself (%s)", r->path, r->to);
    return err_sys(e, number, "cannot move %s to %s", r->path, r->to);
}

static int move_place(struct work *w, const struct request *r, const struct place *from, const struct place *to,
                      struct err *e) {
    struct stat st;
    if (fstatat(from->dir, from->name, &st, AT_SYMLINK_NOFOLLOW) < 0) return err_sys(e, errno, "%s", r->path);
    if (renameat2(from->dir, from->name, to->dir, to->name, r->overwrite ? 0 : RENAME_NOREPLACE) == 0) return 0;
    /* Another file system, or a directory that still lies in the template: overlayfs leaves the copying to us. */
    if (errno != EXDEV) return move_error(r, errno, e);
    if (copy_place(w, from, &st, to, r->overwrite, e) < 0)
        return e->sys_errno == EEXIST || e->sys_errno == EINVAL ? move_error(r, e->sys_errno, e)
                                                                : err_wrap(e, "cannot move %s to %s", r->path, r->to);
    if (S_ISDIR(st.st_mode) ? remove_tree(NULL, from, r->path, e) < 0
                            : unlinkat(from->dir, from->name, 0) < 0 && err_sys(e, errno, "%s", r->path))
        return err_wrap(e, "copied to %s, but the original could not be removed", r->to);
    return 0;
}

int fs_move(struct work *w, const struct request *r, struct err *e) {
    struct place from, to;
    if (place_open(r->path, false, &from, e) < 0) return -1;
    int rc = place_open(r->to, r->parents, &to, e);
    if (rc == 0) {
        rc = move_place(w, r, &from, &to, e);
        place_close(&to);
    }
    place_close(&from);
    return rc;
}
