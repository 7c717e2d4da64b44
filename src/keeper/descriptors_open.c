#include "keeper/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "keeper/reopen.h"
#include "keeper/shared.h"

#define SETTABLE (O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME) /* what F_SETFL takes */
#define CHUNK 4096u

/* Append: the descriptor made as `from` goes to number `to`. */
static void move(struct reopen *o, int from, int to, uint32_t flags) {
    const long cloexec = flags & O_CLOEXEC;
    if (from == to) {
        (void)batch_add(&o->batch, SYS_fcntl, to, F_SETFD, cloexec ? FD_CLOEXEC : 0, 0, 0);
        return;
    }
    (void)batch_add(&o->batch, SYS_dup3, from, to, cloexec, 0, 0);
}

static void set_flags(struct reopen *o, int fd, uint32_t flags) {
    if (!(flags & O_PATH)) (void)batch_add(&o->batch, SYS_fcntl, fd, F_SETFL, (long)(flags & SETTABLE), 0, 0);
}

static void note(struct reopen *o, const struct image_file *f, enum keeper_note_kind kind, const char *text) {
    notes_add(o->notes, kind, f->head.fd, 0, text);
}

/* The table failed or made what it should not have: take back what may be open. */
static int undo(struct reopen *o, const int *fd, int n, struct err *e) {
    reopen_start(o);
    for (int i = 0; i < n; i++) batch_try(&o->batch, SYS_close, fd[i], 0, 0, 0, 0);
    return reopen_run(o, e) < 0 ? -1 : 1;
}

/* Run the table that makes one descriptor at `from` and moves it. 0 made, 1 not, -1 dead. */
static int finish(struct reopen *o, const struct image_file *f, int from, struct err *e) {
    move(o, from, f->head.fd, f->head.flags);
    if (from != f->head.fd) (void)batch_add(&o->batch, SYS_close, from, 0, 0, 0, 0);
    int failed = reopen_run(o, e);
    if (failed < 0) return -1;
    if (failed) return undo(o, &from, 1, e);
    reopen_mark(o, f->head.fd, true);
    return 0;
}

/* The number is taken by what answers as a lost file, pipe end or connection does. */
static int open_lost(struct reopen *o, int fd, int how, uint32_t flags, struct err *e) {
    const struct image_file f = {.head = {.fd = fd, .flags = flags}};
    const int p = reopen_lowest(o, 0), q = reopen_lowest(o, 1), both[2] = {p, q};
    const bool write_end = how == STATE_LOST_PIPE && (flags & O_ACCMODE) == O_WRONLY;
    reopen_start(o);
    if (how == STATE_LOST_FILE) {
        reopen_open(o, p, "/", O_PATH | O_DIRECTORY, 0);
    } else {
        const uint64_t numbers = reopen_room(o, 8);
        if (how == STATE_LOST_PIPE) (void)batch_add(&o->batch, SYS_pipe2, (long)numbers, 0, 0, 0, 0);
        else (void)batch_add(&o->batch, SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, (long)numbers, 0);
        set_flags(o, write_end ? q : p, flags);
        (void)batch_add(&o->batch, SYS_close, write_end ? p : q, 0, 0, 0, 0);
    }
    int rc = finish(o, &f, write_end ? q : p, e);
    return rc > 0 ? undo(o, both, 2, e) : rc;
}

static bool kind_fits(const struct stat *st, const struct state_file *h) {
    if (S_ISDIR(st->st_mode)) return !h->inode;
    if (S_ISREG(st->st_mode)) return h->inode && !(h->flags & O_DIRECTORY) && reopen_same(st, h->inode);
    return S_ISCHR(st->st_mode) && major(st->st_rdev) == 1 && st->st_ino == h->inode; /* one directory of device nodes for all cells (host.h) */
}

static int open_file(struct reopen *o, const struct image_file *f, struct err *e) {
    const struct state_file *h = &f->head;
    const int from = reopen_lowest(o, 0);
    struct stat st;
    reopen_start(o);
    reopen_open(o, from, f->extra, h->flags, 0);
    const uint64_t told = reopen_room(o, sizeof st);
    (void)batch_add(&o->batch, SYS_fstat, from, (long)told, 0, 0, 0);
    if (!(h->flags & O_PATH)) batch_try(&o->batch, SYS_lseek, from, (long)h->offset, SEEK_SET, 0, 0);
    set_flags(o, from, h->flags);
    int rc = finish(o, f, from, e);
    if (!rc) {
        if (task_read(o->task, told, &st, sizeof st, e)) return -1;
        if (kind_fits(&st, h)) return 0;
        reopen_mark(o, h->fd, false);
        rc = undo(o, &h->fd, 1, e);
    }
    if (rc > 0) {
        note(o, f, KEEPER_NOTE_FILE, f->extra);
        rc = open_lost(o, h->fd, STATE_LOST_FILE, h->flags, e);
    }
    return rc < 0 ? -1 : 0;
}

