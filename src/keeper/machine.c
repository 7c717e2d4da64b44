#include "keeper/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/host.h"
#include "keeper/layers.h"
#include "keeper/machine_copy.h"
#include "keeper/machine_files.h"
#include "keeper/machine_save.h"
#include "wire/machine_proto.h"

/* `quiet` because nobody reads it but who looks for a failure; reboot=t: a guest ends its machine by a triple fault. */
#define KERNEL_LINE "console=ttyS0 reboot=t panic=-1 pci=off tsc=reliable quiet cella.machine"

static uint32_t host_port(uint32_t number) {
    return number == MACHINE_CONTROL ? MACHINE_HOST_CONTROL : number == MACHINE_GUEST ? MACHINE_HOST_GUEST : MACHINE_HOST_CONTEXT + number;
}

/* ---- groups ---- */

int machine_limit(const char *name, const struct keeper_limits *l, uint32_t vcpus, struct err *e) {
    struct keeper_limits group = *l;
    if (host.off[LAYER_LIMITS]) return 0;
    group.memory_bytes += MACHINE_MEMORY_EXTRA;
    group.pids_max = 1 + vcpus + 1 + 1; /* the loop, the vCPUs, the worker of kernels since 6.13, a fork or writer at the moment it is made */
    return cgroup_limit(name, &group, e);
}

int machine_group(const char *name, const struct keeper_limits *l, uint32_t vcpus, struct err *e) {
    if (cgroup_make(name, NULL, e)) return -1;
    if (!l || !machine_limit(name, l, vcpus, e)) return 0;
    (void)cgroup_remove(name);
    return -1;
}

/* ---- the cell ---- */

static struct machine *allocate(struct cell *c, const struct machine_wish *w) {
    struct machine *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->vmm.watch.fd = m->root_fd = -1;
    m->cell = c;
    m->vcpus = w->vcpus;
    m->memory_bytes = w->memory_bytes;
    for (size_t i = 0; i < MACHINE_STREAMS; i++) m->stream[i] = -1;
    if (w->base) (void)snprintf(m->base, sizeof m->base, "%s", w->base);
    return m;
}

int machine_disk_limit(const char *layer, uint64_t disk_bytes, struct err *e) { return layer_limit(layer, disk_bytes + MACHINE_DISK_EXTRA, e); }

static int make_layer(const struct cell *c, const struct machine_wish *w, struct err *e) {
    const struct cell_files *f = &w->files;
    struct machine *m = c->machine;
    if (f->layer && !f->take) {
        (void)snprintf(m->disk_from, sizeof m->disk_from, "%s", f->layer);
        if (snapshot_prepare(&m->disk, m->disk_from, c->name, e)) return -1;
        snapshot_go(&m->disk);
        return 0;
    }
    if (f->layer ? layer_rename(f->layer, c->name, e) : layer_make_empty(c->name, w->limits->disk_bytes, e)) return -1;
    return machine_disk_limit(c->name, w->limits->disk_bytes, e);
}

static int layer_ready(struct machine *m, struct err *e) {
    if (!m->disk.made) return 0;
    return snapshot_end(&m->disk, e) || machine_disk_limit(m->cell->name, m->cell->limits.disk_bytes, e) ? -1 : 0;
}

struct cell *machine_cell(const struct machine_wish *w, struct err *e) {
    if (!id_valid(w->id, "sbx_")) return err_set(e, ERR_INVALID, "not a cell id"), NULL;
    if (cell_called(w->id)) return err_set(e, ERR_EXISTS, "a cell is called %s already", w->id), NULL;
    if (cell_check_limits(w->limits, e)) return NULL;
    struct cell *c = cell_entry();
    if (!c) return err_set(e, ERR_LIMIT, "%d cells are alive", KEEPER_CELLS_MAX), NULL;
    c->machine = allocate(c, w);
    if (!c->machine || fault_error("keeper.machine.group", e) || machine_group(c->name, w->limits, w->vcpus, e)) {
        if (!c->machine) err_sys(e, ENOMEM, "machine");
        cell_clear(c);
        return NULL;
    }
    c->serial = cell_next_serial();
    c->limits = *w->limits;
    (void)snprintf(c->id, sizeof c->id, "%s", w->id);
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", w->template_id);
    (void)snprintf(c->machine->vmm.group, sizeof c->machine->vmm.group, "%s", c->name);
    if (!fault_error("keeper.machine.layer", e) && !make_layer(c, w, e)) return c;
    cell_destroy(c);
    return NULL;
}

/* ---- connections ---- */

static int stream_pair(struct machine *m, uint32_t number, int *theirs, struct err *e) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends)) return err_sys(e, errno, "connection to a machine");
    close_fd(&m->stream[number]);
    m->stream[number] = ends[0];
    *theirs = ends[1];
    return 0;
}

