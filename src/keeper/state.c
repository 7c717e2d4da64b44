#include "keeper/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "wire/context_proto.h"

_Static_assert(sizeof(arch_regs) == sizeof((struct state_thread){0}.regs), "registers as the kernel lays them out");
_Static_assert(IMAGE_LIMITS >= RLIM_NLIMITS, "room for every limit");
_Static_assert(sizeof(struct state_head) % 8 == 0 && sizeof(struct state_thread) % 8 == 0 && sizeof(struct state_file) % 8 == 0, "records stay aligned");

#define FD_MAX 65536            /* more open files no cell has (cell.c) */
#define USER_MAX 0x7ffffffff000ull /* end of user memory */
#define TID_MAX 4194304         /* PID_MAX_LIMIT */

static size_t padded(size_t n) { return (n + 7) & ~(size_t)7; }

/* ---- out ---- */

static struct state_thread thread_out(const struct image_thread *t) {
    struct state_thread s = {.tid = t->tid, .xstate_bytes = (uint32_t)t->xstate_len, .signal_mask = t->signal_mask,
                             .rseq_address = t->rseq.rseq_abi_pointer, .rseq_signature = t->rseq.signature, .rseq_bytes = t->rseq.rseq_abi_size,
                             .rseq_flags = t->rseq.flags, .robust_list = t->robust_list, .robust_bytes = t->robust_len, .clear_tid = t->clear_tid,
                             .altstack_address = (uint64_t)t->altstack.ss_sp, .altstack_bytes = t->altstack.ss_size, .altstack_flags = t->altstack.ss_flags};
    memcpy(s.regs, &t->regs, sizeof s.regs);
    memcpy(s.name, t->name, sizeof s.name);
    memcpy(s.xstate, t->xstate, t->xstate_len);
    return s;
}

static struct state_head head_out(const struct image *im, size_t bytes) {
    struct state_head h = {.magic = STATE_MAGIC, .version = STATE_VERSION, .bytes = (uint32_t)bytes, .threads = (uint32_t)im->threads, .files = im->files,
                           .actions = im->actions, .umask = im->umask, .stub = STUB_CODE, .timer_us = im->timer_us, .timer_interval_us = im->timer_interval_us};
    _Static_assert(sizeof h.cwd == sizeof im->cwd && sizeof h.limit == sizeof im->limit, "copied as they are");
    memcpy(h.limit, im->limit, sizeof h.limit);
    memcpy(h.cwd, im->cwd, sizeof h.cwd);
    return h;
}

static size_t size_out(const struct image *im) {
    size_t n = sizeof(struct state_head) + (size_t)im->threads * sizeof(struct state_thread) + im->actions * sizeof(struct state_action);
    for (uint32_t i = 0; i < im->files; i++) n += sizeof(struct state_file) + padded(im->file[i].head.path_bytes);
    return n;
}

int image_write(const struct image *im, struct err *e) {
    const size_t bytes = size_out(im);
    if (bytes > STATE_BYTES_MAX) return err_set(e, ERR_LIMIT, "the context has too many open files to be kept (%zu bytes)", bytes);
    cleanup_close int fd = memfd_create("state", MFD_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "memory file for the state of a context");
    cleanup_free uint8_t *buffer = calloc(1, bytes);
    if (!buffer) return err_sys(e, ENOMEM, "state of a context");
    uint8_t *at = buffer;
    struct state_head h = head_out(im, bytes);
    memcpy(at, &h, sizeof h);
    at += sizeof h;
    for (int i = 0; i < im->threads; i++, at += sizeof(struct state_thread)) {
        struct state_thread t = thread_out(&im->thread[i]);
        memcpy(at, &t, sizeof t);
    }
    for (uint32_t i = 0; i < im->files; i++) {
        const struct image_file *f = &im->file[i];
        memcpy(at, &f->head, sizeof f->head);
        if (f->head.path_bytes) memcpy(at + sizeof f->head, f->extra, f->head.path_bytes);
        at += sizeof f->head + padded(f->head.path_bytes);
    }
    if (im->actions) memcpy(at, im->action, im->actions * sizeof *im->action);
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(fd, buffer + done, bytes - done, (off_t)done);
        if (n <= 0) return err_sys(e, n ? errno : ENOSPC, "write the state of a context");
        done += (size_t)n;
    }
    return steal_fd(&fd);
}

