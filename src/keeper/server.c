#include "keeper/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdpass.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/capture.h"
#include "keeper/cell.h"
#include "keeper/cgroup.h"
#include "keeper/host.h"
#include "keeper/keep.h"
#include "keeper/layers.h"
#include "keeper/machine_save.h"
#include "keeper/server_parts.h"
#include "keeper/state.h"
#include "keeper/thaw.h"
#include "keeper/zygote.h"

#define GROW_MS 200 /* a disk that writes 2 GB/s fills 400 MB meanwhile: less than LAYERS_RESERVE. Only while there are cells */
#define SPARE_WAIT_MS 5 /* nothing asked for so long: time for the copies made ahead */

static int client = -1;
static bool left; /* a daemon is gone, and what belonged to its connection is not dropped yet */
struct keeper_report server_report;

/* ---- answers ---- */

static void lose_client(void) {
    left = left || client >= 0;
    close_fd(&client);
}

/* Send one message with n descriptors. A daemon that does not read its socket is dropped: it can connect again and find everything. */
static void send_reply(const struct keeper_reply *r, const int *fds, size_t n) {
    if (client < 0) return;
    if (fdpass_send(client, r, sizeof *r, fds, n, MSG_DONTWAIT)) {
        log_warn("daemon dropped: %s", strerror(errno));
        lose_client();
    }
}

struct keeper_reply reply_to(const struct keeper_request *q) {
    return (struct keeper_reply){.magic = KEEPER_MAGIC, .op = q->op, .tag = q->tag, .cell = q->cell, .serial = q->serial, .slot = q->slot, .language = q->language};
}

struct keeper_reply event(uint32_t op, const struct cell *c) {
    struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = op, .cell = cell_index(c), .serial = c->serial};
    (void)snprintf(r.id, sizeof r.id, "%s", c->id);
    (void)snprintf(r.template_id, sizeof r.template_id, "%s", c->template_id);
    return r;
}

/* A refusal that no failed call is behind, as the number that the daemon's side takes for the same word (driver/process/keeper_client.c). */
static int errno_of(const struct err *e) {
    static const struct {
        const char *code;
        int number;
    } words[] = {{ERR_INVALID, EINVAL}, {ERR_CONFLICT, EBUSY}, {ERR_LIMIT, EUSERS}, {ERR_UNSUPPORTED, EOPNOTSUPP}, {ERR_EXISTS, EEXIST}, {ERR_IMAGE, EBADMSG}, {ERR_TOO_LARGE, EFBIG}};
    if (e->sys_errno) return e->sys_errno;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(e->code, words[i].code)) return words[i].number;
    return EIO;
}

void answer(struct keeper_reply *r, int rc, const struct err *e, const int *fds, size_t n) {
    if (rc) {
        r->error = errno_of(e);
        memset(&r->text, 0, sizeof r->text);
        (void)snprintf(r->text, sizeof r->text, "%.*s", (int)sizeof r->text - 1, e->text);
    }
    send_reply(r, fds, rc ? 0 : n);
}

/* An answer with descriptors that are only made for it; the notes' file comes last. Closes them all. */
static void answer_made(struct keeper_reply *r, int rc, const struct notes *notes, struct err *e, int *fds, size_t n) {
    int file = -1;
    if (!rc && notes && notes->count) {
        if ((file = notes_file(notes, &r->notes, e)) < 0) rc = -1;
        fds[n] = file;
    }
    answer(r, rc, e, fds, n + (file >= 0));
    if (file >= 0) close(file);
}

void on_context_exit(struct cell *c, int slot, enum keeper_fate fate, int code) {
    struct keeper_reply r = event(KEEPER_EVENT_CONTEXT_EXIT, c);
    r.slot = (uint32_t)slot;
    r.fate = fate;
    r.code = code;
    send_reply(&r, NULL, 0);
}

void on_cell_gone(struct cell *c, enum keeper_fate fate) {
    struct keeper_reply r = event(KEEPER_EVENT_CELL_GONE, c);
    r.fate = fate;
    server_report.cells--;
    send_reply(&r, NULL, 0);
}

void on_cell_removed(struct cell *c) {
    struct keeper_reply r = event(KEEPER_CELL_DESTROY, c);
    r.tag = c->destroy_tag;
    server_report.cells--;
    if (r.tag) send_reply(&r, NULL, 0);
}

