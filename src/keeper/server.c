#include "keeper/server.h"

#include <errno.h>
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
#include "keeper/zygote.h"

#define SPARE_WAIT_MS 5 /* nothing asked for so long: time for the copies made ahead */

static int client = -1;
static struct keeper_report report;

/* ---- answers ---- */

/* Send one message with n descriptors. A daemon that does not read its socket is dropped: it can connect again and find everything. */
static void send_reply(const struct keeper_reply *r, const int *fds, size_t n) {
    if (client < 0) return;
    if (fdpass_send(client, r, sizeof *r, fds, n, MSG_DONTWAIT)) {
        log_warn("daemon dropped: %s", strerror(errno));
        close_fd(&client);
    }
}

static struct keeper_reply reply_to(const struct keeper_request *q) {
    return (struct keeper_reply){.magic = KEEPER_MAGIC, .op = q->op, .tag = q->tag, .cell = q->cell, .serial = q->serial, .slot = q->slot, .language = q->language};
}

static struct keeper_reply event(uint32_t op, const struct cell *c) {
    struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = op, .cell = cell_index(c), .serial = c->serial};
    (void)snprintf(r.id, sizeof r.id, "%s", c->id);
    (void)snprintf(r.template_id, sizeof r.template_id, "%s", c->template_id);
    return r;
}

static void answer(struct keeper_reply *r, int rc, const struct err *e, const int *fds, size_t n) {
    if (rc) {
        r->error = e->sys_errno ? e->sys_errno : EIO;
        memset(&r->text, 0, sizeof r->text);
        (void)snprintf(r->text, sizeof r->text, "%.*s", (int)sizeof r->text - 1, e->text);
    }
    send_reply(r, fds, rc ? 0 : n);
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
    report.cells--;
    send_reply(&r, NULL, 0);
}

void on_cell_removed(struct cell *c) {
    struct keeper_reply r = event(KEEPER_CELL_DESTROY, c);
    r.tag = c->destroy_tag;
    report.cells--;
    send_reply(&r, NULL, 0);
}

/* ---- requests ---- */

static struct cell *wanted(const struct keeper_request *q, struct err *e) {
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
    int rc = cell_fill(c, (int)q->slot, z->pid, zygote_take_spare(z), &z->image, z->language, e);
    report.ferry_us_last = (uint64_t)(monotonic_us() - t);
    report.contexts_made += !rc;
    return rc;
}

