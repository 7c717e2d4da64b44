/* The operation write. The bytes go to a file without a name (O_TMPFILE: nothing is left behind when the worker dies),
 * or a hidden one where the file system has no such thing; after the end of the data it takes the place of the target
 * in one rename. Appending goes straight to the file, which is cut back to its old length when the data does not come
 * whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/entry.h"
#include "guest/fs_temp.h"
#include "guest/path.h"
#include "guest/work.h"

#define DEFAULT_MODE 0644

/* All of the daemon's DATA into fd. */
static int receive_into(struct work *w, int fd, uint64_t *total, struct err *e) {
    const uint8_t *bytes;
    size_t n;
    int got;
    *total = 0;
    while ((got = work_receive(w, &bytes, &n, e)) > 0) {
        if (write_all(fd, bytes, n) < 0) return err_sys(e, errno, "cannot write");
        *total += n;
    }
    return got;
}

/* What stands at the target now must be a regular file that the user may write; *st is filled when there is one. */
static int check_target(const struct place *p, const char *path, struct stat *st, bool *there, struct err *e) {
    *there = fstatat(p->dir, p->name, st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!*there) return errno == ENOENT ? 0 : err_sys(e, errno, "%s", path);
    if (S_ISDIR(st->st_mode)) return err_set(e, ERR_IS_DIRECTORY, "%s is a directory", path);
    if (!S_ISREG(st->st_mode)) return err_set(e, ERR_INVALID, "%s is no regular file", path);
    if (faccessat(p->dir, p->name, W_OK, AT_EACCESS) < 0) return err_sys(e, errno, "%s", path);
    return 0;
}

static int replace(struct work *w, const struct request *r, const struct place *p, uint64_t *total, struct err *e) {
    struct stat st;
    bool there;
    if (check_target(p, r->path, &st, &there, e) < 0) return -1;
    struct temp t;
    if (temp_open(&t, p->dir) < 0) return err_sys(e, errno, "%s", r->path);
    mode_t mode = r->mode >= 0 ? (mode_t)r->mode : there ? st.st_mode & 0777 : DEFAULT_MODE;
    int rc = receive_into(w, t.fd, total, e);
    if (rc == 0 && there && r->as_root && fchown(t.fd, st.st_uid, st.st_gid) < 0) rc = err_sys(e, errno, "owner");
    if (rc == 0 && fchmod(t.fd, mode) < 0) rc = err_sys(e, errno, "mode");
    if (rc == 0 && temp_publish(&t, p->name) < 0) rc = err_sys(e, errno, "cannot put the new file in place");
    temp_discard(&t);
    return rc < 0 ? err_wrap(e, "%s", r->path) : 0;
}

static int append(struct work *w, const struct request *r, const struct place *p, uint64_t *total, struct err *e) {
    struct stat st;
    bool there;
    if (check_target(p, r->path, &st, &there, e) < 0) return -1;
    mode_t mode = r->mode >= 0 ? (mode_t)r->mode : DEFAULT_MODE;
    cleanup_close int fd =
        path_open_raw(p->dir, p->name, O_WRONLY | O_APPEND | O_NOFOLLOW | (there ? 0 : O_CREAT | O_EXCL), mode, 0);
    if (fd < 0) return err_sys(e, errno, "%s", r->path);
    if (fstat(fd, &st) < 0) return err_sys(e, errno, "%s", r->path);
    if (!S_ISREG(st.st_mode)) return err_set(e, ERR_INVALID, "%s is no regular file", r->path);
    int rc = receive_into(w, fd, total, e);
    if (rc == 0) return 0;
    bool undone = there ? ftruncate(fd, st.st_size) == 0 : unlinkat(p->dir, p->name, 0) == 0;
    return undone ? err_wrap(e, "%s", r->path) : err_wrap(e, "%s (part of the data stays in it)", r->path);
}

int fs_write(struct work *w, const struct request *r, struct err *e) {
    struct place p;
    size_t len = strlen(r->path);
    if (r->path[len - 1] == '/') return err_set(e, ERR_IS_DIRECTORY, "%s names a directory", r->path);
    if (place_open(r->path, r->parents, &p, e) < 0) return -1;
    uint64_t total = 0;
    int rc = place_follow(&p, e);
    if (rc == 0) rc = r->append ? append(w, r, &p, &total, e) : replace(w, r, &p, &total, e);
    place_close(&p);
    if (rc < 0) return -1;
    cleanup_free char *shown = path_shown(r->path);
    w->end = json_object_new_object();
    json_object_object_add(w->end, "bytes", json_object_new_int64((int64_t)total));
    json_object_object_add(w->end, "path", entry_text(shown));
    return 0;
}