/* Contents lie in pages of the context; a name in /dev/shm is used when it is free, else another context of the cell has made the file. */
static int open_unnamed(struct reopen *o, const struct image_file *f, struct err *e) {
    const struct state_file *h = &f->head;
    const int from = reopen_lowest(o, 0);
    const char name[16] = "unnamed";
    int made = 1;
    for (int attempt = f->head.path_bytes ? 0 : 2; attempt < 3 && made == 1; attempt++) {
        reopen_start(o);
        if (attempt == 0) reopen_open(o, from, f->extra, O_RDWR | O_CREAT | O_EXCL, h->mapping_prot & 0777);
        if (attempt == 1) reopen_open(o, from, f->extra, O_RDWR, 0);
        if (attempt == 2) reopen_make(o, from, SYS_memfd_create, (long)reopen_put(o, name, sizeof name), MFD_CLOEXEC, 0, 0);
        if (attempt != 1) (void)batch_add(&o->batch, SYS_ftruncate, from, (long)h->mapping_bytes, 0, 0, 0);
        made = reopen_run(o, e);
        if (!made && attempt != 1 && h->mapping_bytes) made = shared_fill(o, from, h->mapping_offset, h->mapping_bytes, false, e);
        if (made > 0) made = undo(o, &from, 1, e);
        if (made) continue;
        reopen_start(o);
        batch_try(&o->batch, SYS_lseek, from, (long)h->offset, SEEK_SET, 0, 0);
        set_flags(o, from, h->flags);
        made = finish(o, f, from, e);
    }
    if (made < 0) return -1;
    if (made) note(o, f, KEEPER_NOTE_FILE, "a file without a name");
    if (made && open_lost(o, h->fd, STATE_LOST_FILE, h->flags, e) < 0) return -1;
    if (!h->mapping_bytes) return 0;
    reopen_start(o);
    (void)batch_add(&o->batch, SYS_munmap, (long)h->mapping_offset, (long)((h->mapping_bytes + CHUNK - 1) & ~(uint64_t)(CHUNK - 1)), 0, 0, 0);
    return reopen_run(o, e) < 0 ? -1 : 0;
}

static int open_eventfd(struct reopen *o, const struct image_file *f, struct err *e) {
    const int from = reopen_lowest(o, 0);
    reopen_start(o);
    reopen_make(o, from, SYS_eventfd2, 0, EFD_NONBLOCK | (f->head.other == 1 ? EFD_SEMAPHORE : 0), 0, 0);
    if (f->head.offset) (void)batch_add(&o->batch, SYS_write, from, (long)reopen_put(o, &f->head.offset, 8), 8, 0, 0);
    set_flags(o, from, f->head.flags);
    return finish(o, f, from, e);
}

static int open_timerfd(struct reopen *o, const struct image_file *f, struct err *e) {
    const int from = reopen_lowest(o, 0);
    const struct state_file *h = &f->head;
    const uint64_t second = 1000000000, left = h->offset || !h->mapping_bytes ? h->offset : 1; /* it has fired and nobody has read it: at once */
    struct itimerspec t = {.it_value = {(time_t)(left / second), (long)(left % second)}, .it_interval = {(time_t)(h->inode / second), (long)(h->inode % second)}};
    reopen_start(o);
    reopen_make(o, from, SYS_timerfd_create, h->other, TFD_NONBLOCK, 0, 0);
    (void)batch_add(&o->batch, SYS_timerfd_settime, from, 0, (long)reopen_put(o, &t, sizeof t), 0, 0);
    set_flags(o, from, h->flags);
    return finish(o, f, from, e);
}

static int open_epoll(struct reopen *o, const struct image_file *f, struct err *e) {
    const int from = reopen_lowest(o, 0);
    reopen_start(o);
    reopen_make(o, from, SYS_epoll_create1, 0, 0, 0, 0);
    return finish(o, f, from, e);
}

