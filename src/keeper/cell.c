#include "keeper/cell.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/ferry.h"
#include "keeper/host.h"
#include "keeper/layers.h"
#include "keeper/machine.h"

struct cell cells[KEEPER_CELLS_MAX];
static uint32_t highest; /* entries above were never used */

struct cell *cell_find(uint32_t index, uint32_t serial) {
    struct cell *c = index < KEEPER_CELLS_MAX ? &cells[index] : NULL;
    return c && cell_alive(c) && c->serial == serial ? c : NULL;
}

struct cell *cell_called(const char *id) {
    for (uint32_t i = 0; i < highest; i++)
        if (cell_alive(&cells[i]) && !strcmp(cells[i].id, id)) return &cells[i];
    return NULL;
}

bool cell_alive(const struct cell *c) { return c->used && !c->dying && c->serial; }

uint32_t cell_index(const struct cell *c) { return (uint32_t)(c - cells); }

struct cell *cell_entry(void) {
    for (uint32_t i = 0; i < KEEPER_CELLS_MAX; i++) {
        struct cell *c = &cells[i];
        if (c->used) continue;
        if (i >= highest) highest = i + 1;
        *c = (struct cell){.used = true, .guest_fd = -1, .slot_fd = -1, .blank.sync_fd = -1};
        for (int slot = 0; slot < KEEPER_SLOTS; slot++) c->context[slot].control_fd = c->context[slot].stdout_fd = c->context[slot].stderr_fd = -1;
        id_make(c->name, "cel_");
        return c;
    }
    return NULL;
}

struct cell *cell_waiting(int *count) {
    struct cell *first = NULL;
    *count = 0;
    for (uint32_t i = highest; i-- > 0;) {
        if (!cells[i].used || cells[i].dying || cells[i].serial) continue;
        first = &cells[i];
        ++*count;
    }
    return first;
}

void cell_clear(struct cell *c) {
    if (c->machine) machine_free(c->machine);
    c->machine = NULL;
    close_fd(&c->guest_fd);
    close_fd(&c->slot_fd);
    close_fd(&c->blank.sync_fd);
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        close_fd(&c->context[i].control_fd);
        close_fd(&c->context[i].stdout_fd);
        close_fd(&c->context[i].stderr_fd);
    }
    c->used = false;
}

static pid_t copy_ahead(const struct cell_memory *m, struct err *e) {
    inject_deadline(10000);
    pid_t copy = sentinel_copy(m->sentinel, m->image, e);
    inject_deadline(0);
    return copy;
}

int cell_fill(struct cell *c, int slot, const struct cell_memory *m, struct notes *notes, struct err *e) {
    struct context *x = &c->context[slot];
    struct ferry_result r;
    struct notes lacks = {0};
    pid_t spare = m->spare;
    if (x->context || x->sentinel) {
        if (m->spare) kill(m->spare, SIGKILL); /* reaped like any child; belongs to nobody */
        return err_set(e, ERR_CONFLICT, "slot %d is taken", slot);
    }
    const struct ferry_target to = {.cell_name = c->name, .guest = c->guest, .slot_fd = c->slot_fd, .open_files = c->limits.open_files,
                                    .landlock = host.landlock_abi && !host.off[LAYER_LANDLOCK], .notes = &lacks};
    /* the copy is made while the cell still puts its root together */
    int rc = !spare && cell_starting(c) ? (spare = copy_ahead(m, e)) < 0 : 0;
    if (!rc && (rc = cell_ready(c, e)) && spare > 0) kill(spare, SIGKILL);
    if (!rc) rc = ferry(m->sentinel, spare, m->image, &to, &r, e);
    if (notes && !rc) notes_append(notes, &lacks, (uint32_t)slot);
    notes_free(&lacks);
    if (rc) return -1;
    *x = (struct context){.context = r.context, .sentinel = r.sentinel, .language = m->language, .zygote = m->zygote,
                          .control_fd = r.control_fd, .stdout_fd = r.stdout_fd, .stderr_fd = r.stderr_fd};
    return 0;
}

/* The name the cell's programs see. The helper shares the keeper's memory (vfork); only it enters the cell's namespace. */
static int set_hostname(const struct cell *c, const char *id, struct err *e) {
    char path[64], text[16];
    (void)snprintf(path, sizeof path, "/proc/%d/ns/uts", c->guest); /* not reaped yet: the number is its own */
    cleanup_close int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0) return err_sys(e, errno, "open %s", path);
    cell_hostname(text, id);
    volatile int failed = 0;
    pid_t helper = vfork();
    if (helper < 0) return err_sys(e, errno, "vfork");
    if (!helper) {
        if (setns(ns, CLONE_NEWUTS) || sethostname(text, strlen(text))) failed = errno;
        _exit(0);
    }
    while (waitpid(helper, NULL, 0) < 0 && errno == EINTR) continue;
    return failed ? err_sys(e, failed, "set the host name of a cell") : 0;
}

