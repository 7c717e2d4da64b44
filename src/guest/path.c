#include "guest/path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"

#define LINKS_MAX 40 /* as the kernel's own limit for one path */

int path_open_raw(int dir, const char *path, int flags, mode_t mode, uint64_t resolve) {
    struct open_how how = {
        .flags = (uint64_t)(unsigned)(flags | O_CLOEXEC | (flags & O_PATH ? 0 : O_NOCTTY | O_NONBLOCK)),
        .mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? mode : 0,
        .resolve = RESOLVE_NO_MAGICLINKS | resolve,
    };
    int fd;
    do fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
    while (fd < 0 &&
           (errno == EINTR || (errno == EAGAIN && resolve & RESOLVE_BENEATH))); /* EAGAIN: a rename raced it */
    return fd;
}

int path_open(const char *path, int flags, struct err *e) {
    int fd = path_open_raw(AT_FDCWD, path, flags, 0, 0);
    return fd < 0 ? err_sys(e, errno, "%s", path) : fd;
}

int path_open_exact(int root, const char *path, int flags) {
    path += strspn(path, "/");
    return path_open_raw(root, *path ? path : ".", flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
}

int path_reopen(int fd, int flags) {
    char link[32];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

char *path_of_fd(int fd) {
    char link[32], *real = malloc(PATH_MAX);
    if (!real) abort();
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, real, PATH_MAX - 1);
    real[n > 0 ? n : 0] = 0;
    return real;
}

/* Next component of *at into name (NAME_MAX + 1 bytes): its length, 0 at the end, -1 when too long. */
static int next_name(const char **at, char *name) {
    *at += strspn(*at, "/");
    size_t n = strcspn(*at, "/");
    if (n > NAME_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(name, *at, n);
    name[n] = 0;
    *at += n;
    return (int)n;
}

int path_make_dirs(int base, const char *path, mode_t last_mode, uint64_t resolve, bool *made) {
    char prefix[PATH_MAX], name[NAME_MAX + 1];
    *made = false;
    int dir = path_open_raw(base, path, O_PATH | O_DIRECTORY, 0, resolve);
    if (dir >= 0 || errno != ENOENT || strlen(path) >= sizeof prefix) return dir;
    dir = path_open_raw(base, *path == '/' ? "/" : ".", O_PATH | O_DIRECTORY, 0, resolve);
    const char *at = path;
    for (int n; dir >= 0 && (n = next_name(&at, name)) != 0;) {
        cleanup_close int up = dir;
        dir = -1;
        if (n < 0) return -1;
        memcpy(prefix, path, (size_t)(at - path));
        prefix[at - path] = 0;
        /* Always from the base: what `resolve` allows is decided there, not component by component. */
        dir = path_open_raw(base, prefix, O_PATH | O_DIRECTORY, 0, resolve);
        *made = false;
        if (dir >= 0 || errno != ENOENT) continue;
        *made = mkdirat(up, name, at[strspn(at, "/")] ? 0755 : last_mode) == 0;
        if (!*made && errno != EEXIST) return -1;
        dir = path_open_raw(base, prefix, O_PATH | O_DIRECTORY, 0, resolve);
    }
    return dir;
}

/* Like place_open, relative paths below `base`. -1 and errno. */
static int split_open(int base, const char *path, bool parents, struct place *p) {
    char parent[PATH_MAX];
    size_t len = strlen(path), cut;
    p->dir = -1;
    if (len >= sizeof parent) {
        errno = ENAMETOOLONG;
        return -1;
    }
    while (len > 1 && path[len - 1] == '/') len--;
    for (cut = len; cut && path[cut - 1] != '/'; cut--) continue;
    if (len - cut > NAME_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(p->name, path + cut, len - cut);
    p->name[len - cut] = 0;
    if (!p->name[0] || !strcmp(p->name, ".") || !strcmp(p->name, "..")) {
        errno = EINVAL;
        return -1;
    }
    memcpy(parent, path, cut);
    parent[cut] = 0;
    bool made;
    p->dir = path_open_raw(base, cut ? parent : ".", O_PATH | O_DIRECTORY, 0, 0);
    if (p->dir < 0 && errno == ENOENT && parents) p->dir = path_make_dirs(base, parent, 0755, 0, &made);
    return p->dir < 0 ? -1 : 0;
}

int place_open(const char *path, bool parents, struct place *p, struct err *e) {
    if (split_open(AT_FDCWD, path, parents, p) == 0) return 0;
    return errno == EINVAL ? err_set(e, ERR_INVALID, "%s names no entry of a directory", path)
                           : err_sys(e, errno, "%s", path);
}

int place_follow(struct place *p, struct err *e) {
    for (int i = 0; i < LINKS_MAX; i++) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(p->dir, p->name, target, sizeof target - 1);
        if (n < 0) return 0; /* no link, or nothing there yet */
        target[n] = 0;
        struct place next;
        if (split_open(p->dir, target, false, &next) < 0)
            return err_sys(e, errno, "the link %s -> %s", p->name, target);
        place_close(p);
        *p = next;
    }
    return err_sys(e, ELOOP, "%s", p->name);
}

void place_close(struct place *p) { close_fd(&p->dir); }

static bool has_dot_dot(const char *path) {
    char name[NAME_MAX + 1];
    for (const char *at = path; next_name(&at, name) > 0;)
        if (!strcmp(name, "..")) return true;
    return false;
}

char *path_shown(const char *path) {
    if (has_dot_dot(path)) {
        cleanup_close int fd = path_open_raw(AT_FDCWD, path, O_PATH, 0, 0);
        char *real = fd < 0 ? strdup(path) : path_of_fd(fd);
        if (!real) abort();
        return real;
    }
    struct buf out = {0};
    char name[NAME_MAX + 1];
    for (const char *at = path; next_name(&at, name) > 0;)
        if (strcmp(name, ".")) buf_printf(&out, "/%s", name);
    if (!out.len) buf_str(&out, "/");
    return out.data;
}
