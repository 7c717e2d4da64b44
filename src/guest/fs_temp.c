#include "guest/fs_temp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "guest/path.h"

void temp_name(char name[TEMP_NAME_SIZE]) {
    char id[ID_HEX + 1];
    id_make(id, "");
    (void)snprintf(name, TEMP_NAME_SIZE, ".cella-%.16s.tmp", id);
}

int temp_open(struct temp *t, int dir) {
    temp_name(t->name);
    t->dir = dir;
    t->named = false;
    t->fd = path_open_raw(dir, ".", O_TMPFILE | O_WRONLY, 0600, 0);
    if (t->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return t->fd;
    t->fd = path_open_raw(dir, t->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, 0);
    t->named = t->fd >= 0;
    return t->fd;
}

int temp_publish(struct temp *t, const char *name) {
    if (!t->named) {
        char link[32];
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", t->fd);
        if (linkat(AT_FDCWD, link, t->dir, t->name, AT_SYMLINK_FOLLOW) < 0) return -1;
        t->named = true;
    }
    if (renameat(t->dir, t->name, t->dir, name) < 0) return -1;
    t->named = false;
    int fd = steal_fd(&t->fd);
    return close(fd);
}

void temp_discard(struct temp *t) {
    int kept = errno;
    if (t->named) (void)unlinkat(t->dir, t->name, 0);
    close_fd(&t->fd);
    errno = kept;
}

int write_all(int fd, const void *bytes, size_t n) {
    const char *at = bytes;
    while (n) {
        ssize_t put = write(fd, at, n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return -1;
        at += put;
        n -= (size_t)put;
    }
    return 0;
}