/* ---- requests ---- */

struct cell *wanted(const struct keeper_request *q, struct err *e) {
    struct cell *c = cell_find(q->cell, q->serial);
    if (!c) {
        err_set(e, ERR_NOT_FOUND, "no such cell");
        e->sys_errno = ENOENT;
    }
    return c;
}

static struct zygote *warm(const char *template_id, uint32_t language, struct err *e) {
    struct zygote *z = zygote_find(template_id, (int)language);
    if (z && z->ready) return z;
    err_set(e, ERR_UNAVAILABLE, "the template's interpreter is not warm");
    e->sys_errno = EAGAIN;
    return NULL;
}

static int fill(struct cell *c, const struct keeper_request *q, struct err *e) {
    if (q->slot >= KEEPER_SLOTS) return err_set(e, ERR_INVALID, "no such slot");
    struct zygote *z = warm(c->template_id, q->language, e);
    if (!z) return -1;
    int64_t t = monotonic_us();
    const struct cell_memory m = {.sentinel = z->pid, .spare = zygote_take_spare(z), .image = &z->image, .language = z->language, .zygote = z->number};
    int rc = cell_fill(c, (int)q->slot, &m, NULL, e);
    server_report.ferry_us_last = (uint64_t)(monotonic_us() - t);
    server_report.contexts_made += !rc;
    return rc;
}

static void do_cell_make(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = NULL;
    int64_t t = monotonic_us();
    const struct cell_files files = {.layer = q->layer[0] ? q->layer : NULL};
    if (files.layer && !id_valid(files.layer, "img_")) {
        err_set(&e, ERR_INVALID, "not an id of a kept layer");
    } else if (!q->language || warm(q->template_id, q->language, &e)) {
        c = cell_make(q->id, q->template_id, &q->limits, files, &e);
    }
    server_report.cell_make_us_last = (uint64_t)(monotonic_us() - t);
    if (!c) {
        answer(&r, -1, &e, NULL, 0);
        return;
    }
    server_report.cells++;
    server_report.cells_made++;
    int rc = q->language ? fill(c, q, &e) : cell_ready(c, &e);
    const struct context *x = &c->context[q->slot % KEEPER_SLOTS];
    const int fds[4] = {c->guest_fd, x->control_fd, x->stdout_fd, x->stderr_fd};
    r.cell = cell_index(c);
    r.serial = c->serial;
    answer(&r, rc, &e, fds, q->language ? 4 : 1);
    if (rc) {
        server_report.cells--;
        cell_destroy(c);
    }
}

/* The streams of every context of a cell, lowest slot first. */
static size_t all_streams(const struct cell *c, uint32_t *slots, int fds[KEEPER_FDS_MAX]) {
    size_t n = 0;
    fds[n++] = c->guest_fd;
    *slots = 0;
    for (int slot = 0; slot < KEEPER_SLOTS; slot++) {
        const struct context *x = &c->context[slot];
        if (!x->context) continue;
        *slots |= 1u << slot;
        fds[n++] = x->control_fd;
        fds[n++] = x->stdout_fd;
        fds[n++] = x->stderr_fd;
    }
    return n;
}

struct capture *captured(const struct keeper_request *q, struct err *e) {
    struct capture *k = capture_find(q->capture);
    if (!k) {
        err_set(e, ERR_NOT_FOUND, "no such capture");
        e->sys_errno = ENOENT;
    }
    return k;
}

/* The daemon asks for a copy and its children in one go: look whether the next request is already there. */
static bool next_child(uint32_t capture, struct keeper_request *q, struct capture_next *next) {
    if (recv(client, q, sizeof *q, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC) != (ssize_t)sizeof *q) return false;
    if (q->magic != KEEPER_MAGIC || q->op != KEEPER_CAPTURE_MAKE || q->capture != capture) return false;
    q->id[sizeof q->id - 1] = 0;
    *next = (struct capture_next){q->id, q->flags & KEEPER_LAST};
    return true;
}

static void do_capture(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    struct keeper_request coming;
    struct capture_next next;
    struct capture *k = c ? capture_cell(c, q->capture, q->flags & KEEPER_HOLD, next_child(q->capture, &coming, &next) ? &next : NULL, &e) : NULL;
    int fds[1];
    for (uint32_t i = 0; k && i < KEEPER_SLOTS; i++) r.slots |= k->slot[i].sentinel ? 1u << i : 0;
    r.frozen_us = k ? (uint32_t)k->frozen_us : 0;
    answer_made(&r, k ? 0 : -1, k ? &k->notes : NULL, &e, fds, 0);
}

