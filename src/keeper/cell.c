#include "keeper/cell.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cell_start.h"
#include "keeper/cgroup.h"
#include "keeper/ferry.h"
#include "keeper/host.h"
#include "keeper/layers.h"

struct cell cells[KEEPER_CELLS_MAX];
static uint32_t next_serial = 1;
static uint32_t highest; /* entries above were never used */

struct cell *cell_find(uint32_t index, uint32_t serial) {
    struct cell *c = index < KEEPER_CELLS_MAX ? &cells[index] : NULL;
    return c && c->used && c->serial == serial && !c->dying ? c : NULL;
}

uint32_t cell_index(const struct cell *c) { return (uint32_t)(c - cells); }

static struct cell *free_entry(void) {
    for (uint32_t i = 0; i < KEEPER_CELLS_MAX; i++)
        if (!cells[i].used) {
            if (i >= highest) highest = i + 1;
            return &cells[i];
        }
    return NULL;
}

static int check_limits(const struct keeper_limits *l, struct err *e) {
    if (l->memory_bytes < 16u << 20) return err_set(e, ERR_INVALID, "a cell needs at least 16 MiB of memory");
    if (l->disk_bytes < 1u << 20) return err_set(e, ERR_INVALID, "a cell needs at least 1 MiB of disk");
    if (l->cpu_millis < 10 || l->cpu_millis > 1024000) return err_set(e, ERR_INVALID, "cpu must be 0.01 to 1024");
    if (l->pids_max < 8 || l->pids_max > 100000) return err_set(e, ERR_INVALID, "pids must be 8 to 100000");
    if (l->open_files < 1024 || l->open_files > 65536) return err_set(e, ERR_INVALID, "open files must be 1024 to 65536");
    return 0;
}

static int start(struct cell *c, struct err *e) {
    cleanup_close int template_fd = host_template_fd(c->template_id, e);
    if (template_fd < 0) return -1;
    cleanup_close int layer = layer_fd(c->id, e);
    if (layer < 0) return -1;
    int guest[2], slots[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, guest)) return err_sys(e, errno, "guest stream");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, slots)) {
        close(guest[0]), close(guest[1]);
        return err_sys(e, errno, "slot socket");
    }
    const struct cell_start s = {.id = c->id, .uid_base = HOST_UID_BASE + cell_index(c) * HOST_UID_RANGE, .template_fd = template_fd,
                                 .layer_fd = layer, .guest_stream_fd = guest[1], .slot_fd = slots[1], .limits = &c->limits};
    c->guest = cell_start(&s, e);
    close(guest[1]);
    close(slots[1]);
    c->guest_fd = guest[0];
    c->slot_fd = slots[0];
    return c->guest < 0 ? -1 : 0;
}

static void clear(struct cell *c) {
    close_fd(&c->guest_fd);
    close_fd(&c->slot_fd);
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        close_fd(&c->context[i].control_fd);
        close_fd(&c->context[i].stdout_fd);
        close_fd(&c->context[i].stderr_fd);
    }
    c->used = false;
}

static int make_layer(const struct cell *c, const char *from, struct err *e) {
    if (!from) return layer_make(c->id, c->limits.disk_bytes, e);
    if (layer_snapshot(from, c->id, e)) return -1;
    return layer_limit(c->id, c->limits.disk_bytes, e);
}

struct cell *cell_make(const char *id, const char *template_id, const struct keeper_limits *limits, const char *layer, struct err *e) {
    struct cell *c = free_entry();
    if (!id_valid(id, "sbx_")) return err_set(e, ERR_INVALID, "not a cell id"), NULL;
    if (check_limits(limits, e)) return NULL;
    if (!c) return err_set(e, ERR_LIMIT, "%d cells are alive", KEEPER_CELLS_MAX), NULL;
    *c = (struct cell){.used = true, .serial = next_serial++, .guest_fd = -1, .slot_fd = -1, .limits = *limits};
    for (int i = 0; i < KEEPER_SLOTS; i++) c->context[i].control_fd = c->context[i].stdout_fd = c->context[i].stderr_fd = -1;
    (void)snprintf(c->id, sizeof c->id, "%s", id);
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", template_id);
    if (!make_layer(c, layer, e)) {
        if (!cgroup_make(c->id, host.off[LAYER_LIMITS] ? NULL : limits, e) && !start(c, e)) return c;
        struct err ignored;
        (void)layer_remove(c->id, &ignored);
        (void)cgroup_remove(c->id);
    }
    clear(c);
    return NULL;
}

int cell_fill(struct cell *c, int slot, pid_t sentinel, pid_t spare, const struct image *im, int language, struct err *e) {
    struct context *x = &c->context[slot];
    struct ferry_result r;
    if (x->context || x->sentinel) {
        if (spare) kill(spare, SIGKILL); /* reaped like any child; belongs to nobody */
        return err_set(e, ERR_CONFLICT, "slot %d is taken", slot);
    }
    const struct ferry_target to = {.cell_name = c->id, .guest = c->guest, .slot_fd = c->slot_fd, .open_files = c->limits.open_files,
                                    .landlock = host.landlock_abi && !host.off[LAYER_LANDLOCK]};
    if (ferry(sentinel, spare, im, &to, &r, e)) return -1;
    *x = (struct context){.context = r.context, .sentinel = r.sentinel, .language = language,
                          .control_fd = r.control_fd, .stdout_fd = r.stdout_fd, .stderr_fd = r.stderr_fd};
    return 0;
}

int cell_limit(struct cell *c, const struct keeper_limits *l, struct err *e) {
    if (check_limits(l, e)) return -1;
    if (cgroup_limit(c->id, l, e) || layer_limit(c->id, l->disk_bytes, e)) return -1;
    struct rlimit files = {l->open_files, l->open_files};
    (void)prlimit(c->guest, RLIMIT_NOFILE, &files, NULL);
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (c->context[i].context) (void)prlimit(c->context[i].context, RLIMIT_NOFILE, &files, NULL);
    c->limits = *l;
    return 0;
}

int cell_signal(struct cell *c, int slot, int signo, struct err *e) {
    if (slot < 0 || slot >= KEEPER_SLOTS || !c->context[slot].context) return err_set(e, ERR_NOT_FOUND, "no context in this slot");
    if (signo <= 0 || signo > 64) return err_set(e, ERR_INVALID, "no signal %d", signo);
    /* a child that is not reaped yet: the number cannot belong to anybody else */
    return kill(c->context[slot].context, signo) ? err_sys(e, errno, "signal %d", signo) : 0;
}

int cell_stats(struct cell *c, struct keeper_stats *s, struct err *e) {
    *s = (struct keeper_stats){.disk_bytes = layer_used(c->id)};
    return cgroup_stats(c->id, s, e);
}

void cell_destroy(struct cell *c) {
    c->dying = true;
    (void)cgroup_freeze(c->id, false, &(struct err){0});
    cgroup_kill(c->id);
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
    if (cgroup_remove(c->id)) return false;
    if (layer_remove(c->id, &e)) log_warn("%s", e.text);
    clear(c); /* before the answer: it means that nothing is left */
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
    uint64_t kills = cgroup_oom_kills(c->id);
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
    if (c->dying) return;
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
                on_cell_gone(c, fate_of(c, status));
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
