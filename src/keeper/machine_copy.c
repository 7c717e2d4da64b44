#include "keeper/machine_copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/layers.h"
#include "keeper/machine_files.h"
#include "keeper/machine_save.h"
#include "keeper/machine_template.h"

#define FLUSH_BYTES (512u << 10) /* as capture.c: for less it is not worth a second snapshot */

/* ---- the capture ---- */

static void heard(struct watch *w) {
    struct vmm *v = (struct vmm *)w;
    vmm_hear(v);
    if (v->over) vmm_end(v); /* the capture stays, and says so when it is asked for */
}

static int fork_dormant(struct vmm *from, struct vmm *to, struct err *e) {
    const int theirs = fault_error("keeper.machine.fork", e) ? -1 : vmm_pair(to, e);
    if (theirs < 0 || vmm_fork(from, to, theirs, e) || vmm_forked(from, to, e)) return -1;
    to->watch.ready = heard;
    return watch_add(&to->watch, e);
}

/* Disk and memory of one instant: the snapshot is taken by another thread while the memory is forked. */
static int stand_still(struct capture *k, struct cell *c, bool hold, struct err *e) {
    struct machine *m = c->machine;
    struct dormant *d = k->machine;
    struct snapshot disk = {0};
    struct err other;
    if (snapshot_prepare(&disk, c->name, k->layer, e)) return -1;
    const int64_t from = monotonic_us();
    /* a frozen monitor cannot answer; its machine is paused, and stays so */
    int rc = c->paused ? cgroup_freeze_begin(c->name, false, e) : 0;
    if (!rc) rc = vmm_ask(&m->vmm, VMM_PAUSE, NULL, VMM_ANSWER_MS, NULL, e);
    if (!rc) snapshot_go(&disk);
    if (!rc) rc = fork_dormant(&m->vmm, &d->vmm, e);
    if (snapshot_end(&disk, rc ? &other : e)) rc = -1;
    if (hold && !rc) {
        m->held = true;
        d->cell = cell_index(c);
        d->serial = c->serial;
    } else if (machine_resume(c, &other)) {
        log_warn("resume a machine: %s", other.text);
    }
    if (c->paused && cgroup_freeze_begin(c->name, true, &other)) log_warn("freeze again: %s", other.text);
    k->frozen_us = (uint64_t)(monotonic_us() - from);
    return rc;
}

struct capture *machine_capture(struct cell *c, uint32_t serial, bool hold, struct err *e) {
    struct machine *m = c->machine;
    if (m->held) return err_set(e, ERR_CONFLICT, "the cell is being frozen"), NULL;
    if ((m->vmm.over || m->writing) && machine_usable(c, e)) return NULL;
    struct capture *k = capture_entry(c, serial, e);
    if (!k) return NULL;
    struct dormant *d = k->machine = calloc(1, sizeof *d);
    if (!d) {
        err_sys(e, ENOMEM, "capture");
        capture_drop(k);
        return NULL;
    }
    *d = (struct dormant){.vmm = {.watch.fd = -1, .uid = m->vmm.uid}, .vcpus = m->vcpus, .memory_bytes = m->memory_bytes};
    memcpy(d->base, m->base, sizeof d->base);
    memcpy(d->vmm.group, k->layer, sizeof k->layer);
    for (uint32_t i = 0; i < MACHINE_STREAMS; i++) d->streams |= m->stream[i] >= 0 ? MACHINE_BIT(i) : 0;
    int rc = machine_group(k->layer, &c->limits, m->vcpus, e);
    if (!rc && cgroup_dirty(c->name) > FLUSH_BYTES) rc = layer_flush(c->name, k->layer, e);
    if (!rc) rc = stand_still(k, c, hold, e);
    if (!rc) return k;
    capture_drop(k);
    return NULL;
}

void machine_capture_drop(struct capture *k) {
    struct dormant *d = k->machine;
    struct cell *c = d->serial ? cell_find(d->cell, d->serial) : NULL;
    struct err e;
    saves_stop(&d->vmm);
    vmm_end(&d->vmm);
    vmm_bury(k->layer);
    if (c && c->machine) {
        c->machine->held = false;
        if (machine_resume(c, &e)) log_warn("let a held machine go on: %s", e.text);
    }
    free(d);
    k->machine = NULL;
}

/* ---- copies ---- */

/* A fork of `parent` becomes the machine: what it needs is in its socket before it is ready. */
static int born(struct machine *m, struct vmm *parent, int dir, uint64_t streams, uint64_t needed, struct err *e) {
    struct machine_fitting f = {0};
    const int theirs = vmm_pair(&m->vmm, e);
    if (theirs < 0 || vmm_fork(parent, &m->vmm, theirs, e)) return -1;
    fault_point("keeper.machine.born");
    const int fit = machine_fit(m, dir, &f, e) || machine_attach(m, streams, &f, e) ? -1 : 0;
    struct err other;
    if (vmm_forked(parent, &m->vmm, fit ? &other : e) || fit || machine_fitted(m, &f, needed, e)) return -1;
    return machine_run(m, e);
}

