#include "keeper/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "keeper/shared.h"
#include "keeper/unix_peer.h"
#include "wire/context_proto.h"

#define KEPT_FLAGS (O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECT | O_SYNC | O_NOATIME | O_PATH | O_DIRECTORY | O_CLOEXEC)

/* One look at a context's table. */
struct look {
    struct image *im;
    pid_t leader;
    int pidfd;           /* opened when it is needed */
    uint64_t stream[3];  /* inodes: standard output, error; of the descriptor at CONTEXT_FD */
    uint32_t sockets;
};

static void remark(struct image *im, const struct image_file *f, enum keeper_note_kind kind, const char *text) {
    notes_add(&im->notes, kind, f->head.fd, 0, text);
}

static void lose(struct image_file *f, enum keeper_note_kind kind) {
    const int how = kind == KEEPER_NOTE_PIPE ? STATE_LOST_PIPE : kind == KEEPER_NOTE_SOCKET ? STATE_LOST_SOCKET : STATE_LOST_FILE;
    free(f->extra);
    *f = (struct image_file){.head = {.fd = f->head.fd, .kind = STATE_LOST, .flags = f->head.flags, .other = how}};
}

static void drop(struct image *im, struct image_file *f, enum keeper_note_kind kind, const char *text) {
    remark(im, f, kind, text);
    lose(f, kind);
}

/* ---- /proc/PID/fdinfo ---- */

static int keep_lock(struct look *l, int fd, const char *line);

static bool watch_line(struct image_file *f, const char *line) {
    struct state_watch w = {0};
    unsigned long long data;
    if (sscanf(line, "tfd: %d events: %x data: %llx", &w.fd, &w.events, &data) != 3) return true;
    w.data = data;
    const size_t n = f->head.path_bytes;
    if (n >= STATE_WATCHES_MAX * sizeof w) return false;
    if ((n & (n - 1)) == 0 || n < 16 * sizeof w) { /* grown by doubling */
        void *more = realloc(f->extra, n < 16 * sizeof w ? 16 * sizeof w : 2 * n);
        if (!more) return false;
        f->extra = more;
    }
    memcpy((char *)f->extra + n, &w, sizeof w);
    f->head.path_bytes += (uint32_t)sizeof w;
    return true;
}

static void timer_line(struct state_file *h, const char *line) {
    unsigned long long s, ns;
    int clock;
    if (sscanf(line, "clockid: %d", &clock) == 1) h->other = clock;
    if (sscanf(line, "ticks: %llu", &ns) == 1) h->mapping_bytes = ns;
    if (sscanf(line, "it_value: (%llu, %llu)", &s, &ns) == 2) h->offset = s * 1000000000 + ns;
    if (sscanf(line, "it_interval: (%llu, %llu)", &s, &ns) == 2) h->inode = s * 1000000000 + ns;
}

/* Offset, flags, and what else the kernel tells for the kind. */
static bool read_info(struct look *l, struct image_file *f) {
    char path[64], line[512];
    unsigned long long value;
    unsigned flags;
    bool whole = true;
    (void)snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", l->leader, f->head.fd);
    cleanup_file FILE *in = fopen(path, "re");
    if (!in) return false;
    while (whole && fgets(line, sizeof line, in)) {
        struct state_file *h = &f->head;
        if (h->kind == STATE_REGULAR && sscanf(line, "pos: %llu", &value) == 1) h->offset = value;
        if (sscanf(line, "flags: %o", &flags) == 1) h->flags = flags & KEPT_FLAGS;
        if (h->kind == STATE_REGULAR && !strncmp(line, "lock:", 5)) whole = !keep_lock(l, h->fd, line);
        if (h->kind == STATE_EVENTFD && sscanf(line, "eventfd-count: %llx", &value) == 1) h->offset = value;
        if (h->kind == STATE_EVENTFD && sscanf(line, "eventfd-semaphore: %llu", &value) == 1) h->other = value != 0;
        if (h->kind == STATE_TIMERFD) timer_line(h, line);
        if (h->kind == STATE_EPOLL) whole = watch_line(f, line);
    }
    return whole;
}

/* ---- one descriptor ---- */

static struct image_file *add(struct look *l, int fd, uint32_t kind) {
    struct image_file *f = image_add_file(l->im);
    if (f) f->head = (struct state_file){.fd = fd, .kind = kind, .other = -1};
    return f;
}