int cell_rename(struct cell *c, const char *id, struct err *e) {
    if (!id_valid(id, "sbx_")) return err_set(e, ERR_INVALID, "not a cell id");
    struct cell *old = cell_called(id);
    if (old == c) return 0;
    fault_point("keeper.rename.before");
    if (fault_error("keeper.rename.hostname", e)) return -1;
    if (!c->machine && set_hostname(c, id, e)) return -1; /* a machine is told by the daemon */
    /* from here on nothing can fail */
    if (old) cell_destroy(old);
    (void)snprintf(c->id, sizeof c->id, "%s", id);
    fault_point("keeper.rename.after");
    return 0;
}

int cell_pause(struct cell *c, bool on, struct err *e) {
    if (c->machine) return machine_freeze(c, on, e);
    if (cgroup_freeze(c->name, on, e)) return -1;
    c->paused = on;
    return 0;
}

int cell_limit(struct cell *c, const struct keeper_limits *l, struct err *e) {
    if (cell_check_limits(l, e)) return -1;
    if (c->machine ? machine_limit(c->name, l, c->machine->vcpus, e) : cgroup_limit(c->name, l, e)) return -1;
    if (c->machine ? machine_disk_limit(c->name, l->disk_bytes, e) : layer_limit(c->name, l->disk_bytes, e)) return -1;
    c->limits = *l;
    if (c->machine) return 0;
    struct rlimit files = {l->open_files, l->open_files};
    (void)prlimit(c->guest, RLIMIT_NOFILE, &files, NULL);
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (c->context[i].context) (void)prlimit(c->context[i].context, RLIMIT_NOFILE, &files, NULL);
    return 0;
}

int cell_signal(struct cell *c, int slot, int signo, struct err *e) {
    if (slot < 0 || slot >= KEEPER_SLOTS || !c->context[slot].context) return err_set(e, ERR_NOT_FOUND, "no context in this slot");
    if (signo <= 0 || signo > 64) return err_set(e, ERR_INVALID, "no signal %d", signo);
    /* a child that is not reaped yet: the number cannot belong to anybody else */
    return kill(c->context[slot].context, signo) ? err_sys(e, errno, "signal %d", signo) : 0;
}

int cell_stats(struct cell *c, struct keeper_stats *s, struct err *e) {
    *s = (struct keeper_stats){.disk_bytes = layer_used(c->name)};
    return cgroup_stats(c->name, s, e);
}

void cell_destroy(struct cell *c) {
    c->dying = true;
    (void)cgroup_freeze(c->name, false, &(struct err){0});
    cgroup_kill(c->name);
    if (c->machine) machine_stop(c->machine);
}

void cells_forget_requests(void) {
    for (uint32_t i = 0; i < highest; i++) cells[i].destroy_tag = 0;
}

static bool empty(const struct cell *c) {
    if (c->guest) return false;
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (c->context[i].context || c->context[i].sentinel) return false;
    return true;
}

/* Nothing runs any more: give back groups and disk. A group stays busy for a moment while its last task leaves. */
static bool remove_rest(struct cell *c) {
    struct err e;
    if (cgroup_remove(c->name)) return false;
    if (layer_remove(c->name, &e)) log_warn("%s", e.text);
    cell_clear(c); /* before the answer: it means that nothing is left */
    if (c->destroy_asked) on_cell_removed(c);
    return true;
}

bool cell_sweep(void) {
    bool waiting = false;
    for (uint32_t i = 0; i < highest; i++)
        if (cells[i].used && cells[i].dying && empty(&cells[i]) && !remove_rest(&cells[i])) waiting = true;
    return waiting;
}

static enum keeper_fate fate_of(struct cell *c, int status) {
    uint64_t kills = cgroup_oom_kills(c->name);
    bool oom = kills > c->oom_seen;
    c->oom_seen = kills;
    if (!WIFSIGNALED(status)) return KEEPER_FATE_EXITED;
    return oom && WTERMSIG(status) == SIGKILL ? KEEPER_FATE_OOM : KEEPER_FATE_KILLED;
}

static void context_ended(struct cell *c, int slot) {
    struct context *x = &c->context[slot];
    close_fd(&x->control_fd);
    close_fd(&x->stdout_fd);
    close_fd(&x->stderr_fd);
    if (c->dying || x->waits) return;
    int status = x->status;
    on_context_exit(c, slot, fate_of(c, status), WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

bool cell_has_sentinel(pid_t pid) {
    for (uint32_t i = 0; i < highest; i++)
        for (int slot = 0; cells[i].used && slot < KEEPER_SLOTS; slot++)
            if (cells[i].context[slot].sentinel == pid) return true;
    return false;
}

bool cell_reaped(pid_t pid, int status) {
    for (uint32_t i = 0; i < highest; i++) {
        struct cell *c = &cells[i];
        if (!c->used) continue;
        if (c->guest == pid) {
            c->guest = 0;
            if (!c->dying) {
                if (c->serial) on_cell_gone(c, fate_of(c, status));
                cell_destroy(c);
            }
            return true;
        }
        for (int slot = 0; slot < KEEPER_SLOTS; slot++) {
            struct context *x = &c->context[slot];
            if (x->context != pid && x->sentinel != pid) continue;
            if (x->context == pid) {
                x->context = 0;
                x->status = status;
                if (x->sentinel) kill(x->sentinel, SIGKILL); /* its memory has no reader left */
            } else {
                x->sentinel = 0;
            }
            if (!x->context && !x->sentinel) context_ended(c, slot);
            return true;
        }
    }
    return false;
}
