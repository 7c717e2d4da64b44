/* The operation changes: the cell's own layer and the template below it, walked side by side.
 *
 * Nothing is followed and nothing above is trusted to stand still: a directory is opened by its path below the layer's
 * root (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), used, and closed before the next one, so that no depth
 * needs descriptors. What vanishes meanwhile is left out. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/entry.h"
#include "guest/layer.h"
#include "guest/path.h"
#include "guest/work.h"

enum { UPPER, LOWER, SIDES };

struct changes {
    struct work *work;
    struct buf path; /* of what is looked at, absolute; "" for the root */
    int64_t entries;
};

/* One directory, as far as it is there. */
struct level {
    bool there[SIDES];
    bool covered; /* nothing of the template shows through here */
    int dir[SIDES];
    enum layer_opaque opaque;
    size_t path_len;
};

static const int roots[SIDES] = {[UPPER] = WORK_LAYER_FD, [LOWER] = WORK_LOWER_FD};

static void level_close(struct level *l) {
    close_fd(&l->dir[UPPER]);
    close_fd(&l->dir[LOWER]);
}

/* 1; 0: it is gone; -1. */
static int level_open(struct changes *c, struct level *l, struct err *e) {
    for (int side = 0; side < SIDES; side++) {
        if (!l->there[side] || l->dir[side] >= 0) continue;
        l->dir[side] = path_open_exact(roots[side], c->path.data, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (l->dir[side] >= 0) continue;
        int why = errno;
        level_close(l);
        if (why == ENOENT || why == ENOTDIR || why == ELOOP) return 0;
        return err_sys(e, why, "%s", c->path.len ? c->path.data : "/");
    }
    return 1;
}

static void path_cut(struct changes *c, size_t len) {
    c->path.len = len;
    c->path.data[len] = 0;
}

/* ---- telling ---- */

static int64_t nanoseconds(const struct timespec *t) { return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec; }

static int tell(struct changes *c, json_object *o, const char *change, const struct stat *upper, struct err *e) {
    json_object_object_add(o, "change", json_object_new_string(change));
    if (upper) {
        json_object_object_add(o, "inode", json_object_new_uint64(upper->st_ino));
        json_object_object_add(o, "ctime_ns", json_object_new_int64(nanoseconds(&upper->st_ctim)));
        json_object_object_add(o, "mtime_ns", json_object_new_int64(nanoseconds(&upper->st_mtim)));
    }
    c->entries++;
    return work_line(c->work, o, e);
}

static json_object *before_json(int dir, const char *name, const struct stat *st) {
    static const char *const keys[] = {"type", "size", "mode", "uid", "gid", "target"};
    json_object *whole = entry_json(dir, name, "", st), *o = json_object_new_object(), *v;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (json_object_object_get_ex(whole, keys[i], &v)) json_object_object_add(o, keys[i], json_object_get(v));
    json_object_put(whole);
    return o;
}

static int tell_both(struct changes *c, const struct level *l, const char *name, const struct stat st[SIDES],
                     struct err *e) {
    int same = layer_same(l->dir, name, st, e);
    if (same < 0)
        return e->sys_errno == ENOENT || e->sys_errno == ELOOP ? 0
                                                               : -1; /* vanished or became something else meanwhile */
    mode_t mode = S_ISLNK(st[UPPER].st_mode) ? 0 : (st[UPPER].st_mode ^ st[LOWER].st_mode) & 07777;
    if (same && !mode && st[UPPER].st_uid == st[LOWER].st_uid && st[UPPER].st_gid == st[LOWER].st_gid) return 0;
    json_object *o = entry_json(l->dir[UPPER], name, c->path.data, &st[UPPER]);
    json_object_object_add(o, "before", before_json(l->dir[LOWER], name, &st[LOWER]));
    if (same && S_ISREG(st[UPPER].st_mode)) json_object_object_add(o, "same_contents", json_object_new_boolean(true));
    return tell(c, o, "changed", &st[UPPER], e);
}

static int tell_entry(struct changes *c, const struct level *l, const char *name, const bool there[SIDES],
                      const struct stat st[SIDES], struct err *e) {
    if (there[UPPER] && there[LOWER]) return tell_both(c, l, name, st, e);
    if (there[UPPER]) return tell(c, entry_json(l->dir[UPPER], name, c->path.data, &st[UPPER]), "added", &st[UPPER], e);
    return tell(c, entry_json(l->dir[LOWER], name, c->path.data, &st[LOWER]), "removed", NULL, e);
}

/* ---- walking ---- */

static int stat_name(int dir, const char *name, struct stat *st, bool *there, struct err *e) {
    *there = fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) == 0;
    return *there || errno == ENOENT ? 0 : err_sys(e, errno, "%s", name);
}

