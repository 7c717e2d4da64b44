/* The operation tar_put: unpack a tar, optionally gzip, below a directory, while it arrives.
 *
 * Nothing of an entry is written unless its name stays inside: no "..", not absolute, no link (an older one on disk
 * included) that leads out on the way (RESOLVE_BENEATH decides, not string work), and for links a target that stays
 * inside too. Files are written under a hidden name and renamed when complete. Owner is the requesting user; set-id
 * bits are dropped. The first bad entry ends the operation; the entries before it stay. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/fs_temp.h"
#include "guest/path.h"
#include "guest/tar_name.h"
#include "guest/work.h"

#define LATE_MODES_MAX 65536 /* directories whose mode is set at the end, because it would lock out their own entries  \
                              */

struct late_mode {
    char *path;
    mode_t mode;
};

struct unpacking {
    struct work *work;
    struct archive *tar;
    int top;
    int64_t entries;
    struct err input; /* why the daemon's data stopped; code NULL: it did not */
    struct late_mode *late;
    size_t late_n;
};

static la_ssize_t take(struct archive *a, void *arg, const void **bytes) {
    struct unpacking *u = arg;
    const uint8_t *got;
    size_t n;
    int rc;
    do rc = work_receive(u->work, &got, &n, &u->input);
    while (rc > 0 && n == 0);
    if (rc < 0) archive_set_error(a, ECANCELED, "%s", u->input.text);
    *bytes = got;
    return rc < 0 ? -1 : rc == 0 ? 0 : (la_ssize_t)n;
}

static int tar_error(struct unpacking *u, struct err *e) {
    const char *text = archive_error_string(u->tar);
    if (u->input.code) {
        *e = u->input;
        return -1;
    }
    return err_set(e, ERR_INVALID, "the archive cannot be read: %s", text ? text : "not a tar");
}

/* openat2 says EXDEV when a symlink on the way leads out of the tree. */
static int place_error(const char *name, struct err *e) {
    if (errno == EXDEV || errno == ELOOP)
        return err_set(e, ERR_INVALID, "the entry %s leads out of the directory", name);
    return err_sys(e, errno, "%s", name);
}

/* The directory of an entry, made when missing, and the entry's last name. Files may pass through symlinks that stay
 * inside; links may not (`links`): where they point is judged by their name. */
static int entry_place(struct unpacking *u, const char *name, bool links, struct place *p, struct err *e) {
    const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    cleanup_free char *parent = strndup(slash ? name : ".", slash ? (size_t)(slash - name) : 1);
    bool made;
    if (!parent) abort();
    if (strlen(last) > NAME_MAX) return err_sys(e, ENAMETOOLONG, "%s", name);
    memcpy(p->name, last, strlen(last) + 1);
    p->dir = path_make_dirs(u->top, parent, 0755, RESOLVE_BENEATH | (links ? RESOLVE_NO_SYMLINKS : 0), &made);
    return p->dir < 0 ? place_error(name, e) : 0;
}

static int put_file(struct unpacking *u, struct archive_entry *entry, const char *name, const struct place *p,
                    struct err *e) {
    struct temp t;
    if (temp_open(&t, p->dir) < 0) return err_sys(e, errno, "%s", name);
    const void *bytes;
    size_t n;
    la_int64_t offset;
    int rc = 0, got = ARCHIVE_EOF;
    while (rc == 0 && (got = archive_read_data_block(u->tar, &bytes, &n, &offset)) == ARCHIVE_OK)
        if (lseek(t.fd, offset, SEEK_SET) < 0 || write_all(t.fd, bytes, n) < 0) rc = err_sys(e, errno, "%s", name);
    if (rc == 0 && got != ARCHIVE_EOF) rc = tar_error(u, e);
    if (rc == 0 && archive_entry_size_is_set(entry) && ftruncate(t.fd, archive_entry_size(entry)) < 0)
        rc = err_sys(e, errno, "%s", name); /* a sparse file may end in a hole */
    struct timespec times[2] = {{.tv_nsec = UTIME_NOW},
                                {.tv_sec = archive_entry_mtime(entry), .tv_nsec = archive_entry_mtime_nsec(entry)}};
    if (rc == 0 && archive_entry_mtime_is_set(entry)) (void)futimens(t.fd, times);
    if (rc == 0 && fchmod(t.fd, archive_entry_perm(entry) & 0777) < 0) rc = err_sys(e, errno, "%s", name);
    if (rc == 0 && temp_publish(&t, p->name) < 0) rc = err_sys(e, errno, "%s", name);
    temp_discard(&t);
    return rc;
}

