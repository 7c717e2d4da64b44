#include "keeper/layer_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"

/* The cell stands still meanwhile, and so does every other request: seconds, not minutes. */
#define COPY_SECONDS 20
#define COPY_FILES 200000u
#define COPY_BYTES (4ull << 30)
#define COPY_DEPTH 200 /* directories; each keeps two descriptors open */
#define LINKS_MAX 65536u

struct link { /* a file with several names: where its first copy lies */
    ino_t inode;
    char *path;
};
static struct {
    unsigned files;
    uint64_t bytes;
    int root; /* of the copy */
    struct link *link;
    unsigned links;
    char path[8192]; /* of the entry at hand, below root */
} job;

static int attributes(int from, int to, struct err *e) {
    char names[4096], value[65536];
    ssize_t n = flistxattr(from, names, sizeof names);
    if (n < 0) return errno == ENOTSUP ? 0 : err_sys(e, errno, "list attributes of %s", job.path);
    for (char *name = names; name < names + n; name += strlen(name) + 1) {
        if (strncmp(name, "user.", 5) != 0 && strncmp(name, "system.posix_acl_", 17) != 0) continue;
        ssize_t size = fgetxattr(from, name, value, sizeof value);
        if (size < 0 || fsetxattr(to, name, value, (size_t)size, 0)) return err_sys(e, errno, "attribute of %s", job.path);
    }
    return 0;
}

static int contents(int from, int to, off_t size, struct err *e) {
    if (!ioctl(to, FICLONE, from)) return 0;
    if (ftruncate(to, size)) return err_sys(e, errno, "size %s", job.path);
    for (off_t at = 0; at < size;) {
        off_t start = lseek(from, at, SEEK_DATA);
        if (start < 0) return errno == ENXIO ? 0 : err_sys(e, errno, "read %s", job.path); /* a hole up to the end */
        off_t end = lseek(from, start, SEEK_HOLE), into = start;
        if (end < 0) return err_sys(e, errno, "read %s", job.path);
        if ((job.bytes += (uint64_t)(end - start)) > COPY_BYTES) return err_set(e, ERR_TOO_LARGE, "the cell's files are too large to be copied");
        for (at = start; at < end;) {
            ssize_t done = copy_file_range(from, &at, to, &into, (size_t)(end - at), 0);
            if (done < 0) return err_sys(e, errno, "copy %s", job.path);
            if (!done) break; /* it was cut while it was read: cannot be, the cell stands still */
        }
        at = end;
    }
    return 0;
}

/* True when this file has been copied under another name, and is linked to that now. */
static int linked(int to, const char *name, const struct stat *st, bool *done, struct err *e) {
    *done = false;
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2) return 0;
    for (unsigned i = 0; i < job.links; i++) {
        if (job.link[i].inode != st->st_ino) continue;
        *done = true;
        return linkat(job.root, job.link[i].path, to, name, 0) ? err_sys(e, errno, "link %s", job.path) : 0;
    }
    if (job.links == LINKS_MAX) return err_set(e, ERR_TOO_LARGE, "the cell has too many linked files to be copied");
    if (!job.link && !(job.link = calloc(LINKS_MAX, sizeof *job.link))) return err_sys(e, ENOMEM, "copy");
    job.link[job.links] = (struct link){.inode = st->st_ino, .path = strdup(job.path)};
    return job.link[job.links++].path ? 0 : err_sys(e, ENOMEM, "copy");
}

static int copy_directory(int from, int to, int depth, struct err *e);

static int finish(int to, const char *name, int fd, const struct stat *st, struct err *e) {
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    int rc = fd >= 0 ? fchown(fd, st->st_uid, st->st_gid) : fchownat(to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW);
    if (!rc && !S_ISLNK(st->st_mode)) rc = fd >= 0 ? fchmod(fd, st->st_mode & 07777) : fchmodat(to, name, st->st_mode & 07777, 0);
    if (!rc) rc = fd >= 0 ? futimens(fd, times) : utimensat(to, name, times, AT_SYMLINK_NOFOLLOW);
    return rc ? err_sys(e, errno, "owner, mode and times of %s", job.path) : 0;
}

static int copy_link(int from, int to, const char *name, struct err *e) {
    char target[4096];
    ssize_t n = readlinkat(from, name, target, sizeof target - 1);
    if (n < 0) return err_sys(e, errno, "read link %s", job.path);
    target[n] = 0;
    return symlinkat(target, to, name) ? err_sys(e, errno, "make link %s", job.path) : 0;
}