static void do_capture_make(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    int fds[KEEPER_FDS_MAX + 1];
    struct notes notes = {0};
    struct capture *k = captured(q, &e);
    struct keeper_request coming;
    struct capture_next next;
    struct cell *c = k ? capture_make_cell(k, q->id, q->flags & KEEPER_LAST, next_child(q->capture, &coming, &next) ? &next : NULL, &notes, &e) : NULL;
    if (!c) {
        notes_free(&notes);
        answer(&r, -1, &e, NULL, 0);
        return;
    }
    server_report.cells++;
    server_report.cells_made++;
    r.cell = cell_index(c);
    r.serial = c->serial;
    size_t n = all_streams(c, &r.slots, fds);
    answer_made(&r, 0, &notes, &e, fds, n);
    notes_free(&notes);
}

static void do_capture_drop(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct capture *k = captured(q, &e);
    if (k) capture_drop(k);
    answer(&r, k ? 0 : -1, &e, NULL, 0);
}

/* What the daemon reads of a stopped copy: its memory, pagemap and maps. They say what the opener may see, page frames as well. */
static int open_memory(pid_t pid, int fds[3], struct err *e) {
    static const char *const name[] = {"mem", "pagemap", "maps"};
    char path[64];
    for (int i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "/proc/%d/%s", pid, name[i]);
        if ((fds[i] = open(path, O_RDONLY | O_CLOEXEC)) >= 0) continue;
        err_sys(e, errno, "open %s", path);
        while (i > 0) close(fds[--i]);
        return -1;
    }
    return 0;
}

static void do_open(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    int fds[4] = {-1, -1, -1, -1}, rc = -1;
    size_t n = 3;
    if (q->op == KEEPER_ZYGOTE_OPEN) {
        const struct zygote *z = warm(q->template_id, q->language, &e);
        if (z && !(rc = open_memory(z->pid, fds, &e))) r.zygote = z->number;
    } else {
        struct capture *k = captured(q, &e);
        struct captured *s = k && q->slot < KEEPER_SLOTS && k->slot[q->slot].sentinel ? &k->slot[q->slot] : NULL;
        if (k && !s) err_set(&e, ERR_NOT_FOUND, "no context in this slot");
        if (s && !open_memory(s->sentinel, fds, &e)) rc = image_ask_actions(&s->image, s->sentinel, &e) || (fds[n++] = image_write(&s->image, &e)) < 0 ? -1 : 0;
        if (s) r.language = (uint32_t)s->language;
        if (s) r.zygote = zygote_lives(s->zygote) ? s->zygote : 0;
    }
    answer(&r, rc, &e, fds, n);
    for (size_t i = 0; i < 4; i++) close_fd(&fds[i]);
}

/* ---- kept layers ---- */

static void do_layer_keep(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct capture *k = captured(q, &e);
    if (!k || keep_start(k, q->id, q->tag, &e)) answer(&r, -1, &e, NULL, 0); /* else keep_spoke */
}

static void keep_spoke(struct keep *p) {
    struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = KEEPER_LAYER_KEEP, .tag = p->tag};
    struct err e;
    uint64_t bytes;
    (void)snprintf(r.id, sizeof r.id, "%s", p->id);
    int rc = keep_finish(p, &bytes, &e);
    if (!rc) r.bytes = bytes;
    if (r.tag) answer(&r, rc, &e, NULL, 0);
}

static void do_layer_list(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    cleanup_dir DIR *d = layers_list();
    for (const char *id; d && (id = layers_next_kept(d));) {
        struct keeper_reply found = {.magic = KEEPER_MAGIC, .op = KEEPER_EVENT_LAYER, .bytes = layer_bytes(id)};
        (void)snprintf(found.id, sizeof found.id, "%s", id);
        send_reply(&found, NULL, 0);
    }
    struct err e;
    answer(&r, d ? 0 : err_set(&e, ERR_INTERNAL, "the layers cannot be listed"), &e, NULL, 0);
}