static int keep_lock(struct look *l, int fd, const char *line) {
    char what[8], mode[8], end[24];
    unsigned long long start;
    if (sscanf(line, "lock: %*d: %7s %*s %7s %*d %*x:%*x:%*u %llu %23s", what, mode, &start, end) != 4) return 0;
    struct image_file *f = add(l, fd, STATE_LOCK);
    if (!f) return -1;
    f->head.other = !strcmp(what, "POSIX") ? STATE_LOCK_POSIX : !strcmp(what, "OFDLCK") ? STATE_LOCK_OPEN_FILE : STATE_LOCK_FLOCK;
    f->head.flags = strcmp(mode, "READ") ? F_WRLCK : F_RDLCK;
    f->head.offset = start;
    if (end[0] != 'E') f->head.mapping_bytes = strtoull(end, NULL, 10) - start + 1;
    return 0;
}

/* A duplicate in the keeper's table, for questions that only a descriptor answers. It is never read or written. */
static int borrow(struct look *l, int fd) {
    if (l->pidfd < 0) l->pidfd = (int)syscall(SYS_pidfd_open, l->leader, 0);
    return l->pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, l->pidfd, fd, 0);
}

static bool keep_bytes(struct image_file *f, const void *bytes, ssize_t n) {
    if (n <= 0) return n == 0;
    if (!(f->extra = malloc((size_t)n))) return false;
    memcpy(f->extra, bytes, (size_t)n);
    f->head.path_bytes = (uint32_t)n;
    return true;
}

/* What waits in a pipe, looked at without taking it: tee(2) into one of our own. */
static bool peek_pipe(struct image_file *f, int fd) {
    static uint8_t bytes[STATE_WAITING_MAX];
    int waiting = 0, ours[2];
    if (ioctl(fd, FIONREAD, &waiting) || !waiting) return !waiting;
    if (waiting > (int)sizeof bytes || pipe2(ours, O_CLOEXEC | O_NONBLOCK)) return false;
    ssize_t n = tee(fd, ours[1], sizeof bytes, SPLICE_F_NONBLOCK);
    if (n > 0) n = read(ours[0], bytes, (size_t)n);
    close(ours[0]), close(ours[1]);
    return n == waiting && keep_bytes(f, bytes, n);
}

static bool peek_socket(struct image_file *f, int fd) {
    static uint8_t bytes[STATE_WAITING_MAX];
    int waiting = 0;
    if (ioctl(fd, FIONREAD, &waiting) || !waiting) return !waiting;
    if (f->head.offset != SOCK_STREAM || waiting > (int)sizeof bytes) return false;
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT); /* no room for descriptors in it: they stay where they are */
    return n == waiting && keep_bytes(f, bytes, n);
}

/* A local socket without a name, connected to another: perhaps one end of a pair. */
static bool pair_candidate(struct image_file *f, int fd) {
    struct sockaddr_storage a, b;
    socklen_t n = sizeof a, m = sizeof b, w = sizeof(int);
    int type;
    if (getsockname(fd, (struct sockaddr *)&a, &n) || getpeername(fd, (struct sockaddr *)&b, &m)) return false;
    if (a.ss_family != AF_UNIX || n != sizeof(sa_family_t) || m != sizeof(sa_family_t) || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &w)) return false;
    f->head.offset = (uint64_t)type;
    return true;
}

static void look_at_stream(struct look *l, struct image_file *f, const struct stat *st, const char *link) {
    bool pipe = S_ISFIFO(st->st_mode);
    const char *lost = "what waited in it is not there";
    f->head.kind = pipe ? STATE_PIPE : STATE_SOCKETPAIR;
    f->head.inode = st->st_ino;
    if (!read_info(l, f) || (pipe && link[0] == '/')) { /* a named one: whoever is at its other end */
        drop(l->im, f, pipe ? KEEPER_NOTE_PIPE : KEEPER_NOTE_SOCKET, link);
        return;
    }
    if (pipe && (f->head.flags & O_ACCMODE) == O_WRONLY) return;
    cleanup_close int fd = borrow(l, f->head.fd);
    if (pipe) {
        if (fd < 0 || !peek_pipe(f, fd)) remark(l->im, f, KEEPER_NOTE_PIPE, lost);
    } else if (fd >= 0 && pair_candidate(f, fd)) {
        if (!peek_socket(f, fd)) remark(l->im, f, KEEPER_NOTE_SOCKET, lost);
        l->sockets++;
    } else {
        drop(l->im, f, KEEPER_NOTE_SOCKET, link);
    }
}

static bool harmless(const struct stat *st) {
    unsigned minor_number = minor(st->st_rdev);
    return major(st->st_rdev) == 1 && (minor_number == 3 || minor_number == 5 || (minor_number >= 7 && minor_number <= 9)); /* null zero full random urandom */
}