/* ---- in ---- */

struct reader {
    const uint8_t *at;
    size_t left;
};

/* The next n bytes, copied out (nothing in the string is aligned by promise); false at its end. */
static bool take(struct reader *r, void *out, size_t n) {
    if (n > r->left) return false;
    memcpy(out, r->at, n);
    r->at += n;
    r->left -= n;
    return true;
}

static int bad(struct err *e, const char *what) { return err_set(e, ERR_IMAGE, "the state of a context is damaged: %s", what); }

static bool user_range(uint64_t address, uint64_t bytes) { return address < USER_MAX && bytes <= USER_MAX - address; }
static bool text_ends(const char *s, size_t n) { return memchr(s, 0, n) != NULL; }

static int head_in(struct image *im, const struct state_head *h, size_t bytes, struct err *e) {
    if (h->magic != STATE_MAGIC) return bad(e, "not one");
    if (h->version != STATE_VERSION) return err_set(e, ERR_IMAGE, "the state of a context has version %u, this keeper reads %u", h->version, STATE_VERSION);
    if (h->bytes != bytes) return bad(e, "length");
    if (h->stub != STUB_CODE) return bad(e, "place of the injected code");
    if (!h->threads || h->threads > STATE_THREADS_MAX || h->files > STATE_FILES_MAX || h->actions > 64) return bad(e, "counts");
    if (h->umask > 0777 || h->timer_us > 1ull << 50 || h->timer_interval_us > 1ull << 50) return bad(e, "umask or timer");
    if (!text_ends(h->cwd, sizeof h->cwd) || (h->cwd[0] && h->cwd[0] != '/')) return bad(e, "directory");
    im->umask = h->umask;
    im->timer_us = h->timer_us;
    im->timer_interval_us = h->timer_interval_us;
    memcpy(im->limit, h->limit, sizeof im->limit);
    memcpy(im->cwd, h->cwd, sizeof im->cwd);
    im->thread = calloc(h->threads, sizeof *im->thread);
    if (h->files) im->file = calloc(h->files, sizeof *im->file);
    if (h->actions) im->action = calloc(h->actions, sizeof *im->action);
    if (!im->thread || (h->files && !im->file) || (h->actions && !im->action)) return err_sys(e, ENOMEM, "state of a context");
    return 0;
}

static bool tid_taken(const struct image *im, int tid) {
    for (int i = 0; i < im->threads; i++)
        if (im->thread[i].tid == tid) return true;
    return false;
}

static int thread_in(struct image *im, const struct state_thread *s, struct err *e) {
    struct image_thread *t = &im->thread[im->threads];
    if (s->tid < 1 || s->tid > TID_MAX || tid_taken(im, s->tid)) return bad(e, "thread id");
    if (s->xstate_bytes < 576 || s->xstate_bytes > STATE_XSTATE_MAX || s->xstate_bytes % 8) return bad(e, "vector state"); /* 576: legacy area and header */
    if (s->rseq_flags || (s->rseq_address && (s->rseq_bytes < 32 || s->rseq_bytes > 4096)) || s->rseq_signature > UINT32_MAX ||
        !user_range(s->rseq_address, s->rseq_bytes) || !user_range(s->robust_list, 0) || s->robust_bytes > 4096 || !user_range(s->clear_tid, 4))
        return bad(e, "addresses of a thread");
    if (s->altstack_flags & ~(int)(SS_ONSTACK | SS_DISABLE | (1u << 31 /* SS_AUTODISARM */)) || !user_range(s->altstack_address, s->altstack_bytes))
        return bad(e, "signal stack");
    if (!text_ends(s->name, sizeof s->name)) return bad(e, "name of a thread");
    *t = (struct image_thread){.tid = s->tid, .signal_mask = s->signal_mask, .robust_list = s->robust_list, .robust_len = s->robust_bytes, .clear_tid = s->clear_tid,
                               .xstate_len = s->xstate_bytes,
                               .rseq = {.rseq_abi_pointer = s->rseq_address, .rseq_abi_size = s->rseq_bytes, .signature = (uint32_t)s->rseq_signature},
                               .altstack = {.ss_sp = (void *)s->altstack_address, .ss_flags = s->altstack_flags, .ss_size = s->altstack_bytes}};
    memcpy(&t->regs, s->regs, sizeof t->regs);
    memcpy(t->name, s->name, sizeof t->name);
    memcpy(t->xstate, s->xstate, s->xstate_bytes);
    im->threads++;
    return arch_check(&t->regs) ? 0 : bad(e, "registers");
}