int machine_connect(struct machine *m, uint32_t number, struct err *e) {
    int theirs;
    if (number >= MACHINE_STREAMS) return err_set(e, ERR_INVALID, "no such slot");
    if (stream_pair(m, number, &theirs, e)) return -1;
    const struct vmm_ask ask = {.arg = {MACHINE_PORT, VMM_STREAM_PACKETS, host_port(number)}, .fd = {theirs}, .fds = 1};
    const int rc = vmm_ask(&m->vmm, VMM_CONNECT, &ask, VMM_ANSWER_MS, NULL, e);
    close(theirs);
    if (rc) close_fd(&m->stream[number]);
    return rc ? -1 : m->stream[number];
}

/* Something that says "ended" at once, where the machine has no such connection. */
static int ended_stream(struct machine *m, uint32_t number) {
    struct err e;
    int theirs;
    if (m->stream[number] < 0 && !stream_pair(m, number, &theirs, &e)) close(theirs);
    return m->stream[number];
}

size_t machine_streams(struct machine *m, uint32_t *slots, int fds[KEEPER_FDS_MAX]) {
    size_t n = 0;
    *slots = 0;
    fds[n++] = ended_stream(m, MACHINE_CONTROL);
    fds[n++] = ended_stream(m, MACHINE_GUEST);
    for (uint32_t slot = 0; slot < KEEPER_SLOTS; slot++) {
        if (m->stream[slot] < 0) continue;
        *slots |= 1u << slot;
        fds[n++] = m->stream[slot];
    }
    return n;
}

/* ---- fitting it out ---- */

static uint32_t give(struct machine *m, enum vmm_type type, uint64_t a, uint64_t b, int fd, struct err *e) {
    const struct vmm_ask ask = {.arg = {a, b}, .fd = {fd}, .fds = 1};
    const uint32_t seq = vmm_send(&m->vmm, type, &ask, e);
    close(fd);
    return seq;
}

static int fit_disk(struct machine *m, struct machine_fitting *f, struct err *e) {
    const int fd = disk_open(m->cell->name, e);
    return fd < 0 || !(f->disk = give(m, VMM_DISK, MACHINE_DISK_PRIVATE, 0, fd, e)) ? -1 : 0;
}

static int fit_console(struct machine *m, int dir, struct machine_fitting *f, struct err *e) {
    const int fd = console_make(dir, m->base[0] ? m->cell->name : NULL, e);
    return fd < 0 || !(f->console = give(m, VMM_CONSOLE_TO, CONSOLE_BYTES, 0, fd, e)) ? -1 : 0;
}

int machine_fit(struct machine *m, int dir, struct machine_fitting *f, struct err *e) {
    return layer_ready(m, e) || fit_disk(m, f, e) || fit_console(m, dir, f, e) ? -1 : 0;
}

int machine_attach(struct machine *m, uint64_t streams, struct machine_fitting *f, struct err *e) {
    for (uint32_t i = 0; i < MACHINE_STREAMS; i++) {
        int theirs;
        if (!(streams & MACHINE_BIT(i))) continue;
        if (stream_pair(m, i, &theirs, e) || !(f->attach[i] = give(m, VMM_ATTACH, host_port(i), 0, theirs, e))) return -1;
    }
    return 0;
}

static const char *stream_name(uint32_t i) { return i == MACHINE_CONTROL ? "for its control" : i == MACHINE_GUEST ? "to its guest" : "to its first context"; }

int machine_fitted(struct machine *m, const struct machine_fitting *f, uint64_t needed, struct err *e) {
    struct vmm *v = &m->vmm;
    if (vmm_wait(v, f->disk, VMM_DISK, VMM_ANSWER_MS, NULL, e) || vmm_wait(v, f->console, VMM_CONSOLE_TO, VMM_ANSWER_MS, NULL, e)) return -1;
    if (f->restore && vmm_wait(v, f->restore, VMM_RESTORE, VMM_RESTORE_MS, NULL, e)) return -1;
    for (uint32_t i = 0; i < MACHINE_STREAMS; i++) {
        if (!f->attach[i] || !vmm_wait(v, f->attach[i], VMM_ATTACH, VMM_ANSWER_MS, NULL, e)) continue;
        if (v->over || e->sys_errno != ENOENT) return -1;
        if (needed & MACHINE_BIT(i)) return err_set(e, ERR_CONFLICT, "the machine has no connection %s", stream_name(i));
        close_fd(&m->stream[i]);
    }
    return 0;
}

int machine_configure(struct vmm *v, int root_fd, uint64_t memory_bytes, uint32_t vcpus, bool track, struct err *e) {
    const struct vmm_ask config = {.arg = {memory_bytes, vcpus, track ? VMM_CONFIG_TRACK : 0}};
    const struct vmm_ask disk = {.arg = {MACHINE_DISK_ROOT, VMM_DISK_READ_ONLY}, .fd = {root_fd}, .fds = 1};
    return vmm_ask(v, VMM_CONFIG, &config, VMM_ANSWER_MS, NULL, e) || vmm_ask(v, VMM_DISK, &disk, VMM_ANSWER_MS, NULL, e) ? -1 : 0;
}