static void do_cell_make(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = NULL;
    int64_t t = monotonic_us();
    if (!q->language || warm(q->template_id, q->language, &e)) c = cell_make(q->id, q->template_id, &q->limits, NULL, &e);
    report.cell_make_us_last = (uint64_t)(monotonic_us() - t);
    if (!c) {
        answer(&r, -1, &e, NULL, 0);
        return;
    }
    report.cells++;
    report.cells_made++;
    int rc = q->language ? fill(c, q, &e) : 0;
    const struct context *x = &c->context[q->slot % KEEPER_SLOTS];
    const int fds[4] = {c->guest_fd, x->control_fd, x->stdout_fd, x->stderr_fd};
    r.cell = cell_index(c);
    r.serial = c->serial;
    answer(&r, rc, &e, fds, q->language ? 4 : 1);
    if (rc) {
        report.cells--;
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

static void do_capture(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    struct capture *k = c ? capture_cell(c, q->capture, &e) : NULL;
    r.frozen_us = k ? (uint32_t)k->frozen_us : 0;
    answer(&r, k ? 0 : -1, &e, NULL, 0);
}

static void do_capture_make(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    int fds[KEEPER_FDS_MAX];
    struct capture *k = capture_find(q->capture);
    if (!k) err_set(&e, ERR_NOT_FOUND, "no such capture");
    struct cell *c = k ? capture_make_cell(k, q->id, &e) : NULL;
    if (!c) {
        answer(&r, -1, &e, NULL, 0);
        return;
    }
    report.cells++;
    report.cells_made++;
    r.cell = cell_index(c);
    r.serial = c->serial;
    size_t n = all_streams(c, &r.slots, fds);
    answer(&r, 0, NULL, fds, n);
}

static void do_capture_drop(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct capture *k = capture_find(q->capture);
    if (k) capture_drop(k);
    answer(&r, k ? 0 : err_set(&e, ERR_NOT_FOUND, "no such capture"), &e, NULL, 0);
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
    report.zygotes += !rc;
    answer(&r, rc, &e, NULL, 0);
}

static void do_list(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    for (uint32_t i = 0; i < KEEPER_CELLS_MAX; i++) {
        struct cell *c = &cells[i];
        if (!c->used || c->dying) continue;
        struct keeper_reply found = event(KEEPER_EVENT_FOUND, c);
        int fds[KEEPER_FDS_MAX];
        size_t n = all_streams(c, &found.slots, fds);
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
        case KEEPER_CELL_FREEZE: rc = cgroup_freeze(c->id, q->on != 0, &e); break;
        case KEEPER_CELL_STATS: rc = cell_stats(c, &r.stats, &e); break;
        case KEEPER_CONTEXT_SIGNAL: rc = cell_signal(c, (int)q->slot, q->signo, &e); break;
        default: rc = err_set(&e, ERR_INVALID, "no such operation"); break;
        }
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

static void serve(struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    q->id[sizeof q->id - 1] = q->template_id[sizeof q->template_id - 1] = 0;
    switch (q->op) {
    case KEEPER_HELLO:
        r.report = report;
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
    close_fd(&client);
    client = fd;
    log_info("daemon connected (pid %d)", peer.pid);
}

static void read_client(void) {
    struct keeper_request q;
    ssize_t n = recv(client, &q, sizeof q, MSG_DONTWAIT | MSG_TRUNC);
    if (n == (ssize_t)sizeof q && q.magic == KEEPER_MAGIC) {
        serve(&q);
        return;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    log_warn("daemon gone%s; cells live on", n > 0 ? " (it does not speak this keeper's protocol)" : "");
    close_fd(&client);
}

/* Sentinels must never run: nothing lets one go. */
static bool is_sentinel(pid_t pid) { return zygote_has_sentinel(pid) || cell_has_sentinel(pid) || capture_has_sentinel(pid); }

/* A stop nobody waits for: a thread that did not stop in time for a fork and does now. */
static void let_go(pid_t pid, int status) {
    int signo = status >> 16 ? 0 : WSTOPSIG(status);
    if (!is_sentinel(pid)) (void)ptrace(PTRACE_DETACH, pid, 0, signo);
}

static void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;) {
        if (WIFSTOPPED(status)) {
            let_go(pid, status);
            continue;
        }
        if (cell_reaped(pid, status) || capture_reaped(pid) || zygote_spare_reaped(pid)) continue;
        for (size_t i = 0; i < ZYGOTES_MAX; i++) {
            struct zygote *z = &zygotes[i];
            if (z->pid != pid) continue;
            struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = KEEPER_EVENT_ZYGOTE_GONE, .language = (uint32_t)z->language};
            (void)snprintf(r.template_id, sizeof r.template_id, "%s", z->template_id);
            if (z->ready_fd >= 0) zygote_spoke(z); /* died while warming up: the waiting request gets its answer */
            if (z->ready) {
                report.zygotes--;
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
        struct pollfd p[3 + ZYGOTES_MAX] = {{signals, POLLIN, 0}, {listen_fd, POLLIN, 0}, {client, POLLIN, 0}};
        for (size_t i = 0; i < ZYGOTES_MAX; i++) p[3 + i] = (struct pollfd){zygotes[i].pid ? zygotes[i].ready_fd : -1, POLLIN, 0};
        int spoke = poll(p, 3 + ZYGOTES_MAX, waiting ? 2 : spares ? SPARE_WAIT_MS : -1);
        if (spoke < 0 && errno != EINTR) return err_sys(e, errno, "poll");
        spares = spoke || zygotes_make_spare(); /* whatever happened may have used one up */
        struct signalfd_siginfo info;
        while (read(signals, &info, sizeof info) == sizeof info)
            if (info.ssi_signo != SIGCHLD) return 0;
        reap();
        for (size_t i = 0; i < ZYGOTES_MAX; i++)
            if (p[3 + i].revents && zygotes[i].pid && zygotes[i].ready_fd == p[3 + i].fd) zygote_spoke(&zygotes[i]);
        waiting = cell_sweep();
        if (p[1].revents) take_client(listen_fd, daemon_uid);
        if (client >= 0 && p[2].fd == client && p[2].revents) read_client();
    }
}