static void do_context_make(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    int rc = c ? fill(c, q, &e) : -1;
    const struct context *x = c ? &c->context[q->slot % KEEPER_SLOTS] : NULL;
    const int fds[3] = {x ? x->control_fd : -1, x ? x->stdout_fd : -1, x ? x->stderr_fd : -1};
    answer(&r, rc, &e, fds, 3);
}

/* ---- contexts from images ---- */

static void do_thaw(const struct keeper_request *q, int fd) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    struct notes notes = {0};
    int fds[6], made[2] = {-1, -1}, rc = -1;
    size_t n = 0;
    if (c && q->slot >= KEEPER_SLOTS) {
        err_set(&e, ERR_INVALID, "no such slot");
    } else if (c && q->op == KEEPER_THAW_BEGIN) {
        struct zygote *z = warm(c->template_id, q->language, &e);
        rc = z ? thaw_begin(c, (int)q->slot, z, fd, made, &e) : -1;
        const struct context *x = &c->context[q->slot];
        fds[n++] = x->control_fd, fds[n++] = x->stdout_fd, fds[n++] = x->stderr_fd, fds[n++] = made[0], fds[n++] = made[1];
        if (z) r.zygote = z->number;
    } else if (c && q->op == KEEPER_THAW_CALLS) {
        rc = thaw_calls(c, (int)q->slot, fd, &e);
    } else if (c) {
        rc = thaw_run(c, (int)q->slot, &notes, &e);
        server_report.contexts_made += !rc;
    }
    answer_made(&r, rc, &notes, &e, fds, n);
    notes_free(&notes);
    close_fd(&made[0]);
    close_fd(&made[1]);
}

static void do_zygote_start(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct zygote *z = zygote_find(q->template_id, (int)q->language);
    if (z && z->ready) {
        answer(&r, 0, NULL, NULL, 0);
    } else if (z) {
        z->tag = q->tag; /* asked again by a new daemon: the answer goes to the newest request */
    } else if (q->language == KEEPER_NONE || q->language >= KEEPER_LANGUAGES) {
        answer(&r, err_set(&e, ERR_INVALID, "no such language"), &e, NULL, 0);
    } else if (!zygote_start(q->template_id, (int)q->language, q->tag, &e)) {
        answer(&r, -1, &e, NULL, 0);
    }
}

static void zygote_spoke(struct zygote *z) {
    struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = KEEPER_ZYGOTE_START, .tag = z->tag, .language = (uint32_t)z->language, .cold = 1};
    struct err e;
    (void)snprintf(r.template_id, sizeof r.template_id, "%s", z->template_id);
    int rc = zygote_settle(z, &e);
    if (rc) log_error("zygote: %s", e.text);
    server_report.zygotes += !rc;
    if (z->tag) answer(&r, rc, &e, NULL, 0);
}

static void do_list(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    for (uint32_t i = 0; i < KEEPER_CELLS_MAX; i++) {
        struct cell *c = &cells[i];
        if (!cell_alive(c)) continue;
        struct keeper_reply found = event(KEEPER_EVENT_FOUND, c);
        int fds[KEEPER_FDS_MAX];
        size_t n = c->machine ? machine_streams(c->machine, &found.slots, fds) : all_streams(c, &found.slots, fds);
        if (c->machine) {
            found.machine = 1;
            found.vcpus = c->machine->vcpus;
            memcpy(found.layer, c->machine->base, sizeof found.layer);
        }
        send_reply(&found, fds, n);
    }
    answer(&r, 0, NULL, NULL, 0);
}

static void do_small(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    int rc = -1;
    if (c) switch (q->op) {
        case KEEPER_CELL_LIMITS: rc = cell_limit(c, &q->limits, &e); break;
        case KEEPER_CELL_FREEZE: rc = cell_pause(c, q->on != 0, &e); break;
        case KEEPER_CELL_STATS: rc = cell_stats(c, &r.stats, &e); break;
        case KEEPER_CONTEXT_SIGNAL: rc = cell_signal(c, (int)q->slot, q->signo, &e); break;
        default: rc = err_set(&e, ERR_INVALID, "no such operation"); break;
        }
    answer(&r, rc, &e, NULL, 0);
}

static void do_rename(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e), *old = cell_called(q->id);
    int rc = c ? cell_rename(c, q->id, &e) : -1;
    if (!rc && old && old != c) server_report.cells--;
    answer(&r, rc, &e, NULL, 0);
}