static int put_dir(struct unpacking *u, struct archive_entry *entry, const char *name, const struct place *p,
                   struct err *e) {
    mode_t mode = archive_entry_perm(entry) & 01777;
    if (mkdirat(p->dir, p->name, mode | 0700) < 0) {
        struct stat st;
        int kept = errno;
        if (fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
            return err_sys(e, kept, "%s", name);
        return 0; /* there already: its mode is its owner's business */
    }
    if ((mode & 0700) == 0700 || u->late_n >= LATE_MODES_MAX) return 0;
    u->late = realloc(u->late, (u->late_n + 1) * sizeof *u->late);
    if (!u->late) abort();
    u->late[u->late_n++] = (struct late_mode){.path = strdup(name), .mode = mode};
    return 0;
}

/* The link has been made under its hidden name: over to the real one. (rename does nothing when both are links to one
 * file: then the hidden one is left.) */
static int publish_link(const char *hidden, const char *name, const struct place *p, struct err *e) {
    int rc = renameat(p->dir, hidden, p->dir, p->name) < 0 ? err_sys(e, errno, "%s", name) : 0;
    (void)unlinkat(p->dir, hidden, 0);
    return rc;
}

static int put_symlink(const char *target, const char *name, const struct place *p, struct err *e) {
    char hidden[TEMP_NAME_SIZE];
    temp_name(hidden);
    if (!tar_link_inside(name, target))
        return err_set(e, ERR_INVALID, "the link %s -> %s leads out of the directory", name, target);
    if (symlinkat(target, p->dir, hidden) < 0) return err_sys(e, errno, "%s", name);
    return publish_link(hidden, name, p, e);
}

static int put_hardlink(struct unpacking *u, const char *target, const char *name, const struct place *p,
                        struct err *e) {
    char clean[PATH_MAX], hidden[TEMP_NAME_SIZE];
    struct place from;
    temp_name(hidden);
    if (!tar_name_clean(target, clean, sizeof clean) || !*clean)
        return err_set(e, ERR_INVALID, "the link %s to %s leads out of the directory", name, target);
    if (entry_place(u, clean, true, &from, e) < 0) return -1;
    /* Without AT_SYMLINK_FOLLOW: a symlink is linked as itself. */
    int rc = linkat(from.dir, from.name, p->dir, hidden, 0) < 0 ? err_sys(e, errno, "%s", name) : 0;
    place_close(&from);
    return rc < 0 ? -1 : publish_link(hidden, name, p, e);
}

static int put_entry(struct unpacking *u, struct archive_entry *entry, struct err *e) {
    char name[PATH_MAX];
    struct place p;
    const char *given = archive_entry_pathname(entry), *hard = archive_entry_hardlink(entry);
    if (!given) return err_set(e, ERR_INVALID, "an entry of the archive has a name that is no UTF-8");
    if (!tar_name_clean(given, name, sizeof name))
        return err_set(e, ERR_INVALID, "the entry %s is absolute or leads out of the directory", given);
    if (!*name) return 0; /* "./": the directory itself */
    mode_t type = archive_entry_filetype(entry);
    if (entry_place(u, name, hard || S_ISLNK(type), &p, e) < 0) return -1;
    int rc;
    if (hard)
        rc = put_hardlink(u, hard, name, &p, e);
    else if (S_ISREG(type))
        rc = put_file(u, entry, name, &p, e);
    else if (S_ISDIR(type))
        rc = put_dir(u, entry, name, &p, e);
    else if (S_ISLNK(type) && archive_entry_symlink(entry))
        rc = put_symlink(archive_entry_symlink(entry), name, &p, e);
    else
        rc = err_set(e, ERR_INVALID, "the entry %s is neither file, directory nor link", name);
    place_close(&p);
    if (rc == 0) u->entries++;
    return rc;
}

static int set_late_modes(struct unpacking *u, struct err *e) {
    int rc = 0;
    for (size_t i = u->late_n; i-- > 0;) { /* children before parents */
        cleanup_close int fd =
            path_open_raw(u->top, u->late[i].path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, RESOLVE_BENEATH);
        if (rc == 0 && (fd < 0 || fchmod(fd, u->late[i].mode) < 0)) rc = err_sys(e, errno, "%s", u->late[i].path);
        free(u->late[i].path);
    }
    free(u->late);
    return rc;
}

static int unpack(struct unpacking *u, struct err *e) {
    struct archive_entry *entry;
    int got;
    while ((got = archive_read_next_header(u->tar, &entry)) == ARCHIVE_OK || got == ARCHIVE_WARN)
        if (put_entry(u, entry, e) < 0) return -1;
    if (got != ARCHIVE_EOF) return tar_error(u, e);
    /* What follows the end of the archive is padding; its end must come all the same, or the transfer was cut. */
    const uint8_t *bytes;
    size_t n;
    int rc;
    while ((rc = work_receive(u->work, &bytes, &n, e)) > 0) continue;
    return rc;
}

int tar_put(struct work *w, const struct request *r, struct err *e) {
    bool made;
    struct unpacking u = {.work = w, .tar = archive_read_new()};
    if (!u.tar) abort();
    u.top = r->parents ? path_make_dirs(AT_FDCWD, r->path, 0755, 0, &made)
                       : path_open_raw(AT_FDCWD, r->path, O_PATH | O_DIRECTORY, 0, 0);
    int rc = u.top < 0 ? err_sys(e, errno, "%s", r->path) : 0;
    if (rc == 0 && (archive_read_support_format_tar(u.tar) != ARCHIVE_OK ||
                    archive_read_support_filter_gzip(u.tar) != ARCHIVE_OK ||
                    archive_read_open(u.tar, &u, NULL, take, NULL) != ARCHIVE_OK))
        rc = tar_error(&u, e);
    if (rc == 0) rc = unpack(&u, e);
    struct err late;
    if (set_late_modes(&u, &late) < 0 && rc == 0) {
        *e = late;
        rc = -1;
    }
    archive_read_free(u.tar);
    close_fd(&u.top);
    if (rc < 0) return -1;
    w->end = json_object_new_object();
    json_object_object_add(w->end, "entries", json_object_new_int64(u.entries));
    return 0;
}