/* Write what waited into `into` before its flags are set: it does not block, because both ends were made so. */
static int refill(struct reopen *o, const struct image_file *reader, int into, enum keeper_note_kind kind, struct err *e) {
    for (uint32_t done = 0; done < reader->head.path_bytes;) {
        const uint32_t n = reader->head.path_bytes - done < CHUNK ? reader->head.path_bytes - done : CHUNK;
        reopen_start(o);
        size_t call = batch_add(&o->batch, SYS_write, into, (long)reopen_put(o, (const char *)reader->extra + done, n), n, 0, 0);
        int failed = reopen_run(o, e);
        if (failed < 0) return -1;
        if (failed || o->batch.call[call].ret != n) {
            note(o, reader, kind, "what waited in it is not there");
            return 0;
        }
        done += n;
    }
    return 0;
}

/* Both ends at once, when the lower number's turn comes. a gets what the kernel made first: the end that reads. */
static int open_pair(struct reopen *o, const struct image_file *a, const struct image_file *b, struct err *e) {
    const int p = reopen_lowest(o, 0), q = reopen_lowest(o, 1), both[2] = {p, q};
    const bool pipe = a->head.kind == STATE_PIPE;
    const enum keeper_note_kind kind = pipe ? KEEPER_NOTE_PIPE : KEEPER_NOTE_SOCKET;
    reopen_start(o);
    const uint64_t numbers = reopen_room(o, 8);
    if (pipe) (void)batch_add(&o->batch, SYS_pipe2, (long)numbers, O_NONBLOCK, 0, 0, 0);
    else (void)batch_add(&o->batch, SYS_socketpair, AF_UNIX, (long)a->head.offset | SOCK_NONBLOCK, 0, (long)numbers, 0);
    int failed = reopen_run(o, e);
    if (!failed && (refill(o, a, q, kind, e) || (!pipe && refill(o, b, p, kind, e)))) return -1;
    if (!failed) {
        reopen_start(o);
        set_flags(o, p, a->head.flags);
        set_flags(o, q, b->head.flags);
        /* the one whose place the other takes goes first */
        if (a->head.fd != q) move(o, p, a->head.fd, a->head.flags);
        move(o, q, b->head.fd, b->head.flags);
        if (a->head.fd == q) move(o, p, a->head.fd, a->head.flags);
        for (int i = 0; i < 2; i++)
            if (both[i] != a->head.fd && both[i] != b->head.fd) (void)batch_add(&o->batch, SYS_close, both[i], 0, 0, 0, 0);
        failed = reopen_run(o, e);
    }
    if (failed < 0) return -1;
    if (failed) {
        note(o, a, kind, "could not be made again");
        return undo(o, both, 2, e) < 0 ? -1 : 0;
    }
    reopen_mark(o, a->head.fd, true);
    reopen_mark(o, b->head.fd, true);
    return 0;
}

static const struct image_file *other_end(const struct image *im, const struct image_file *f) {
    for (uint32_t i = 0; i < im->files; i++) {
        const struct state_file *h = &im->file[i].head;
        if (h->fd == f->head.other && h->kind == f->head.kind && h->other == f->head.fd) return &im->file[i];
    }
    return NULL;
}

static int open_end(struct reopen *o, const struct image_file *f, struct err *e) {
    const struct image_file *b = other_end(o->im, f);
    if (!b) return 1;
    if (b->head.fd < f->head.fd) return 0; /* done with the lower one */
    bool first = f->head.kind != STATE_PIPE || (f->head.flags & O_ACCMODE) == O_RDONLY;
    return first ? open_pair(o, f, b, e) : open_pair(o, b, f, e);
}

static int duplicate(struct reopen *o, const struct image_file *f, struct err *e) {
    if (!reopen_is_open(o, f->head.other)) return 1;
    reopen_start(o);
    (void)batch_add(&o->batch, SYS_dup3, f->head.other, f->head.fd, (long)(f->head.flags & O_CLOEXEC), 0, 0);
    int failed = reopen_run(o, e);
    if (!failed) reopen_mark(o, f->head.fd, true);
    return failed;
}

