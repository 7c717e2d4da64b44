/* The operation watch: inotify as JSON lines, until the channel is closed.
 *
 * {"type": "create|write|remove|rename|chmod", "path"}: rename is told with the old path, what appears by a rename as
 * create with the new one. {"type": "overflow", "path"}: the kernel's queue was full and events are missing; look at
 * the tree again. Recursive: new directories are watched as they appear; what is in them already is told as created. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/entry.h"
#include "guest/path.h"
#include "guest/walk.h"
#include "guest/work.h"

#define MASK                                                                                                           \
    (IN_CREATE | IN_MODIFY | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF |     \
     IN_EXCL_UNLINK)

struct watched {
    int id;
    char *path;
};

struct watching {
    struct work *work;
    int notify;
    bool recursive;
    int root_id;
    struct watched *list;
    size_t n;
    struct buf last; /* the line sent last in this batch: a program that writes in small pieces says one thing */
};

static struct watched *by_id(struct watching *s, int id) {
    for (size_t i = 0; i < s->n; i++)
        if (s->list[i].id == id) return &s->list[i];
    return NULL;
}

static void forget(struct watching *s, struct watched *d) {
    free(d->path);
    *d = s->list[--s->n];
}

/* Watch what fd (O_PATH or readable) stands for. The watch is by inode, whatever happens to the path. */
static int watch_fd(struct watching *s, int fd, const char *path, int *id, struct err *e) {
    char link[32];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    *id = inotify_add_watch(s->notify, link, MASK);
    if (*id < 0 && errno == ENOSPC) return err_set(e, ERR_LIMIT, "the cell watches too many directories already");
    if (*id < 0) return err_sys(e, errno, "%s", path);
    char *copy = strdup(path);
    struct watched *known = by_id(s, *id);
    if (!copy) abort();
    if (known) { /* the directory came back under another name */
        free(known->path);
        known->path = copy;
        return 0;
    }
    s->list = realloc(s->list, (s->n + 1) * sizeof *s->list);
    if (!s->list) abort();
    s->list[s->n++] = (struct watched){.id = *id, .path = copy};
    return 0;
}

static bool is_limit(const struct err *e) { return !strcmp(e->code, ERR_LIMIT); }

static int tell(struct watching *s, const char *type, const char *path, struct err *e) {
    struct buf line = {0};
    buf_printf(&line, "%s %s", type, path);
    bool again = s->last.len == line.len && !memcmp(s->last.data, line.data, line.len);
    buf_free(&s->last);
    s->last = line;
    if (again) return 0;
    json_object *o = json_object_new_object();
    json_object_object_add(o, "type", json_object_new_string(type));
    json_object_object_add(o, "path", entry_text(path));
    return work_line(s->work, o, e);
}

/* Watch every directory below fd (taken over); tell about everything found when `news`. */
static int watch_below(struct watching *s, int fd, const char *path, bool news, struct err *e) {
    struct walk walk;
    struct walk_item item;
    int id, rc = walk_open(&walk, fd, e);
    while (rc >= 0 && (rc = walk_next(&walk, &item, e)) > 0) {
        if (item.leaving) continue;
        cleanup_free char *full = NULL;
        if (asprintf(&full, "%s/%s", strcmp(path, "/") ? path : "", item.path) < 0) abort();
        if (news) rc = tell(s, "create", full, e);
        if (rc < 0 || !S_ISDIR(item.st.st_mode)) continue;
        /* First the watch, then the look inside: nothing is made unseen in between. A directory that is gone or that
         * the user may not read has nothing to watch. */
        cleanup_close int dir = openat(item.dir, item.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0) continue;
        if (watch_fd(s, dir, full, &id, e) < 0)
            rc = is_limit(e) ? -1 : 0;
        else
            (void)walk_enter(&walk, &item, e);
    }
    walk_close(&walk);
    return rc;
}