static void do_destroy(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    if (!c) {
        answer(&r, -1, &e, NULL, 0);
        return;
    }
    c->destroy_asked = true;
    c->destroy_tag = q->tag;
    cell_destroy(c);
}

/* fds: what came with it, or -1. */
static void serve(struct keeper_request *q, const int fds[2]) {
    struct keeper_reply r = reply_to(q);
    q->id[sizeof q->id - 1] = q->template_id[sizeof q->template_id - 1] = q->layer[sizeof q->layer - 1] = q->files[sizeof q->files - 1] = 0;
    if (serve_machine(q, fds)) return;
    switch (q->op) {
    case KEEPER_HELLO:
        r.report = server_report;
        r.report.features = host.features;
        r.report.landlock_abi = (uint32_t)host.landlock_abi;
        answer(&r, 0, NULL, NULL, 0);
        break;
    case KEEPER_LIST: do_list(q); break;
    case KEEPER_ZYGOTE_START: do_zygote_start(q); break;
    case KEEPER_ZYGOTE_STOP: {
        struct zygote *z = zygote_find(q->template_id, (int)q->language);
        if (z) zygote_kill(z);
        answer(&r, 0, NULL, NULL, 0);
        break;
    }
    case KEEPER_CELL_MAKE: do_cell_make(q); break;
    case KEEPER_CONTEXT_MAKE: do_context_make(q); break;
    case KEEPER_CELL_DESTROY: do_destroy(q); break;
    case KEEPER_CAPTURE: do_capture(q); break;
    case KEEPER_CAPTURE_MAKE: do_capture_make(q); break;
    case KEEPER_CAPTURE_DROP: do_capture_drop(q); break;
    case KEEPER_CAPTURE_OPEN:
    case KEEPER_ZYGOTE_OPEN: do_open(q); break;
    case KEEPER_LAYER_KEEP: do_layer_keep(q); break;
    case KEEPER_LAYER_LIST: do_layer_list(q); break;
    case KEEPER_LAYER_DROP: {
        struct err e;
        int rc = keep_drop(q->id, &e);
        answer(&r, rc, &e, NULL, 0);
        break;
    }
    case KEEPER_THAW_BEGIN:
    case KEEPER_THAW_CALLS:
    case KEEPER_THAW_RUN: do_thaw(q, fds[0]); break;
    case KEEPER_CELL_RENAME: do_rename(q); break;
    default: do_small(q); break;
    }
}

/* ---- the loop ---- */

static void take_client(int listen_fd, uid_t daemon_uid) {
    struct ucred peer;
    socklen_t n = sizeof peer;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) || (peer.uid != daemon_uid && peer.uid != 0)) {
        log_warn("connection of user %u refused", peer.uid);
        close(fd);
        return;
    }
    int bytes = 8 << 20; /* room for the answers to a burst: each takes about a kilobyte of socket memory */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
    lose_client();
    client = fd;
    log_info("daemon connected (pid %d)", peer.pid);
}

static void read_client(void) {
    struct keeper_request q;
    int fds[2] = {-1, -1}; /* so many may come along; the kernel drops what there is no room for */
    union {
        char space[CMSG_SPACE(sizeof fds)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {&q, sizeof q};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = CMSG_LEN(sizeof fds)};
    ssize_t n = recvmsg(client, &m, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *h = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
    if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && h->cmsg_len <= CMSG_LEN(sizeof fds)) memcpy(fds, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0));
    const bool whole = n == (ssize_t)sizeof q && q.magic == KEEPER_MAGIC;
    const int why = errno;
    if (whole) serve(&q, fds);
    close_fd(&fds[0]);
    close_fd(&fds[1]);
    if (whole) return;
    errno = why;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    log_warn("daemon gone%s; cells live on", n > 0 ? " (it does not speak this keeper's protocol)" : "");
    lose_client();
}

/* What belonged to the connection that ended: captures, and the answers that somebody waited for. */
static void forget_client(void) {
    captures_drop();
    thaws_drop();
    cells_forget_requests();
    keeps_forget();
    saves_forget();
    for (size_t i = 0; i < ZYGOTES_MAX; i++) zygotes[i].tag = 0;
    left = false;
}

/* Sentinels must never run: nothing lets one go. */
static bool is_sentinel(pid_t pid) { return zygote_has_sentinel(pid) || cell_has_sentinel(pid) || capture_has_sentinel(pid); }

