/* The operation tar_get: a tree as a pax archive, written while it is walked. Names are relative to the directory asked
 * for (its own entry is left out); a single file is the only entry, under its own name. Sockets, FIFOs and devices are
 * left out and counted in END's "skipped". A file that shrinks while it is read ends the operation: the archive would
 * not be true. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/path.h"
#include "guest/walk.h"
#include "guest/work.h"

struct packing {
    struct work *work;
    struct archive *tar;
    int64_t bytes, entries, skipped;
};

static la_ssize_t give(struct archive *a, void *arg, const void *bytes, size_t n) {
    struct packing *p = arg;
    struct err e;
    if (work_data(p->work, bytes, n, &e) < 0) {
        archive_set_error(a, ECANCELED, "%s", e.text);
        return -1;
    }
    p->bytes += (int64_t)n;
    return (la_ssize_t)n;
}

static int tar_error(struct packing *p, const char *name, struct err *e) {
    const char *text = archive_error_string(p->tar);
    return err_set(e, archive_errno(p->tar) == ECANCELED ? ERR_CONFLICT : ERR_INTERNAL, "%s: %s", name,
                   text ? text : "tar");
}

static int put_contents(struct packing *p, int fd, int64_t size, const char *name, struct err *e) {
    static char bytes[65536];
    while (size) {
        ssize_t n = read(fd, bytes, size < (int64_t)sizeof bytes ? (size_t)size : sizeof bytes);
        if (n < 0) return err_sys(e, errno, "%s", name);
        if (n == 0) return err_set(e, ERR_CONFLICT, "%s became shorter while it was read", name);
        if (archive_write_data(p->tar, bytes, (size_t)n) != n) return tar_error(p, name, e);
        size -= n;
    }
    return 0;
}

static struct archive_entry *entry_of(const char *name, const struct stat *st, const char *target) {
    struct archive_entry *entry = archive_entry_new();
    if (!entry) abort();
    archive_entry_copy_pathname(entry, name);
    archive_entry_set_filetype(entry, st->st_mode & S_IFMT);
    archive_entry_set_perm(entry, st->st_mode & 07777);
    archive_entry_set_uid(entry, st->st_uid);
    archive_entry_set_gid(entry, st->st_gid);
    archive_entry_set_mtime(entry, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    archive_entry_set_size(entry, S_ISREG(st->st_mode) ? st->st_size : 0);
    if (target) archive_entry_copy_symlink(entry, target);
    return entry;
}

/* One entry. For a file the size in the header is what fstat says of the descriptor that is then read. */
static int put_entry(struct packing *p, int dir, const char *in_dir, const char *name, struct stat *st, struct err *e) {
    char target[PATH_MAX] = "";
    cleanup_close int fd = -1;
    if (S_ISREG(st->st_mode)) {
        fd = openat(dir, in_dir, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0) return err_sys(e, errno, "%s", name);
        if (fstat(fd, st) < 0) return err_sys(e, errno, "%s", name);
    } else if (S_ISLNK(st->st_mode)) {
        ssize_t n = readlinkat(dir, in_dir, target, sizeof target - 1);
        if (n < 0) return err_sys(e, errno, "%s", name);
        target[n] = 0;
    }
    if (!S_ISREG(st->st_mode) && !S_ISLNK(st->st_mode) && !S_ISDIR(st->st_mode)) {
        p->skipped++;
        return 0;
    }
    struct archive_entry *entry = entry_of(name, st, S_ISLNK(st->st_mode) ? target : NULL);
    int rc = archive_write_header(p->tar, entry) < ARCHIVE_WARN ? tar_error(p, name, e) : 0;
    archive_entry_free(entry);
    if (rc == 0 && S_ISREG(st->st_mode)) rc = put_contents(p, fd, st->st_size, name, e);
    p->entries++;
    return rc;
}

static int put_tree(struct packing *p, int dir, struct err *e) {
    struct walk walk;
    struct walk_item item;
    int rc = walk_open(&walk, dir, e);
    while (rc >= 0 && (rc = walk_next(&walk, &item, e)) > 0) {
        if (item.leaving) continue;
        rc = put_entry(p, item.dir, item.name, item.path, &item.st, e);
        if (rc == 0 && S_ISDIR(item.st.st_mode)) rc = walk_enter(&walk, &item, e);
    }
    walk_close(&walk);
    return rc;
}

static int put_path(struct packing *p, const char *path, struct err *e) {
    struct place place;
    struct stat st;
    int dir = path_open_raw(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0, 0);
    if (dir >= 0) return put_tree(p, dir, e);
    if (errno != ENOTDIR) return err_sys(e, errno, "%s", path);
    if (place_open(path, false, &place, e) < 0) return -1;
    char name[NAME_MAX + 1]; /* the name asked for, whatever a symlink of that name points at */
    memcpy(name, place.name, sizeof name);
    int rc = place_follow(&place, e);
    if (rc == 0 && fstatat(place.dir, place.name, &st, AT_SYMLINK_NOFOLLOW) < 0) rc = err_sys(e, errno, "%s", path);
    if (rc == 0) rc = put_entry(p, place.dir, place.name, name, &st, e);
    place_close(&place);
    return rc;
}

int tar_get(struct work *w, const struct request *r, struct err *e) {
    struct packing p = {.work = w, .tar = archive_write_new()};
    if (!p.tar) abort();
    int rc = 0;
    if (archive_write_set_format_pax(p.tar) != ARCHIVE_OK ||
        archive_write_set_bytes_per_block(p.tar, WORK_CHUNK) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(p.tar, 1) != ARCHIVE_OK ||
        archive_write_open(p.tar, &p, NULL, give, NULL) != ARCHIVE_OK)
        rc = tar_error(&p, "tar", e);
    if (rc == 0) rc = put_path(&p, r->path, e);
    if (rc == 0 && archive_write_close(p.tar) != ARCHIVE_OK) rc = tar_error(&p, "tar", e);
    if (rc < 0) archive_write_fail(p.tar); /* no end-of-archive mark on something cut short */
    archive_write_free(p.tar);
    if (rc < 0) return -1;
    w->end = json_object_new_object();
    json_object_object_add(w->end, "bytes", json_object_new_int64(p.bytes));
    json_object_object_add(w->end, "entries", json_object_new_int64(p.entries));
    json_object_object_add(w->end, "skipped", json_object_new_int64(p.skipped));
    return 0;
}