static int visit(struct changes *c, struct level *l, struct err *e);

/* One name: what it is, what it was, what lies below it. The level may be closed when this returns. */
static int look(struct changes *c, struct level *l, const struct layer_name *n, struct err *e) {
    bool there[SIDES] = {false}, covered = l->covered;
    struct stat st[SIDES];
    int open = level_open(c, l, e);
    if (open <= 0) return open;
    buf_printf(&c->path, "/%s", n->name);
    if (n->at[UPPER]) {
        if (stat_name(l->dir[UPPER], n->name, &st[UPPER], &there[UPPER], e) < 0) return -1;
        if (!there[UPPER]) return 0; /* it went just now: the template's file may show through or not */
        if (layer_is_whiteout(l->dir[UPPER], n->name, &st[UPPER], l->opaque)) {
            there[UPPER] = false;
            covered = true;
        }
    }
    if (l->dir[LOWER] >= 0 && stat_name(l->dir[LOWER], n->name, &st[LOWER], &there[LOWER], e) < 0) return -1;
    if (!there[UPPER] && !there[LOWER]) return 0;
    if (tell_entry(c, l, n->name, there, st, e) < 0) return -1;
    struct level below = {
        .there = {there[UPPER] && S_ISDIR(st[UPPER].st_mode), there[LOWER] && S_ISDIR(st[LOWER].st_mode)},
        .covered = covered || (there[UPPER] && !S_ISDIR(st[UPPER].st_mode)),
        .dir = {-1, -1},
        .path_len = c->path.len};
    if (!below.there[UPPER] && !below.there[LOWER]) return 0;
    level_close(l);
    int rc = visit(c, &below, e);
    level_close(&below);
    return rc;
}

/* Everything in one directory. Names of the template are read only where it does not show through: elsewhere what is
 * not above is unchanged. */
static int visit(struct changes *c, struct level *l, struct err *e) {
    struct layer_names names = {0};
    int rc = level_open(c, l, e);
    if (rc <= 0) return rc;
    if (l->there[UPPER]) l->opaque = layer_opaque(l->dir[UPPER]);
    l->covered |= !l->there[UPPER] || l->opaque == LAYER_OPAQUE;
    rc = l->there[UPPER] ? layer_names_read(&names, l->dir[UPPER], UPPER, e) : 0;
    if (rc == 0 && l->there[LOWER] && l->covered) rc = layer_names_read(&names, l->dir[LOWER], LOWER, e);
    layer_names_sort(&names);
    for (size_t i = 0; rc == 0 && i < names.n; i++) {
        if (layer_is_own(names.list[i].name)) continue;
        rc = look(c, l, &names.list[i], e);
        path_cut(c, l->path_len);
    }
    layer_names_free(&names);
    return rc;
}

int layer_changes(struct work *w, const struct request *r, struct err *e) {
    (void)r;
    struct changes c = {.work = w};
    struct level root = {.there = {true, true}, .dir = {-1, -1}};
    buf_str(&c.path, "");
    int rc = visit(&c, &root, e);
    level_close(&root);
    buf_free(&c.path);
    w->end = json_object_new_object();
    json_object_object_add(w->end, "entries", json_object_new_int64(c.entries));
    return rc;
}