/* A stop nobody waits for: a thread that did not stop in time for a fork and does now. */
static void let_go(pid_t pid, int status) {
    int signo = status >> 16 ? 0 : WSTOPSIG(status);
    if (!is_sentinel(pid) && !capture_holds(pid)) (void)ptrace(PTRACE_DETACH, pid, 0, signo);
}

static void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;) {
        if (WIFSTOPPED(status)) {
            let_go(pid, status);
            continue;
        }
        if (capture_reaped(pid) || cell_reaped(pid, status) || zygote_spare_reaped(pid)) continue;
        for (size_t i = 0; i < ZYGOTES_MAX; i++) {
            struct zygote *z = &zygotes[i];
            if (z->pid != pid) continue;
            struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = KEEPER_EVENT_ZYGOTE_GONE, .language = (uint32_t)z->language};
            (void)snprintf(r.template_id, sizeof r.template_id, "%s", z->template_id);
            if (z->ready_fd >= 0) zygote_spoke(z); /* died while warming up: the waiting request gets its answer */
            if (z->ready) {
                server_report.zygotes--;
                send_reply(&r, NULL, 0);
            }
            zygote_reaped(z);
        }
    }
}

int server_listen(const char *path, uid_t daemon_uid, struct err *e) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path) return err_set(e, ERR_INVALID, "socket path %s is too long", path);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    (void)unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || chmod(path, 0600) || chown(path, daemon_uid, (gid_t)-1) || listen(fd, 4))
        return err_sys(e, errno, "listen on %s", path);
    return steal_fd(&fd); /* the path stays behind when the keeper ends; the next one replaces it */
}

/* Cells write without the keeper's knowing: look whether their disk has to grow. */
static void grow_now_and_then(void) {
    static int64_t last;
    if (monotonic_ms() - last < GROW_MS) return;
    last = monotonic_ms();
    layers_grow();
}

int server_run(int listen_fd, uid_t daemon_uid, struct err *e) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    cleanup_close int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) return err_sys(e, errno, "signalfd");
    bool waiting = false, spares = false;
    for (;;) {
        enum { KEEPS = 3 + ZYGOTES_MAX, MACHINES = KEEPS + KEEPS_MAX, ALL };
        struct pollfd p[ALL] = {{signals, POLLIN, 0}, {listen_fd, POLLIN, 0}, {client, POLLIN, 0}};
        for (size_t i = 0; i < ZYGOTES_MAX; i++) p[3 + i] = (struct pollfd){zygotes[i].pid ? zygotes[i].ready_fd : -1, POLLIN, 0};
        for (size_t i = 0; i < KEEPS_MAX; i++) p[KEEPS + i] = (struct pollfd){keeps[i].fd, POLLIN, 0};
        p[MACHINES] = (struct pollfd){vmm_loop_fd(), POLLIN, 0};
        int spoke = poll(p, ALL, vmm_fell ? 0 : waiting ? 2 : spares ? SPARE_WAIT_MS : server_report.cells || saves_waiting() ? GROW_MS : -1);
        if (spoke < 0 && errno != EINTR) return err_sys(e, errno, "poll");
        spares = spoke || zygotes_make_spare() || cells_make_blank(); /* whatever happened may have used one up */
        struct signalfd_siginfo info;
        while (read(signals, &info, sizeof info) == sizeof info)
            if (info.ssi_signo != SIGCHLD) return 0;
        reap();
        for (size_t i = 0; i < ZYGOTES_MAX; i++)
            if (p[3 + i].revents && zygotes[i].pid && zygotes[i].ready_fd == p[3 + i].fd) zygote_spoke(&zygotes[i]);
        for (size_t i = 0; i < KEEPS_MAX; i++)
            if (p[KEEPS + i].revents && keeps[i].fd == p[KEEPS + i].fd) keep_spoke(&keeps[i]);
        if (p[MACHINES].revents) vmm_loop();
        machines_settle();
        saves_check();
        waiting = cell_sweep();
        waiting = vmm_sweep() || waiting;
        grow_now_and_then();
        if (p[1].revents) take_client(listen_fd, daemon_uid);
        if (left) forget_client();
        if (client >= 0 && p[2].fd == client && p[2].revents) read_client();
    }
}