/* A file, a directory, a device: by its path when it has one. */
static void look_at_file(struct look *l, struct image_file *f, const struct stat *st, const char *at, const char *link) {
    struct statfs fs;
    bool memory = !statfs(at, &fs) && fs.f_type == TMPFS_MAGIC;
    f->head.kind = STATE_REGULAR;
    f->head.inode = S_ISDIR(st->st_mode) ? 0 : st->st_ino; /* of a directory an overlay makes up a number at every mount */
    f->device = st->st_dev;
    if (!read_info(l, f) || !(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode) || (S_ISCHR(st->st_mode) && harmless(st)))) {
        drop(l->im, f, S_ISCHR(st->st_mode) ? KEEPER_NOTE_DEVICE : KEEPER_NOTE_FILE, link);
        return;
    }
    size_t n = strlen(link) + 1;
    if (S_ISREG(st->st_mode) && (memory || !st->st_nlink)) {
        f->head.kind = STATE_UNNAMED;
        f->head.mapping_bytes = (uint64_t)st->st_size;
        f->head.mapping_prot = st->st_mode & 0777;
        if (!memory) f->head.mapping_offset = 1; /* on the disk: until descriptors_copy() has a place for it */
        if (!st->st_nlink || strncmp(link, "/dev/shm/", 9)) return;
    }
    if ((f->extra = malloc(n))) {
        memcpy(f->extra, link, n);
        f->head.path_bytes = (uint32_t)n;
    } else {
        drop(l->im, f, KEEPER_NOTE_FILE, link);
    }
}

static void look_at_anonymous(struct look *l, struct image_file *f, const char *link) {
    static const struct {
        const char *link;
        uint32_t kind;
    } known[] = {{"anon_inode:[eventfd]", STATE_EVENTFD}, {"anon_inode:[timerfd]", STATE_TIMERFD}, {"anon_inode:[eventpoll]", STATE_EPOLL}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(link, known[i].link)) f->head.kind = known[i].kind;
    if (f->head.kind && read_info(l, f)) return;
    drop(l->im, f, KEEPER_NOTE_DEVICE, link);
}

static void look_at(struct look *l, int fd) {
    char at[64], link[STATE_PATH_MAX + 1];
    struct stat st;
    if (l->im->files == STATE_FILES_MAX) {
        notes_add(&l->im->notes, KEEPER_NOTE_FILE, fd, 0, "more descriptors than a copy can have");
        return;
    }
    (void)snprintf(at, sizeof at, "/proc/%d/fd/%d", l->leader, fd);
    if (stat(at, &st)) return;
    if (fd == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)) return; /* what every context starts with */
    if ((fd == 1 || fd == 2) && S_ISFIFO(st.st_mode) && st.st_ino == l->stream[fd - 1]) return;
    struct image_file *f = add(l, fd, 0);
    if (!f) {
        notes_add(&l->im->notes, KEEPER_NOTE_FILE, fd, 0, "no memory to remember it");
        return;
    }
    for (int i = 0; i < 3; i++)
        if ((S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) && l->stream[i] == st.st_ino) {
            f->head.kind = STATE_STREAM;
            f->head.other = i < 2 ? i + 1 : CONTEXT_FD;
            f->head.inode = 0;
            (void)read_info(l, f);
            return;
        }
    ssize_t n = readlink(at, link, sizeof link);
    if (n <= 0 || n >= STATE_PATH_MAX) {
        drop(l->im, f, KEEPER_NOTE_FILE, "its path is too long");
        return;
    }
    link[n] = 0;
    uint32_t index = l->im->files - 1; /* locks may be added behind it, and move the table */
    struct image_file one = *f;
    if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) look_at_stream(l, &one, &st, link);
    else if (link[0] == '/') look_at_file(l, &one, &st, at, link);
    else look_at_anonymous(l, &one, link);
    l->im->file[index] = one;
}

/* ---- pairs, and the same file twice ---- */

static struct image_file *find_end(struct image *im, const struct image_file *of, uint32_t kind, uint64_t inode) {
    for (uint32_t i = 0; i < im->files; i++) {
        struct image_file *f = &im->file[i];
        if (f == of || f->head.kind != kind || f->head.inode != inode || f->head.other >= 0) continue;
        if (kind == STATE_PIPE && (f->head.flags & O_ACCMODE) == (of->head.flags & O_ACCMODE)) continue;
        return f;
    }
    return NULL;
}

static void pair_up(struct image_file *a, struct image_file *b) {
    a->head.other = b->head.fd;
    b->head.other = a->head.fd;
}

