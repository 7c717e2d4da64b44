/* transfer.h: a directory into a cell. curl asks for bytes; each time the tar is written on by one piece. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/transfer.h"

struct tree_up {
    struct archive *disk, *tar;
    struct archive_entry *entry;
    const char *directory;
    struct buf ready; /* tar bytes not sent yet */
    size_t sent;
    int fd;       /* of the file being packed, or -1 */
    int64_t left; /* bytes of it still to come */
    bool done;
    struct err problem;
};

static la_ssize_t on_tar_bytes(struct archive *tar, void *arg, const void *bytes, size_t n) {
    (void)tar;
    struct tree_up *t = arg;
    buf_append(&t->ready, bytes, n);
    return (la_ssize_t)n;
}

static int tar_failed(struct tree_up *t) {
    return err_set(&t->problem, ERR_INTERNAL, "cannot pack %s: %s", t->directory, archive_error_string(t->tar));
}

/* Name inside the tar: below the directory, "." for itself; ownership is the cell's affair. */
static void relative_entry(struct tree_up *t) {
    const char *name = archive_entry_pathname(t->entry) + strlen(t->directory);
    while (*name == '/') name++;
    char *copy = strdup(*name ? name : ".");
    if (!copy) abort();
    archive_entry_copy_pathname(t->entry, copy);
    free(copy);
    archive_entry_set_uid(t->entry, 1000);
    archive_entry_set_gid(t->entry, 1000);
    archive_entry_copy_uname(t->entry, NULL);
    archive_entry_copy_gname(t->entry, NULL);
    archive_entry_sparse_clear(t->entry);
    archive_entry_xattr_clear(t->entry);
    archive_entry_acl_clear(t->entry);
}

static int next_entry(struct tree_up *t) {
    int result = archive_read_next_header2(t->disk, t->entry);
    if (result == ARCHIVE_EOF) {
        t->done = true;
        return archive_write_close(t->tar) == ARCHIVE_OK ? 0 : tar_failed(t);
    }
    if (result < ARCHIVE_WARN)
        return err_set(&t->problem, ERR_INTERNAL, "cannot read %s: %s", t->directory, archive_error_string(t->disk));
    (void)archive_read_disk_descend(t->disk);
    mode_t type = archive_entry_filetype(t->entry);
    if (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK) return 0; /* sockets, pipes, devices stay here */
    if (type == AE_IFREG) {
        const char *source = archive_entry_sourcepath(t->entry);
        t->fd = open(source, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (t->fd < 0) return err_sys(&t->problem, errno, "cannot open %s", source);
        t->left = archive_entry_size(t->entry);
    }
    relative_entry(t);
    return archive_write_header(t->tar, t->entry) >= ARCHIVE_WARN ? 0 : tar_failed(t);
}

static int next_piece(struct tree_up *t) {
    char piece[65536];
    ssize_t n = t->left > 0 ? read(t->fd, piece, t->left < (int64_t)sizeof piece ? (size_t)t->left : sizeof piece) : 0;
    if (n < 0) return errno == EINTR ? 0 : err_sys(&t->problem, errno, "cannot read a file of %s", t->directory);
    if (n == 0 && t->left > 0)
        return err_set(&t->problem, ERR_INTERNAL, "a file of %s became shorter while it was copied", t->directory);
    t->left -= n;
    if (n == 0) close_fd(&t->fd);
    return n == 0 || archive_write_data(t->tar, piece, (size_t)n) == n ? 0 : tar_failed(t);
}

static ssize_t read_tar(void *arg, char *to, size_t room) {
    struct tree_up *t = arg;
    while (t->ready.len == t->sent && !t->done) {
        buf_clear(&t->ready);
        t->sent = 0;
        if ((t->fd >= 0 ? next_piece(t) : next_entry(t)) < 0) return -1;
    }
    size_t n = t->ready.len - t->sent < room ? t->ready.len - t->sent : room;
    memcpy(to, t->ready.data + t->sent, n);
    t->sent += n;
    return (ssize_t)n;
}

static int open_tree(struct tree_up *t, struct err *e) {
    t->disk = archive_read_disk_new();
    t->tar = archive_write_new();
    t->entry = archive_entry_new();
    if (!t->disk || !t->tar || !t->entry) return err_set(e, ERR_INTERNAL, "out of memory");
    archive_read_disk_set_symlink_physical(t->disk);
    archive_read_disk_set_behavior(t->disk,
                                   ARCHIVE_READDISK_NO_XATTR | ARCHIVE_READDISK_NO_ACL | ARCHIVE_READDISK_NO_FFLAGS);
    archive_write_set_format_pax_restricted(t->tar);
    archive_write_set_bytes_per_block(t->tar, 0);
    if (archive_read_disk_open(t->disk, t->directory) != ARCHIVE_OK)
        return err_set(e, ERR_NOT_FOUND, "cannot read %s: %s", t->directory, archive_error_string(t->disk));
    return archive_write_open(t->tar, t, NULL, on_tar_bytes, NULL) == ARCHIVE_OK
               ? 0
               : err_set(e, ERR_INTERNAL, "cannot start a tar");
}

static int make_target(struct client *c, const char *cell, const char *path, struct err *e) {
    struct buf url = {0};
    struct json_object *body = json_object_new_object();
    path_cell(&url, cell, "/fs/mkdir");
    json_object_object_add(body, "path", json_object_new_string(path));
    json_object_object_add(body, "parents", json_object_new_boolean(true));
    int result = client_json(c, "POST", url.data, body, NULL, e);
    json_object_put(body);
    buf_free(&url);
    return result;
}

int transfer_tree_up(struct client *c, const char *directory, const char *cell, const char *path, struct err *e) {
    struct tree_up t = {.directory = directory, .fd = -1};
    int result = open_tree(&t, e);
    if (result == 0) result = make_target(c, cell, path, e);
    if (result == 0) {
        buf_str(&t.ready, "");
        struct buf url = {0};
        path_cell(&url, cell, "/fs/tar");
        path_query(&url, "path", path);
        struct call call = {.method = "PUT",
                            .path = url.data,
                            .read = read_tar,
                            .arg = &t,
                            .read_size = -1,
                            .read_type = "application/x-tar"};
        result = client_call(c, &call, e);
        if (t.problem.code) {
            *e = t.problem;
            result = -1;
        }
        call_free(&call);
        buf_free(&url);
    }
    close_fd(&t.fd);
    if (t.entry) archive_entry_free(t.entry);
    if (t.tar) archive_write_free(t.tar);
    if (t.disk) archive_read_free(t.disk);
    buf_free(&t.ready);
    return result;
}
