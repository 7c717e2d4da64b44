#include "keeper/reopen.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>

#include "keeper/host.h"
#include "wire/context_proto.h"

void reopen_begin(struct reopen *o, const struct image *im, pid_t task, struct notes *notes) {
    *o = (struct reopen){.im = im, .task = task, .notes = notes};
    for (int fd = 0; fd <= 2; fd++) reopen_mark(o, fd, true);
    reopen_mark(o, CONTEXT_FD, true);
}

bool reopen_is_open(const struct reopen *o, int fd) { return fd >= 0 && fd < REOPEN_FDS && o->open[fd / 8] >> (fd % 8) & 1; }

void reopen_mark(struct reopen *o, int fd, bool open) {
    if (fd < 0 || fd >= REOPEN_FDS) return;
    uint8_t bit = (uint8_t)(1u << (fd % 8));
    o->open[fd / 8] = open ? o->open[fd / 8] | bit : o->open[fd / 8] & (uint8_t)~bit;
}

int reopen_lowest(const struct reopen *o, int skip) {
    for (int fd = 0; fd < REOPEN_FDS; fd++)
        if (!reopen_is_open(o, fd) && skip-- == 0) return fd;
    return REOPEN_FDS;
}

void reopen_start(struct reopen *o) {
    o->batch.n = 0;
    o->scratch_used = 0;
    for (size_t i = 0; i < STUB_CALLS_MAX; i++) o->expected[i] = -1;
}

void reopen_make(struct reopen *o, int fd, long nr, long a0, long a1, long a2, long a3) {
    o->expected[batch_add(&o->batch, nr, a0, a1, a2, a3, 0)] = fd;
}

uint64_t reopen_put(struct reopen *o, const void *data, size_t n) {
    const size_t at = o->scratch_used;
    if (n > sizeof o->scratch - at) n = sizeof o->scratch - at; /* callers stay below: a path, its arguments, a page of data */
    if (data) memcpy(o->scratch + at, data, n);
    else memset(o->scratch + at, 0, n);
    o->scratch_used = at + n + (-n & 7);
    return STUB_SCRATCH + at;
}

uint64_t reopen_room(struct reopen *o, size_t n) { return reopen_put(o, NULL, n); }

void reopen_open(struct reopen *o, int fd, const char *path, uint64_t flags, uint64_t mode) {
    struct open_how how = {.flags = (flags & ~(uint64_t)O_CLOEXEC) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, .mode = mode, .resolve = RESOLVE_NO_SYMLINKS};
    if (flags & O_PATH) how.flags = (flags & (O_PATH | O_DIRECTORY)) | O_CLOEXEC;
    const uint64_t name = reopen_put(o, path, strlen(path) + 1), arguments = reopen_put(o, &how, sizeof how);
    reopen_make(o, fd, SYS_openat2, AT_FDCWD, (long)name, (long)arguments, sizeof how);
}

int reopen_run(struct reopen *o, struct err *e) {
    struct batch *b = &o->batch;
    if (!b->n) return 0;
    if (o->scratch_used && task_write(o->task, STUB_SCRATCH, o->scratch, o->scratch_used, e)) return -1;
    if (inject_table(o->task, &o->im->thread[0].regs, b, NULL, e)) return -1;
    for (size_t i = 0; i < b->n; i++) {
        if (b->call[i].ret < 0 && !b->call[i].ignore) return 1;
        if (o->expected[i] >= 0 && b->call[i].ret != o->expected[i])
            return err_set(e, ERR_INTERNAL, "a descriptor of a copy got number %d instead of %d", (int)b->call[i].ret, o->expected[i]);
    }
    return 0;
}

bool reopen_same(const struct stat *st, uint64_t inode) {
    /* without snapshots a layer is copied file by file, and the numbers are others (layers.h) */
    return st->st_ino == inode || !(host.features & KEEPER_HAS_BTRFS);
}