static void pair_pipes(struct image *im) {
    for (uint32_t i = 0; i < im->files; i++) {
        struct image_file *f = &im->file[i];
        if (f->head.kind != STATE_PIPE || f->head.other >= 0) continue;
        struct image_file *end = (f->head.flags & O_ACCMODE) == O_RDWR ? NULL : find_end(im, f, STATE_PIPE, f->head.inode);
        if (end) pair_up(f, end);
        else drop(im, f, KEEPER_NOTE_PIPE, "pipe whose other end is elsewhere");
    }
}

/* peer[i]: inode of the other end of the i-th socket, 0 when nobody knows. */
static void pair_sockets(struct look *l) {
    struct image *im = l->im;
    int diag = l->sockets > 1 ? unix_peer_open(l->leader) : -1;
    for (uint32_t i = 0; i < im->files; i++) {
        struct image_file *f = &im->file[i];
        if (f->head.kind != STATE_SOCKETPAIR) continue;
        f->head.mapping_offset = diag < 0 ? 0 : unix_peer_inode(diag, (uint32_t)f->head.inode);
    }
    close_fd(&diag);
}

static void join_sockets(struct image *im) {
    for (uint32_t i = 0; i < im->files; i++) {
        struct image_file *f = &im->file[i];
        if (f->head.kind != STATE_SOCKETPAIR || f->head.other >= 0) continue;
        struct image_file *end = f->head.mapping_offset ? find_end(im, f, STATE_SOCKETPAIR, f->head.mapping_offset) : NULL;
        if (end && end->head.mapping_offset == f->head.inode) pair_up(f, end);
        else drop(im, f, KEEPER_NOTE_SOCKET, "local connection");
    }
    for (uint32_t i = 0; i < im->files; i++)
        if (im->file[i].head.kind == STATE_SOCKETPAIR) im->file[i].head.mapping_offset = 0;
}

static long same_file(pid_t pid, int a, int b) { return syscall(SYS_kcmp, pid, pid, KCMP_FILE, a, b); }

/* The kernel orders open files: sorted by that order, equal ones stand side by side. */
static int by_open_file(const void *a, const void *b, void *pid) {
    const struct image_file *const *x = a, *const *y = b;
    long order = same_file(*(pid_t *)pid, (*x)->head.fd, (*y)->head.fd);
    if (order) return order == 1 ? -1 : 1;
    return (*x)->head.fd < (*y)->head.fd ? -1 : 1;
}

static bool may_be_twice(uint32_t kind) { return kind && kind != STATE_DUP && kind != STATE_STREAM && kind != STATE_LOCK && kind != STATE_MAPPING && kind != STATE_LOST; }

static int find_dups(struct image *im, pid_t copy, struct err *e) {
    cleanup_free struct image_file **sorted = calloc(im->files, sizeof *sorted);
    size_t n = 0;
    if (!sorted) return err_sys(e, ENOMEM, "descriptors");
    for (uint32_t i = 0; i < im->files; i++)
        if (may_be_twice(im->file[i].head.kind)) sorted[n++] = &im->file[i];
    qsort_r(sorted, n, sizeof *sorted, by_open_file, &copy);
    for (size_t i = 1, first = 0; i < n; i++) {
        if (same_file(copy, sorted[first]->head.fd, sorted[i]->head.fd)) {
            first = i;
            continue;
        }
        struct state_file *h = &sorted[i]->head;
        *h = (struct state_file){.fd = h->fd, .kind = STATE_DUP, .flags = h->flags, .other = sorted[first]->head.fd};
        free(sorted[i]->extra);
        sorted[i]->extra = NULL;
    }
    return 0;
}

static const struct image_file *file_at(const struct image *im, int fd) {
    for (uint32_t i = 0; i < im->files; i++)
        if (im->file[i].head.fd == fd && im->file[i].head.kind != STATE_LOCK) return &im->file[i];
    return NULL;
}

static int by_number(const void *a, const void *b) {
    const struct state_file *x = &((const struct image_file *)a)->head, *y = &((const struct image_file *)b)->head;
    int p = (x->kind == STATE_LOCK) + 2 * (x->kind == STATE_MAPPING), q = (y->kind == STATE_LOCK) + 2 * (y->kind == STATE_MAPPING);
    return p != q ? p - q : x->fd < y->fd ? -1 : x->fd > y->fd;
}

