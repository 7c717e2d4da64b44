#include "keeper/machine_save.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/layers.h"
#include "keeper/machine_copy.h"
#include "keeper/machine_files.h"

struct save {
    struct watch watch; /* first: the child that makes a base durable */
    bool used;
    struct vmm *vmm;    /* that writes, or whose machine becomes a base; NULL: it is gone, and had written */
    struct saved saved;
    int64_t until_ms;
    int dir;            /* of the template's machines; -1: not a base */
    int fd[2];          /* state, memory */
};
static struct save saves[SAVES_MAX];

struct outcome { /* what the child writes: at most PIPE_BUF, so whole or not at all */
    int failed;
    uint64_t bytes;
    struct err err;
};

static struct save *begin(uint32_t op, uint64_t tag, struct vmm *v, struct err *e) {
    for (size_t i = 0; i < SAVES_MAX; i++) {
        if (saves[i].used) continue;
        saves[i] = (struct save){.watch.fd = -1, .used = true, .vmm = v, .saved = {.op = op, .tag = tag}, .until_ms = monotonic_ms() + SAVE_MS, .dir = -1, .fd = {-1, -1}};
        return &saves[i];
    }
    err_set(e, ERR_LIMIT, "%d machines are being written to files", SAVES_MAX);
    return NULL;
}

static void end(struct save *s) {
    watch_end(&s->watch);
    close_fd(&s->dir);
    close_fd(&s->fd[0]);
    close_fd(&s->fd[1]);
    if (s->vmm) s->vmm->later = 0;
    s->used = false;
}

/* Tell it, and what becomes of the machine of a base: one that failed leaves no files. */
static void finish(struct save *s, int rc, const struct err *e) {
    struct machine *m = s->dir >= 0 ? (struct machine *)s->vmm : NULL;
    struct err ignored;
    if (rc && s->dir >= 0) base_drop(s->dir, s->saved.base);
    const struct saved said = s->saved;
    end(s);
    on_saved(&said, rc, e);
    if (!m) return;
    m->writing = false;
    if (rc && !m->vmm.over) (void)machine_resume(m->cell, &ignored);
    if (rc) return;
    on_machine_ended();
    cell_destroy(m->cell); /* after the answer: whoever reads it expects the connections to end */
}

static struct save *of(const struct vmm *v) {
    for (size_t i = 0; i < SAVES_MAX; i++)
        if (saves[i].used && saves[i].vmm == v) return &saves[i];
    return NULL;
}

static int failed(int status, const char *text, struct err *e) {
    err_set(e, err_code_of_errno(status), "the machine was not written: %.200s", text[0] ? text : strerror(status));
    e->sys_errno = status;
    return -1;
}

static int ask(struct save *s, uint64_t flags, void (*done)(struct vmm *, int, const uint64_t[6], const char *), struct err *e) {
    const struct vmm_ask ask = {.arg = {flags}, .fd = {s->fd[0], s->fd[1]}, .fds = 2};
    s->vmm->on_later = done;
    return (s->vmm->later = vmm_send(s->vmm, VMM_SNAPSHOT, &ask, e)) ? 0 : -1;
}

/* ---- for an image ---- */

static void save_written(struct vmm *v, int status, const uint64_t arg[6], const char *text) {
    struct save *s = of(v);
    struct err e;
    struct stat st[2];
    (void)arg;
    if (!s) return;
    int rc = status ? failed(status, text, &e) : 0;
    if (!rc && (fstat(s->fd[0], &st[0]) || fstat(s->fd[1], &st[1]))) rc = err_sys(&e, errno, "the machine's files");
    if (!rc) s->saved.bytes = (uint64_t)(st[0].st_blocks + st[1].st_blocks) * 512;
    finish(s, rc, &e);
}

static int own_files(struct save *s, const int fds[2], struct err *e) {
    for (int i = 0; i < 2; i++) {
        struct stat st;
        const int mode = fds[i] < 0 || fstat(fds[i], &st) ? -1 : fcntl(fds[i], F_GETFL);
        if (mode < 0 || !S_ISREG(st.st_mode) || st.st_size || (mode & O_ACCMODE) == O_RDONLY) return err_set(e, ERR_INVALID, "a machine is saved to two empty files");
        if ((s->fd[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3)) < 0) return err_sys(e, errno, "the machine's files");
    }
    return 0;
}

int save_start(struct capture *k, const int fds[2], uint64_t tag, struct err *e) {
    struct dormant *d = k->machine;
    if (!d->base[0]) return err_set(e, ERR_CONFLICT, "a machine that was booted has no base to be saved against");
    if (saves_busy(&d->vmm)) return err_set(e, ERR_CONFLICT, "the capture is being written to files");
    struct save *s = begin(KEEPER_MACHINE_SAVE, tag, &d->vmm, e);
    if (!s) return -1;
    memcpy(s->saved.base, d->base, sizeof s->saved.base);
    s->saved.vcpus = d->vcpus;
    if (!own_files(s, fds, e) && !fault_error("keeper.save.ask", e) && !ask(s, VMM_SNAPSHOT_CHANGED, save_written, e)) return 0;
    end(s);
    return -1;
}

/* ---- a base ---- */