static bool fd_fits(int32_t fd) { return fd >= 0 && fd < FD_MAX && fd != CONTEXT_FD; }

/* Is there a path, whole and absolute? */
static bool path_fits(const struct state_file *f, const char *extra) {
    return f->path_bytes >= 2 && f->path_bytes <= STATE_PATH_MAX && extra[0] == '/' && memchr(extra, 0, f->path_bytes) == extra + f->path_bytes - 1;
}

/* Nothing may take the place of the injected code: the sentinel runs it as the owner of all cells. */
static bool pages_fit(uint64_t address, uint64_t bytes) {
    if (address % 4096 || !bytes || !user_range(address, bytes)) return false;
    return address + bytes <= STUB_CODE || address >= STUB_CODE + STUB_CODE_SIZE + STUB_DATA_SIZE;
}

static bool file_fits(const struct state_file *f, const void *extra) {
    switch ((enum state_file_kind)f->kind) {
    case STATE_REGULAR: return f->offset <= INT64_MAX && path_fits(f, extra);
    case STATE_DUP: return fd_fits(f->other) && f->other < f->fd && !f->path_bytes;
    case STATE_STREAM: return f->other >= 0 && (f->other <= 2 || f->other == CONTEXT_FD) && !f->path_bytes;
    case STATE_EVENTFD: return !f->path_bytes && f->offset != UINT64_MAX;
    case STATE_TIMERFD: return !f->path_bytes && f->offset <= INT64_MAX && f->inode <= INT64_MAX;
    case STATE_EPOLL: return f->path_bytes % sizeof(struct state_watch) == 0 && f->path_bytes <= STATE_WATCHES_MAX * sizeof(struct state_watch);
    case STATE_PIPE: return fd_fits(f->other) && f->other != f->fd && f->path_bytes <= STATE_WAITING_MAX;
    case STATE_SOCKETPAIR:
        return fd_fits(f->other) && f->other != f->fd && f->path_bytes <= STATE_WAITING_MAX &&
               (f->offset == SOCK_STREAM || f->offset == SOCK_DGRAM || f->offset == SOCK_SEQPACKET);
    case STATE_MAPPING:
        return f->fd == -1 && pages_fit(f->offset, f->mapping_bytes) && f->mapping_offset <= INT64_MAX && f->mapping_offset % 4096 == 0 &&
               !(f->mapping_prot & ~7u) && (f->path_bytes ? path_fits(f, extra) : f->other == -1 || fd_fits(f->other));
    case STATE_UNNAMED:
        return f->offset <= INT64_MAX && (f->mapping_bytes ? pages_fit(f->mapping_offset, f->mapping_bytes) : !f->mapping_offset) &&
               (!f->path_bytes || path_fits(f, extra));
    case STATE_LOCK:
        return f->other >= STATE_LOCK_POSIX && f->other <= STATE_LOCK_FLOCK && f->offset <= INT64_MAX && f->mapping_bytes <= INT64_MAX && !f->path_bytes;
    case STATE_LOST: return f->other >= STATE_LOST_FILE && f->other <= STATE_LOST_SOCKET && !f->path_bytes;
    case STATE_KINDS: break;
    }
    return false;
}