static int open_one(struct reopen *o, const struct image_file *f, struct err *e) {
    switch ((enum state_file_kind)f->head.kind) {
    case STATE_REGULAR: return open_file(o, f, e);
    case STATE_UNNAMED: return open_unnamed(o, f, e);
    case STATE_EVENTFD: return open_eventfd(o, f, e);
    case STATE_TIMERFD: return open_timerfd(o, f, e);
    case STATE_EPOLL: return open_epoll(o, f, e);
    case STATE_PIPE:
    case STATE_SOCKETPAIR: return open_end(o, f, e);
    case STATE_DUP: return duplicate(o, f, e);
    case STATE_LOST: return open_lost(o, f->head.fd, f->head.other, f->head.flags, e);
    default: return 0;
    }
}

static int watch_all(struct reopen *o, const struct image_file *f, struct err *e) {
    reopen_start(o);
    for (uint32_t at = 0; reopen_is_open(o, f->head.fd) && at + sizeof(struct state_watch) <= f->head.path_bytes; at += (uint32_t)sizeof(struct state_watch)) {
        struct state_watch w;
        memcpy(&w, (const char *)f->extra + at, sizeof w);
        struct epoll_event event = {.events = w.events, .data.u64 = w.data};
        if (!reopen_is_open(o, w.fd)) continue; /* it has a note of its own */
        batch_try(&o->batch, SYS_epoll_ctl, f->head.fd, EPOLL_CTL_ADD, w.fd, (long)reopen_put(o, &event, sizeof event), 0);
        if (o->batch.n < STUB_CALLS_MAX - 1) continue;
        if (reopen_run(o, e) < 0) return -1;
        reopen_start(o);
    }
    return reopen_run(o, e) < 0 ? -1 : 0;
}

static int lock(struct reopen *o, const struct image_file *f, struct err *e) {
    const struct state_file *h = &f->head;
    struct flock l = {.l_type = (short)h->flags, .l_whence = SEEK_SET, .l_start = (off_t)h->offset, .l_len = (off_t)h->mapping_bytes};
    if (!reopen_is_open(o, h->fd)) return 0;
    reopen_start(o);
    if (h->other == STATE_LOCK_FLOCK) (void)batch_add(&o->batch, SYS_flock, h->fd, (h->flags == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB, 0, 0, 0);
    else (void)batch_add(&o->batch, SYS_fcntl, h->fd, h->other == STATE_LOCK_POSIX ? F_SETLK : F_OFD_SETLK, (long)reopen_put(o, &l, sizeof l), 0, 0);
    int failed = reopen_run(o, e);
    if (failed > 0) note(o, f, KEEPER_NOTE_FILE, "its lock is not held");
    return failed < 0 ? -1 : 0;
}

/* The table grows once, to the highest number, instead of by doubling: each time waits for a grace period (wire/context_proto.h). */
static int grow(struct reopen *o, struct err *e) {
    int highest = 0;
    for (uint32_t i = 0; i < o->im->files; i++)
        if (o->im->file[i].head.fd > highest) highest = o->im->file[i].head.fd;
    if (highest < 64) return 0;
    reopen_start(o);
    batch_try(&o->batch, SYS_dup3, 0, highest, O_CLOEXEC, 0, 0);
    batch_try(&o->batch, SYS_close, highest, 0, 0, 0, 0);
    return reopen_run(o, e) < 0 ? -1 : 0;
}

int descriptors_open(struct reopen *o, struct err *e) {
    const struct image *im = o->im;
    if (grow(o, e)) return -1;
    for (uint32_t i = 0; i < im->files; i++) /* what is a stream, before a file takes the stream's number */
        if (im->file[i].head.kind == STATE_STREAM && duplicate(o, &im->file[i], e) < 0) return -1;
    for (uint32_t i = 0; i < im->files; i++) {
        const struct state_file *h = &im->file[i].head;
        int failed = open_one(o, &im->file[i], e);
        if (failed < 0) return -1;
        if (!failed) continue;
        note(o, &im->file[i], h->kind == STATE_PIPE ? KEEPER_NOTE_PIPE : KEEPER_NOTE_FILE, "could not be made again");
        if (h->kind != STATE_LOST && open_lost(o, h->fd, STATE_LOST_FILE, h->flags, e) < 0) return -1;
    }
    for (uint32_t i = 0; i < im->files; i++) {
        const struct image_file *f = &im->file[i];
        if (f->head.kind == STATE_EPOLL && watch_all(o, f, e)) return -1;
        if (f->head.kind == STATE_LOCK && lock(o, f, e)) return -1;
    }
    return 0;
}