/* Without what is not carried; in the order that the state has. */
static void settle_list(struct image *im) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < im->files; i++) {
        struct image_file *f = &im->file[i];
        const struct image_file *of = f->head.kind == STATE_DUP ? file_at(im, f->head.other) : f->head.kind == STATE_LOCK ? file_at(im, f->head.fd) : f;
        if (f->head.kind == STATE_LOCK && (!of || of->head.kind == STATE_LOST)) f->head.kind = 0;
        if (f->head.kind != STATE_DUP || (of && of->head.kind != STATE_LOST)) continue;
        remark(im, f, KEEPER_NOTE_FILE, "the same as another that is not carried");
        lose(f, of && of->head.other == STATE_LOST_SOCKET ? KEEPER_NOTE_SOCKET : of && of->head.other == STATE_LOST_PIPE ? KEEPER_NOTE_PIPE : KEEPER_NOTE_FILE);
    }
    for (uint32_t i = 0; i < im->files; i++) {
        if (im->file[i].head.kind) im->file[kept++] = im->file[i];
        else free(im->file[i].extra);
    }
    im->files = kept;
    if (kept) qsort(im->file, kept, sizeof *im->file, by_number);
}

/* ---- the three steps ---- */

int descriptors_note(struct image *im, pid_t leader, const int streams[2], struct err *e) {
    struct look l = {.im = im, .leader = leader, .pidfd = -1};
    struct stat st;
    char path[64];
    for (int i = 0; i < 2; i++)
        if (streams[i] >= 0 && !fstat(streams[i], &st)) l.stream[i] = st.st_ino;
    (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", leader, CONTEXT_FD);
    if (!stat(path, &st) && S_ISSOCK(st.st_mode)) l.stream[2] = st.st_ino;
    (void)snprintf(path, sizeof path, "/proc/%d/fd", leader);
    cleanup_dir DIR *d = opendir(path);
    if (!d) return err_sys(e, errno, "descriptors of task %d", leader);
    for (struct dirent *t; (t = readdir(d));)
        if (t->d_name[0] != '.' && atoi(t->d_name) != CONTEXT_FD) look_at(&l, atoi(t->d_name));
    if (l.sockets) pair_sockets(&l);
    close_fd(&l.pidfd);
    return 0;
}

/* One that was met before, when it was the same open file: its contents are not taken twice. */
static bool met_before(struct image *im, uint32_t i, pid_t leader, struct copy_budget *left) {
    struct state_file *h = &im->file[i].head;
    for (uint32_t k = 0; k < i; k++) {
        const struct state_file *o = &im->file[k].head;
        if (o->kind != STATE_UNNAMED || o->inode != h->inode || left->compared-- <= 0 || same_file(leader, o->fd, h->fd)) continue;
        *h = (struct state_file){.fd = h->fd, .kind = STATE_DUP, .flags = h->flags, .other = o->fd};
        free(im->file[i].extra);
        im->file[i].extra = NULL;
        return true;
    }
    return false;
}

/* The copy's own descriptor, in the keeper's table; -1: another process of the cell, which has the same table, has put something else there since. A terminal
 * would become the keeper's own without O_NOCTTY. */
static int open_unnamed(const struct image_file *f, pid_t copy, struct stat *st) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", copy, f->head.fd);
    if (stat(path, st) || !S_ISREG(st->st_mode) || st->st_ino != f->head.inode || st->st_dev != f->device) return -1;
    return open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

int descriptors_copy(struct image *im, pid_t leader, pid_t copy, struct copy_budget *left, struct err *e) {
    for (uint32_t i = 0; i < im->files; i++) {
        struct image_file *f = &im->file[i];
        if (f->head.kind != STATE_UNNAMED || met_before(im, i, leader, left)) continue;
        struct stat st;
        const uint64_t bytes = f->head.mapping_bytes;
        const bool small = !f->head.mapping_offset || bytes <= UNNAMED_DISK_MAX;
        f->head.mapping_offset = 0;
        cleanup_close int fd = small && left->files > 0 ? open_unnamed(f, copy, &st) : -1;
        const uint64_t filled = fd < 0 ? 0 : (uint64_t)st.st_blocks * 512; /* holes cost nothing */
        if (fd < 0 || filled > left->bytes) {
            drop(im, f, KEEPER_NOTE_FILE, !small || filled > left->bytes ? "a deleted file that is too large" : left->files > 0 ? "a deleted file" : "one of too many deleted files");
            continue;
        }
        left->files--;
        left->bytes -= filled;
        if (bytes && shared_take(im, copy, fd, 0, bytes, 0, &f->head.mapping_offset, e)) return -1;
    }
    return 0;
}

int descriptors_join(struct image *im, pid_t copy, struct err *e) {
    const long all[6] = {3, (long)~0u};
    long result;
    if (!im->files) return 0;
    if (find_dups(im, copy, e)) return -1;
    pair_pipes(im);
    join_sockets(im);
    settle_list(im);
    return inject_single(copy, &im->thread[0].regs, SYS_close_range, all, &result, NULL, e);
}
