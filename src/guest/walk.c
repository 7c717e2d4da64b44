#include "guest/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int read_names(struct walk_level *l, int fd, struct err *e) {
    cleanup_dir DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return err_sys(e, errno, "cannot read a directory");
    }
    size_t cap = 0;
    for (struct dirent *ent; errno = 0, (ent = readdir(d));) {
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, "..")) continue;
        if (l->n == cap) {
            cap = cap ? 2 * cap : 64;
            l->names = realloc(l->names, cap * sizeof *l->names);
            if (!l->names) abort();
        }
        l->names[l->n] = strdup(ent->d_name);
        if (!l->names[l->n++]) abort();
    }
    if (errno) return err_sys(e, errno, "cannot read a directory");
    if (l->n) qsort(l->names, l->n, sizeof *l->names, by_name);
    return 0;
}

static void pop_level(struct walk *w) {
    struct walk_level *l = &w->levels[--w->depth];
    for (size_t i = 0; i < l->n; i++) free(l->names[i]);
    free(l->names);
}

/* w->dir (the new directory) becomes the top level. */
static int push_level(struct walk *w, struct err *e) {
    if (w->depth == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 16;
        w->levels = realloc(w->levels, w->cap * sizeof *w->levels);
        if (!w->levels) abort();
    }
    struct walk_level *l = &w->levels[w->depth++];
    *l = (struct walk_level){.path_len = w->path.len};
    struct stat st;
    if (fstat(w->dir, &st) < 0) return err_sys(e, errno, "cannot stat a directory");
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    int copy = openat(w->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0) return err_sys(e, errno, "cannot open a directory");
    return read_names(l, copy, e);
}

int walk_open(struct walk *w, int dir, struct err *e) {
    *w = (struct walk){.dir = dir};
    buf_str(&w->path, "");
    return push_level(w, e);
}

static void path_set(struct walk *w, const struct walk_level *l, const char *name) {
    w->path.len = l->path_len;
    w->path.data[w->path.len] = 0;
    buf_printf(&w->path, "%s%s", l->path_len ? "/" : "", name);
}

static int go_up(struct walk *w, struct err *e) {
    const struct walk_level *to = &w->levels[w->depth - 1];
    int up = openat(w->dir, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    if (up < 0) return err_sys(e, errno, "cannot go back from %s", w->path.data);
    close(w->dir);
    w->dir = up;
    if (fstat(up, &st) < 0) return err_sys(e, errno, "cannot stat the parent of %s", w->path.data);
    if (st.st_dev != to->dev || st.st_ino != to->ino)
        return err_set(e, ERR_CONFLICT, "%s was moved while it was being walked", w->path.data);
    return 0;
}

static void item_fill(const struct walk *w, struct walk_item *item, const char *name, bool leaving) {
    item->dir = w->dir;
    item->name = name;
    item->path = w->path.data;
    item->depth = (int)w->depth;
    item->leaving = leaving;
}

int walk_next(struct walk *w, struct walk_item *item, struct err *e) {
    for (;;) {
        struct walk_level *l = &w->levels[w->depth - 1];
        if (l->at < l->n) {
            const char *name = l->names[l->at++];
            path_set(w, l, name);
            if (fstatat(w->dir, name, &item->st, AT_SYMLINK_NOFOLLOW) < 0) {
                if (errno == ENOENT) continue;
                return err_sys(e, errno, "%s", w->path.data);
            }
            item_fill(w, item, name, false);
            return 1;
        }
        if (w->depth == 1) return 0;
        pop_level(w);
        l = &w->levels[w->depth - 1];
        path_set(w, l, l->names[l->at - 1]);
        if (fstat(w->dir, &item->st) < 0) return err_sys(e, errno, "%s", w->path.data);
        if (go_up(w, e) < 0) return -1;
        item_fill(w, item, l->names[l->at - 1], true);
        return 1;
    }
}

int walk_enter(struct walk *w, struct walk_item *item, struct err *e) {
    int fd = openat(w->dir, item->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "%s", item->path);
    int up = w->dir;
    w->dir = fd;
    if (push_level(w, e) == 0) {
        close(up);
        return 0;
    }
    pop_level(w); /* stay where we were: the caller may go on with the next entry */
    close(fd);
    w->dir = up;
    return -1;
}

void walk_close(struct walk *w) {
    while (w->depth) pop_level(w);
    free(w->levels);
    buf_free(&w->path);
    close_fd(&w->dir);
}