/* The dormant machine itself. */
static int wake(struct machine *m, struct dormant *d, int dir, struct err *e) {
    struct machine_fitting f = {0};
    vmm_take(&m->vmm, &d->vmm);
    if (vmm_move(&m->vmm, m->cell->name, e) || machine_fit(m, dir, &f, e) || machine_attach(m, d->streams, &f, e) || machine_fitted(m, &f, 0, e)) return -1;
    return machine_run(m, e);
}

static struct cell *copy(struct capture *k, const char *id, bool last, struct err *e) {
    struct dormant *d = k->machine;
    if (d->vmm.over) {
        err_set(e, ERR_LOST, "the machine of the capture is gone: %s", d->vmm.why);
        e->sys_errno = EPIPE;
        return NULL;
    }
    if (saves_busy(&d->vmm)) return err_set(e, ERR_CONFLICT, "the capture is being written to files"), NULL;
    const struct machine_wish w = {.id = id, .template_id = k->template_id, .limits = &k->limits, .vcpus = d->vcpus, .memory_bytes = d->memory_bytes, .base = d->base,
                                   .files = {.layer = k->kept[0] ? k->kept : k->layer, .take = last && !k->kept[0]}};
    cleanup_close int dir = machine_dir(k->template_id, e);
    struct cell *c = dir < 0 ? NULL : machine_cell(&w, e);
    if (!c) return NULL;
    c->machine->vmm.uid = d->vmm.uid;
    if (!(last ? wake(c->machine, d, dir, e) : born(c->machine, &d->vmm, dir, d->streams, 0, e))) return c;
    cell_destroy(c);
    return NULL;
}

struct cell *machine_copy(struct capture *k, const char *id, bool last, struct err *e) {
    struct cell *c = copy(k, id, last, e);
    if (last) capture_drop(k);
    return c;
}

/* ---- templates ---- */

struct cell *machine_make(const char *template_id, const char *base, const char *id, const struct keeper_limits *limits, struct err *e) {
    const uint64_t streams = MACHINE_BIT(MACHINE_CONTROL) | MACHINE_BIT(MACHINE_GUEST) | MACHINE_BIT(0);
    struct template_machine *t = template_machine_find(template_id, base);
    if (!t) {
        err_set(e, ERR_UNAVAILABLE, "the template's machine is not there");
        e->sys_errno = EAGAIN;
        return NULL;
    }
    const struct machine_wish w = {.id = id, .template_id = t->template_id, .limits = limits, .vcpus = t->config.vcpus, .memory_bytes = t->config.memory_bytes,
                                   .base = t->base, .files = {.layer = t->base}};
    cleanup_close int dir = machine_dir(template_id, e);
    struct cell *c = dir < 0 ? NULL : machine_cell(&w, e);
    if (!c) return NULL;
    c->machine->vmm.uid = vmm_uid();
    if (!born(c->machine, &t->vmm, dir, streams, streams, e)) return c;
    cell_destroy(c);
    return NULL;
}

/* ---- files ---- */

/* All connections are tried: which ones the image has, only its state says. */
static int restore(struct machine *m, int dir, const struct machine_image *i, int base_fd, struct err *e) {
    cleanup_close int root = base_file(dir, i->base, "root.erofs", e);
    const uint64_t all = MACHINE_BIT(MACHINE_STREAMS) - 1;
    struct machine_fitting f = {0};
    if (root < 0 || vmm_start(&m->vmm, false, e) || machine_configure(&m->vmm, root, m->memory_bytes, m->vcpus, true, e) || machine_fit(m, dir, &f, e)) return -1;
    if (!(f.restore = machine_send_restore(&m->vmm, i->state_fd, i->memory_fd, base_fd, e)) || machine_attach(m, all, &f, e)) return -1;
    return machine_fitted(m, &f, 0, e) || machine_run(m, e) ? -1 : 0;
}

struct cell *machine_restore(const struct machine_image *i, const char *id, const struct keeper_limits *limits, struct err *e) {
    struct base_config config;
    cleanup_close int dir = machine_dir(i->template_id, e);
    cleanup_close int base = dir < 0 || base_read(dir, i->base, &config, e) ? -1 : base_file(dir, i->base, "memory", e);
    if (base < 0) {
        if (dir >= 0 && e->sys_errno == ENOENT) {
            err_set(e, ERR_IMAGE, "the template's machine that the image was made from is gone");
            e->sys_errno = EBADMSG;
        }
        return NULL;
    }
    const struct machine_wish w = {.id = id, .template_id = i->template_id, .limits = limits, .vcpus = i->vcpus ? i->vcpus : config.vcpus,
                                   .memory_bytes = config.memory_bytes, .base = i->base, .files = {.layer = i->files}};
    if (w.vcpus > VMM_VCPUS_MAX) return err_set(e, ERR_INVALID, "a machine has 1 to %d processors", VMM_VCPUS_MAX), NULL;
    struct cell *c = machine_cell(&w, e);
    if (!c) return NULL;
    c->machine->vmm.uid = vmm_uid();
    if (!restore(c->machine, dir, i, base, e)) return c;
    cell_destroy(c);
    return NULL;
}