static void spoke(struct watch *w) {
    struct vmm *v = (struct vmm *)w;
    vmm_hear(v);
}

int machine_run(struct machine *m, struct err *e) {
    if (vmm_ask(&m->vmm, VMM_RESUME, NULL, VMM_ANSWER_MS, NULL, e)) return -1;
    m->vmm.watch.ready = spoke;
    return watch_add(&m->vmm.watch, e);
}

/* ---- boot ---- */

static int boot(struct machine *m, int dir, struct err *e) {
    struct machine_fitting f = {0};
    cleanup_close int kernel = machine_file(dir, "kernel", e), initrd = kernel < 0 ? -1 : machine_file(dir, "initrd", e);
    if (initrd < 0 || (m->root_fd = machine_file(dir, "root.erofs", e)) < 0 || disk_fresh(dir, m->cell->name, e)) return -1;
    if (vmm_start(&m->vmm, false, e) || machine_configure(&m->vmm, m->root_fd, m->memory_bytes, m->vcpus, false, e)) return -1;
    if (machine_fit(m, dir, &f, e) || machine_fitted(m, &f, 0, e)) return -1;
    const struct vmm_ask start = {.text = KERNEL_LINE, .fd = {kernel, initrd}, .fds = 2};
    return vmm_ask(&m->vmm, VMM_BOOT, &start, VMM_BOOT_MS, NULL, e) || machine_run(m, e) ? -1 : 0;
}

struct cell *machine_boot(const char *id, const char *template_id, const struct keeper_limits *limits, uint32_t vcpus, struct err *e) {
    if (!vcpus || vcpus > VMM_VCPUS_MAX) return err_set(e, ERR_INVALID, "a machine has 1 to %d processors", VMM_VCPUS_MAX), NULL;
    cleanup_close int dir = machine_dir(template_id, e);
    if (dir < 0) return NULL;
    const struct machine_wish w = {.id = id, .template_id = template_id, .limits = limits, .vcpus = vcpus, .memory_bytes = limits->memory_bytes & ~((2ull << 20) - 1)};
    struct cell *c = machine_cell(&w, e);
    if (!c) return NULL;
    c->machine->vmm.uid = vmm_uid();
    if (!boot(c->machine, dir, e)) return c;
    cell_destroy(c);
    return NULL;
}

/* ---- standing still ---- */

int machine_resume(struct cell *c, struct err *e) {
    struct machine *m = c->machine;
    return m->held || c->paused || m->writing ? 0 : vmm_ask(&m->vmm, VMM_RESUME, NULL, VMM_ANSWER_MS, NULL, e);
}

int machine_freeze(struct cell *c, bool on, struct err *e) {
    struct machine *m = c->machine;
    if (c->paused == on) return 0;
    if (m->writing || m->vmm.over) return machine_usable(c, e);
    if (on && vmm_ask(&m->vmm, VMM_PAUSE, NULL, VMM_ANSWER_MS, NULL, e)) return -1;
    const int rc = cgroup_freeze_begin(c->name, on, e);
    struct err ignored;
    c->paused = on ? !rc : false;
    return machine_resume(c, rc ? &ignored : e) || rc ? -1 : 0;
}

/* ---- the end ---- */

int machine_usable(const struct cell *c, struct err *e) {
    const struct machine *m = c->machine;
    if (m->vmm.over) {
        err_set(e, ERR_LOST, "the machine is gone: %s", m->vmm.why);
        e->sys_errno = ENOENT;
        return -1;
    }
    if (m->writing) return err_set(e, ERR_CONFLICT, "the machine is being written to files");
    return c->paused ? err_set(e, ERR_CONFLICT, "the machine is frozen") : 0;
}

void machine_stop(struct machine *m) {
    struct err ignored;
    (void)snapshot_end(&m->disk, &ignored);
    saves_stop(&m->vmm);
    vmm_end(&m->vmm);
    close_fd(&m->root_fd);
    for (size_t i = 0; i < MACHINE_STREAMS; i++) close_fd(&m->stream[i]);
}

void machine_free(struct machine *m) {
    if (m->base[0]) console_drop(m->cell->template_id, m->cell->name);
    free(m);
}

void machines_settle(void) {
    if (!vmm_fell) return;
    vmm_fell = false;
    for (uint32_t i = 0; i < KEEPER_CELLS_MAX; i++) {
        struct cell *c = &cells[i];
        if (!cell_alive(c) || !c->machine || !c->machine->vmm.over) continue;
        const uint64_t kills = cgroup_oom_kills(c->name);
        log_info("machine %s: %s", c->id, c->machine->vmm.why);
        on_cell_gone(c, kills > c->oom_seen ? KEEPER_FATE_OOM : KEEPER_FATE_KILLED);
        cell_destroy(c);
    }
}