/* Descriptors ascend; locks and mappings follow them. */
static bool in_order(const struct image *im, const struct state_file *f) {
    const struct state_file *before = im->files ? &im->file[im->files - 1].head : NULL;
    if (f->kind == STATE_MAPPING) return f->fd == -1;
    if (!fd_fits(f->fd)) return false;
    if (f->kind == STATE_LOCK) return !before || before->kind != STATE_MAPPING;
    return !before || (before->kind != STATE_MAPPING && before->kind != STATE_LOCK && before->fd < f->fd);
}

static int file_in(struct image *im, struct reader *r, struct err *e) {
    struct image_file *f = &im->file[im->files];
    if (!take(r, &f->head, sizeof f->head) || f->head.path_bytes > STATE_WAITING_MAX || padded(f->head.path_bytes) > r->left) return bad(e, "a file is cut");
    if (!in_order(im, &f->head)) return bad(e, "order of files");
    if (f->head.path_bytes && !(f->extra = malloc(f->head.path_bytes))) return err_sys(e, ENOMEM, "state of a context");
    im->files++; /* image_free() frees it from here on */
    if (f->head.path_bytes) memcpy(f->extra, r->at, f->head.path_bytes);
    r->at += padded(f->head.path_bytes);
    r->left -= padded(f->head.path_bytes);
    return file_fits(&f->head, f->extra) ? 0 : bad(e, "a file");
}

static int action_in(struct image *im, struct reader *r, struct err *e) {
    struct state_action *a = &im->action[im->actions];
    if (!take(r, a, sizeof *a)) return bad(e, "a signal action is cut");
    if (a->signo < 1 || a->signo > 64 || (im->actions && a[-1].signo >= a->signo)) return bad(e, "signal number");
    im->actions++;
    return 0;
}

static int all_in(struct image *im, struct reader *r, size_t bytes, struct err *e) {
    struct state_head h;
    cleanup_free struct state_thread *t = malloc(sizeof *t);
    if (!t) return err_sys(e, ENOMEM, "state of a context");
    if (!take(r, &h, sizeof h)) return bad(e, "no head");
    if (head_in(im, &h, bytes, e)) return -1;
    for (uint32_t i = 0; i < h.threads; i++) {
        if (!take(r, t, sizeof *t)) return bad(e, "a thread is cut");
        if (thread_in(im, t, e)) return -1;
    }
    for (uint32_t i = 0; i < h.files; i++)
        if (file_in(im, r, e)) return -1;
    for (uint32_t i = 0; i < h.actions; i++)
        if (action_in(im, r, e)) return -1;
    return r->left ? bad(e, "something follows it") : 0;
}

int image_parse(const void *bytes, size_t n, struct image *im, struct err *e) {
    struct reader r = {bytes, n};
    *im = (struct image){.stated = true};
    if (n > STATE_BYTES_MAX) return bad(e, "too long");
    if (!all_in(im, &r, n, e)) return 0;
    image_free(im);
    return -1;
}

int image_read(int fd, struct image *im, struct err *e) {
    struct stat st;
    *im = (struct image){0};
    /* only a memory file answers: a read of it cannot wait, and cannot fail for anybody's pleasure */
    if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &st)) return err_set(e, ERR_INVALID, "the state of a context comes in a memory file");
    if (st.st_size <= 0 || st.st_size > STATE_BYTES_MAX) return bad(e, "length");
    cleanup_free uint8_t *copy = malloc((size_t)st.st_size); /* the sender may still write: what is checked is what is used */
    if (!copy) return err_sys(e, ENOMEM, "state of a context");
    for (size_t done = 0; done < (size_t)st.st_size;) {
        ssize_t n = pread(fd, copy + done, (size_t)st.st_size - done, (off_t)done);
        if (n <= 0) return bad(e, "shorter than it said");
        done += (size_t)n;
    }
    return image_parse(copy, (size_t)st.st_size, im, e);
}