static void child_main(const struct save *s, int out) {
    struct outcome o = {0};
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    o.failed = fault_error("keeper.base.settle", &o.err) || base_finish(s->dir, s->saved.base, &o.bytes, &o.err);
    o.err.code = o.err.hint = NULL; /* addresses mean nothing elsewhere */
    _exit(write(out, &o, sizeof o) != sizeof o);
}

static void base_durable(struct watch *w) {
    struct save *s = (struct save *)w;
    struct outcome o;
    struct err e;
    int rc = 0;
    if (read(w->fd, &o, sizeof o) != sizeof o) {
        rc = err_set(&e, ERR_INTERNAL, "writing the base to the disk ended early");
    } else if (o.failed) {
        e = o.err;
        e.code = err_code_of_errno(o.err.sys_errno);
        rc = -1;
    } else {
        s->saved.bytes = o.bytes;
    }
    finish(s, rc, &e);
}

static int settle(struct save *s, struct err *e) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) return err_sys(e, errno, "pipe");
    s->watch = (struct watch){.fd = ends[0], .ready = base_durable};
    const pid_t pid = fork(); /* reaped like any child */
    if (!pid) child_main(s, ends[1]);
    const int why = errno;
    close(ends[1]);
    return pid < 0 ? err_sys(e, why, "fork") : watch_add(&s->watch, e);
}

/* The memory is in its file; the machine stands still until all is durable. */
static void base_written(struct vmm *v, int status, const uint64_t arg[6], const char *text) {
    struct save *s = of(v);
    struct err e;
    (void)arg;
    if (!s) return;
    fault_point("keeper.base.written");
    if (status) (void)failed(status, text, &e);
    if (status || layer_snapshot(((struct machine *)v)->cell->name, s->saved.base, &e) || settle(s, &e)) finish(s, -1, &e);
}

int base_start(struct cell *c, const char *name, uint64_t tag, struct err *e) {
    struct machine *m = c->machine;
    struct base_config config = {.magic = BASE_MAGIC, .memory_bytes = m->memory_bytes, .vcpus = m->vcpus};
    struct base_files files;
    struct stat st;
    if (!id_valid(name, "bas_")) return err_set(e, ERR_INVALID, "not the name of a base");
    if (m->base[0]) return err_set(e, ERR_CONFLICT, "only a machine that was booted can become a base");
    if (m->held) return err_set(e, ERR_CONFLICT, "the cell is being frozen");
    cleanup_close int dir = machine_usable(c, e) ? -1 : machine_dir(c->template_id, e);
    cleanup_close int disk = dir < 0 ? -1 : disk_open(c->name, e);
    if (disk < 0) return -1;
    if (!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) return err_set(e, ERR_EXISTS, "there is a base called %s already", name);
    if (fstat(disk, &st)) return err_sys(e, errno, "the machine's disk");
    config.disk_size = (uint64_t)st.st_size;
    for (uint32_t i = 0; i < KEEPER_SLOTS; i++) config.slots |= m->stream[i] >= 0 ? 1u << i : 0;
    if (vmm_ask(&m->vmm, VMM_PAUSE, NULL, VMM_ANSWER_MS, NULL, e)) return -1;
    struct save *s = begin(KEEPER_MACHINE_BASE, tag, &m->vmm, e);
    if (s && !base_begin(dir, name, &config, m->root_fd, &files, e)) {
        (void)snprintf(s->saved.base, sizeof s->saved.base, "%s", name);
        s->saved.cell = cell_index(c);
        s->saved.serial = c->serial;
        s->saved.vcpus = m->vcpus;
        s->dir = steal_fd(&dir);
        s->fd[0] = files.state;
        s->fd[1] = files.memory;
        m->writing = true;
        if (!ask(s, VMM_SNAPSHOT_BASE, base_written, e)) return 0;
        m->writing = false;
        base_drop(s->dir, name);
    }
    struct err ignored;
    if (s) end(s);
    if (!m->vmm.over) (void)vmm_ask(&m->vmm, VMM_RESUME, NULL, VMM_ANSWER_MS, NULL, &ignored);
    return -1;
}

/* ---- all of them ---- */

bool saves_busy(const struct vmm *v) { return of(v) != NULL; }

bool saves_waiting(void) {
    for (size_t i = 0; i < SAVES_MAX; i++)
        if (saves[i].used && saves[i].vmm && saves[i].vmm->later) return true;
    return false;
}

void saves_check(void) {
    for (size_t i = 0; i < SAVES_MAX; i++) {
        if (!saves[i].used || !saves[i].vmm || !saves[i].vmm->later || monotonic_ms() < saves[i].until_ms) continue;
        log_warn("a machine was not written within %d s", SAVE_MS / 1000);
        cgroup_kill(saves[i].vmm->group); /* its end is heard of */
        saves[i].until_ms = INT64_MAX;
    }
}

void saves_stop(struct vmm *v) {
    struct save *s = of(v);
    struct err e;
    if (!s) return;
    s->vmm = NULL;
    v->later = 0;
    if (s->watch.fd < 0) finish(s, failed(EPIPE, "the machine ended", &e), &e);
}

void saves_forget(void) {
    for (size_t i = 0; i < SAVES_MAX; i++) saves[i].saved.tag = 0;
}