static int copy_entry(int from, int to, const char *name, int depth, struct err *e) {
    struct stat st;
    bool done;
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW)) return err_sys(e, errno, "stat %s", job.path);
    if (++job.files > COPY_FILES) return err_set(e, ERR_TOO_LARGE, "the cell has too many files to be copied");
    if (S_ISSOCK(st.st_mode)) return 0;
    if (linked(to, name, &st, &done, e)) return -1;
    if (done) return 0;
    if (S_ISLNK(st.st_mode)) return copy_link(from, to, name, e) ? -1 : finish(to, name, -1, &st, e);
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
        if (S_ISCHR(st.st_mode) && st.st_rdev) return err_set(e, ERR_INTERNAL, "%s is a device", job.path);
        if (mknodat(to, name, st.st_mode & (S_IFMT | 07777), 0)) return err_sys(e, errno, "make %s", job.path);
        return finish(to, name, -1, &st, e);
    }
    const bool directory = S_ISDIR(st.st_mode);
    if (!directory && !S_ISREG(st.st_mode)) return err_set(e, ERR_INTERNAL, "%s is of an unknown kind", job.path);
    if (directory && mkdirat(to, name, 0700)) return err_sys(e, errno, "make %s", job.path);
    cleanup_close int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (directory ? O_DIRECTORY : 0));
    cleanup_close int out = openat(to, name, O_NOFOLLOW | O_CLOEXEC | (directory ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_EXCL), 0600);
    if (in < 0 || out < 0) return err_sys(e, errno, "open %s", job.path);
    if (directory ? copy_directory(in, out, depth + 1, e) : contents(in, out, st.st_size, e)) return -1;
    return attributes(in, out, e) ? -1 : finish(to, name, out, &st, e);
}

static int copy_directory(int from, int to, int depth, struct err *e) {
    const size_t length = strlen(job.path);
    if (depth > COPY_DEPTH) return err_set(e, ERR_TOO_LARGE, "the cell's directories are too deep to be copied");
    int own = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_dir DIR *d = own < 0 ? NULL : fdopendir(own);
    if (!d) return err_sys(e, errno, "read %s", job.path);
    for (struct dirent *c; errno = 0, (c = readdir(d));) {
        const size_t n = strlen(c->d_name);
        if (!strcmp(c->d_name, ".") || !strcmp(c->d_name, "..")) continue;
        if (length + n + 2 > sizeof job.path) return err_set(e, ERR_TOO_LARGE, "the cell's directories are too deep to be copied");
        if (length) job.path[length] = '/';
        memcpy(job.path + length + (length ? 1 : 0), c->d_name, n + 1);
        int rc = copy_entry(from, to, c->d_name, depth, e);
        if (rc) return -1;
        job.path[length] = 0;
    }
    return errno ? err_sys(e, errno, "read %s", job.path) : 0;
}

static void child_main(int from, int to, int out) {
    struct err e = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    umask(0);
    signal(SIGALRM, SIG_DFL);
    alarm(COPY_SECONDS);
    job.root = to;
    if (copy_directory(from, to, 0, &e)) {
        const bool large = e.code && !strcmp(e.code, ERR_TOO_LARGE);
        e.code = e.hint = NULL; /* addresses, but of the same program: told by the exit code all the same */
        (void)!write(out, &e, sizeof e);
        _exit(large ? 2 : 1);
    }
    _exit(0);
}

int layer_copy(int from, int to, struct err *e) {
    int ends[2], status;
    if (pipe2(ends, O_CLOEXEC)) return err_sys(e, errno, "pipe");
    cleanup_close int mine = ends[0], theirs = ends[1];
    pid_t pid = fork();
    if (!pid) child_main(from, to, theirs);
    if (pid < 0) return err_sys(e, errno, "fork");
    close_fd(&theirs);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return err_sys(e, errno, "wait for the copy of a layer");
    if (!status) return 0;
    if (WIFSIGNALED(status)) return err_set(e, ERR_TOO_LARGE, "the cell's files take longer than %d seconds to be copied", COPY_SECONDS);
    struct err said;
    if (read(mine, &said, sizeof said) != sizeof said) return err_set(e, ERR_INTERNAL, "copying a layer failed");
    *e = said;
    e->hint = NULL;
    e->code = WEXITSTATUS(status) == 2 ? ERR_TOO_LARGE : err_code_of_errno(said.sys_errno);
    return -1;
}
