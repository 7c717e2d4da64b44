#include "cli/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "cli/output.h"

/* ---- one file up ---- */

struct upload {
    int fd;
    int read_errno;
};

static ssize_t read_file(void *arg, char *to, size_t room) {
    struct upload *u = arg;
    for (;;) {
        ssize_t n = read(u->fd, to, room);
        if (n >= 0) return n;
        if (errno == EINTR && !interrupted()) continue;
        u->read_errno = errno;
        return -1;
    }
}

static int open_source(const char *file, struct stat *st, struct err *e) {
    cleanup_close int fd = strcmp(file, "-") == 0 ? dup(STDIN_FILENO) : open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, st) < 0) return err_sys(e, errno, "cannot open %s", file);
    if (S_ISDIR(st->st_mode))
        return err_hint(e, ERR_IS_DIRECTORY, "`cella cp` copies directories", "%s is a directory", file);
    return steal_fd(&fd);
}

int transfer_up(struct client *c, const char *file, const char *cell, const char *path, struct err *e) {
    struct stat st;
    cleanup_close int fd = open_source(file, &st, e);
    if (fd < 0) return -1;
    struct upload upload = {.fd = fd};
    struct buf url = {0};
    path_cell(&url, cell, "/fs");
    path_query(&url, "path", path);
    if (S_ISREG(st.st_mode)) {
        char mode[8];
        (void)snprintf(mode, sizeof mode, "%04o", (unsigned)st.st_mode & 0777u);
        path_query(&url, "mode", mode);
    }
    struct call call = {.method = "PUT",
                        .path = url.data,
                        .read = read_file,
                        .arg = &upload,
                        .read_size = S_ISREG(st.st_mode) ? st.st_size : -1};
    int result = client_call(c, &call, e);
    if (upload.read_errno) result = err_sys(e, upload.read_errno, "cannot read %s", file);
    call_free(&call);
    buf_free(&url);
    return result;
}

/* ---- one file down ---- */

struct download {
    int fd;
    int write_errno;
};

static bool write_file(void *arg, const char *bytes, size_t n) {
    struct download *d = arg;
    while (n > 0) {
        ssize_t wrote = write(d->fd, bytes, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) {
            d->write_errno = errno;
            return false;
        }
        bytes += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

static int fetch(struct client *c, const char *cell, const char *path, int fd, const char *name, struct err *e) {
    struct download download = {.fd = fd};
    struct buf url = {0};
    path_cell(&url, cell, "/fs");
    path_query(&url, "path", path);
    struct call call = {.method = "GET",
                        .path = url.data,
                        .accept = "application/octet-stream, application/json",
                        .write = write_file,
                        .arg = &download};
    int result = client_call(c, &call, e);
    if (download.write_errno) result = err_sys(e, download.write_errno, "cannot write %s", name);
    call_free(&call);
    buf_free(&url);
    return result;
}

/* Beside the target first, then one rename: whoever looks sees the old file or the whole new one. */
static int fetch_and_rename(struct client *c, const char *cell, const char *path, const char *file, struct err *e) {
    struct buf temporary = {0};
    char unique[ID_HEX + 1];
    id_make(unique, "");
    buf_printf(&temporary, "%s.part-%.8s", file, unique);
    cleanup_close int fd = open(temporary.data, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    int result = fd < 0 ? err_sys(e, errno, "cannot write %s", file) : fetch(c, cell, path, fd, file, e);
    if (fd >= 0 && result == 0 && close(steal_fd(&fd)) < 0) result = err_sys(e, errno, "cannot write %s", file);
    if (result == 0 && rename(temporary.data, file) < 0) result = err_sys(e, errno, "cannot write %s", file);
    if (result < 0) (void)unlink(temporary.data);
    buf_free(&temporary);
    return result;
}

int transfer_down(struct client *c, const char *cell, const char *path, const char *file, struct err *e) {
    struct stat st;
    if (strcmp(file, "-") == 0) {
        (void)fflush(stdout);
        return fetch(c, cell, path, STDOUT_FILENO, "the output", e);
    }
    if (stat(file, &st) < 0 || S_ISREG(st.st_mode)) return fetch_and_rename(c, cell, path, file, e);
    cleanup_close int fd = open(file, O_WRONLY | O_CLOEXEC); /* a pipe or a device */
    if (fd < 0) return err_sys(e, errno, "cannot write %s", file);
    return fetch(c, cell, path, fd, file, e);
}