static int watch_new_dir(struct watching *s, const char *path, struct err *e) {
    int id, fd = path_open_raw(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, 0);
    if (fd < 0) return 0; /* gone again, or not the user's to read */
    if (watch_fd(s, fd, path, &id, e) < 0) {
        close(fd);
        return is_limit(e) ? -1 : 0;
    }
    return watch_below(s, fd, path, true, e);
}

/* A directory was moved away: the watches below it would tell wrong paths. */
static void forget_below(struct watching *s, const char *path) {
    size_t n = strlen(path);
    for (size_t i = s->n; i-- > 0;) {
        struct watched *d = &s->list[i];
        if (strncmp(d->path, path, n) || (d->path[n] && d->path[n] != '/')) continue;
        (void)inotify_rm_watch(s->notify, d->id);
        forget(s, d);
    }
}

static int take_event(struct watching *s, const struct inotify_event *ev, struct err *e) {
    struct watched *d = by_id(s, ev->wd);
    if (ev->mask & IN_Q_OVERFLOW)
        return tell(s, "overflow", by_id(s, s->root_id) ? by_id(s, s->root_id)->path : "/", e);
    if (!d) return 0; /* from before a rename */
    if (ev->mask & IN_IGNORED) {
        forget(s, d);
        return 0;
    }
    bool self = !ev->len;
    if (self && ev->wd != s->root_id) return 0; /* its parent tells */
    cleanup_free char *path = NULL;
    if (asprintf(&path, self ? "%s" : "%s/%s", self || strcmp(d->path, "/") ? d->path : "", ev->name) < 0) abort();
    const char *type = ev->mask & (IN_CREATE | IN_MOVED_TO)        ? "create"
                       : ev->mask & IN_MODIFY                      ? "write"
                       : ev->mask & (IN_DELETE | IN_DELETE_SELF)   ? "remove"
                       : ev->mask & (IN_MOVED_FROM | IN_MOVE_SELF) ? "rename"
                                                                   : "chmod";
    if (tell(s, type, path, e) < 0) return -1;
    if (!s->recursive || self || !(ev->mask & IN_ISDIR)) return 0;
    if (ev->mask & IN_MOVED_FROM) forget_below(s, path);
    return ev->mask & (IN_CREATE | IN_MOVED_TO) ? watch_new_dir(s, path, e) : 0;
}

static int take_events(struct watching *s, struct err *e) {
    static char events[65536] __attribute__((aligned(8)));
    ssize_t n = read(s->notify, events, sizeof events);
    if (n < 0) return errno == EINTR ? 0 : err_sys(e, errno, "inotify");
    buf_clear(&s->last);
    for (char *at = events; at < events + n;) {
        const struct inotify_event *ev = (const void *)at;
        if (take_event(s, ev, e) < 0) return -1;
        at += sizeof *ev + ev->len;
    }
    return work_lines_flush(s->work, e);
}

int fs_watch(struct work *w, const struct request *r, struct err *e) {
    struct watching s = {.work = w, .recursive = r->recursive, .notify = inotify_init1(IN_CLOEXEC)};
    if (s.notify < 0) return err_set(e, ERR_LIMIT, "cannot watch: %s", strerror(errno));
    cleanup_free char *shown = path_shown(r->path);
    cleanup_close int fd = path_open(r->path, O_RDONLY | O_DIRECTORY, e);
    if (fd < 0 && e->sys_errno == ENOTDIR) fd = path_open(r->path, O_PATH, e); /* a single file */
    if (fd < 0 || watch_fd(&s, fd, shown, &s.root_id, e) < 0) return -1;
    struct stat st;
    if (fstat(fd, &st) < 0) return err_sys(e, errno, "%s", r->path);
    if (r->recursive && S_ISDIR(st.st_mode) && watch_below(&s, steal_fd(&fd), shown, false, e) < 0) return -1;
    if (work_reply(w, json_object_new_object(), e) < 0) return -1;
    while (take_events(&s, e) == 0) continue;
    return -1;
}
