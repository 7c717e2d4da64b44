/* transfer.h: a directory out of a cell. libarchive wants to pull and curl wants to push: the tar goes through a pipe
 * to a thread that unpacks. The thread owns the pipe's read end and its own error; the main thread joins it before it
 * looks. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/transfer.h"

struct tree_down {
    int read_fd, write_fd;
    const char *directory;
    struct err problem; /* the thread's */
    unsigned left_out;  /* devices, sockets, pipes */
};

/* The archive is a cell's word: no absolute names, no "..", nothing through a symbolic link, no owner, no setuid. */
#define UNPACK_FLAGS                                                                                                   \
    (ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS |      \
     ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_UNLINK)

static int copy_data(struct archive *from, struct archive *to, struct err *e) {
    const void *block;
    size_t n;
    la_int64_t offset;
    for (int result; (result = archive_read_data_block(from, &block, &n, &offset)) != ARCHIVE_EOF;) {
        if (result < ARCHIVE_WARN)
            return err_set(e, ERR_LOST, "the archive from the cell is damaged: %s", archive_error_string(from));
        if (archive_write_data_block(to, block, n, offset) < ARCHIVE_WARN)
            return err_set(e, ERR_INTERNAL, "cannot write: %s", archive_error_string(to));
    }
    return 0;
}

static int unpack_entry(struct tree_down *t, struct archive *tar, struct archive *disk, struct archive_entry *entry) {
    mode_t type = archive_entry_filetype(entry);
    bool link = archive_entry_hardlink(entry) != NULL;
    if (!link && type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK) {
        t->left_out++;
        return 0;
    }
    archive_entry_set_perm(entry, archive_entry_perm(entry) & 0777);
    if (archive_write_header(disk, entry) < ARCHIVE_OK)
        return err_set(&t->problem, ERR_FORBIDDEN, "refused to unpack \"%.200s\": %s", archive_entry_pathname(entry),
                       archive_error_string(disk));
    if (copy_data(tar, disk, &t->problem) < 0) return -1;
    return archive_write_finish_entry(disk) >= ARCHIVE_WARN
               ? 0
               : err_set(&t->problem, ERR_INTERNAL, "cannot write: %s", archive_error_string(disk));
}

static void unpack(struct tree_down *t, struct archive *tar, struct archive *disk) {
    struct archive_entry *entry;
    archive_read_support_format_tar(tar);
    archive_write_disk_set_options(disk, UNPACK_FLAGS);
    if (archive_read_open_fd(tar, t->read_fd, 65536) != ARCHIVE_OK) {
        (void)err_set(&t->problem, ERR_LOST, "the cell sent no archive: %s", archive_error_string(tar));
        return;
    }
    for (int result; (result = archive_read_next_header(tar, &entry)) != ARCHIVE_EOF;) {
        if (result < ARCHIVE_WARN) {
            (void)err_set(&t->problem, ERR_LOST, "the archive from the cell is damaged: %s", archive_error_string(tar));
            return;
        }
        if (unpack_entry(t, tar, disk, entry) < 0) return;
    }
    if (archive_write_close(disk) < ARCHIVE_WARN)
        (void)err_set(&t->problem, ERR_INTERNAL, "cannot write: %s", archive_error_string(disk));
}

static void *unpack_thread(void *arg) {
    struct tree_down *t = arg;
    struct archive *tar = archive_read_new(), *disk = archive_write_disk_new();
    unpack(t, tar, disk);
    archive_read_free(tar);
    archive_write_free(disk);
    char rest[65536]; /* padding after the end; or all of it, when unpacking failed: then closing tells the writer */
    while (!t->problem.code && read(t->read_fd, rest, sizeof rest) > 0) continue;
    close_fd(&t->read_fd);
    return NULL;
}

static bool feed(void *arg, const char *bytes, size_t n) {
    struct tree_down *t = arg;
    while (n > 0) {
        ssize_t wrote = write(t->write_fd, bytes, n);
        if (wrote < 0 && errno == EINTR && !interrupted()) continue;
        if (wrote < 0) return false;
        bytes += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

static int fetch(struct client *c, const char *cell, const char *path, struct tree_down *t, struct err *e) {
    struct buf url = {0};
    path_cell(&url, cell, "/fs/tar");
    path_query(&url, "path", path);
    struct call call = {
        .method = "GET", .path = url.data, .accept = "application/x-tar, application/json", .write = feed, .arg = t};
    int result = client_call(c, &call, e);
    call_free(&call);
    buf_free(&url);
    return result;
}

int transfer_tree_down(struct client *c, const char *cell, const char *path, const char *directory, struct err *e) {
    int ends[2];
    pthread_t thread;
    if (mkdir(directory, 0755) < 0 && errno != EEXIST) return err_sys(e, errno, "cannot make %s", directory);
    /* libarchive's checks work below the current directory; this program does nothing else with relative names. */
    cleanup_close int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (here < 0 || chdir(directory) < 0) return err_sys(e, errno, "cannot enter %s", directory);
    if (pipe2(ends, O_CLOEXEC) < 0) return err_sys(e, errno, "pipe");
    struct tree_down t = {.read_fd = ends[0], .write_fd = ends[1], .directory = directory};
    if (pthread_create(&thread, NULL, unpack_thread, &t) != 0) return err_set(e, ERR_INTERNAL, "cannot start a thread");
    int result = fetch(c, cell, path, &t, e);
    close_fd(&t.write_fd);
    pthread_join(thread, NULL);
    if (fchdir(here) < 0 && result == 0) result = err_sys(e, errno, "cannot go back from %s", directory);
    /* When the request itself failed, a broken archive is only its echo. */
    if (t.problem.code && (result == 0 || strcmp(e->text, "broken off") == 0)) {
        *e = t.problem;
        result = -1;
    }
    if (t.left_out) fprintf(stderr, "cella: %u devices, sockets or pipes were left out\n", t.left_out);
    return result;
}
