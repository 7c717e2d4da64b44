#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "keeper/host.h"
#include "keeper/machine_copy.h"
#include "keeper/machine_save.h"
#include "keeper/machine_template.h"
#include "keeper/server_parts.h"

static int not_machine(struct err *e) { return err_set(e, ERR_INVALID, "the cell is not a virtual machine"); }

static int possible(struct err *e) {
    if (host.features & KEEPER_HAS_KVM) return 0;
    return err_hint(e, ERR_UNSUPPORTED, "`cella doctor` says what is missing", "there are no virtual machines on this host");
}

/* The answer to a request that made a machine, which is running; NULL: it did not. */
static void answer_cell(struct keeper_reply *r, struct cell *c, const struct err *e, bool streams) {
    int fds[KEEPER_FDS_MAX];
    size_t n = 0;
    if (c) {
        server_report.cells++;
        server_report.cells_made++;
        r->cell = cell_index(c);
        r->serial = c->serial;
        r->machine = 1;
        r->vcpus = c->machine->vcpus;
        (void)snprintf(r->layer, sizeof r->layer, "%s", c->machine->base);
        if (streams) n = machine_streams(c->machine, &r->slots, fds);
    }
    answer(r, c ? 0 : -1, e, fds, n);
}

static void do_boot(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    answer_cell(&r, possible(&e) ? NULL : machine_boot(q->id, q->template_id, &q->limits, q->vcpus, &e), &e, false);
}

static void do_template(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    const int rc = possible(&e) ? -1 : machine_template(q->template_id, q->layer, q->limits.memory_bytes, q->vcpus, r.layer, &e);
    answer(&r, rc, &e, NULL, 0);
}

static void do_make(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    const int64_t from = monotonic_us();
    struct cell *c = possible(&e) ? NULL : machine_make(q->template_id, q->layer, q->id, &q->limits, &e);
    server_report.cell_make_us_last = (uint64_t)(monotonic_us() - from);
    answer_cell(&r, c, &e, true);
}

static void do_restore(const struct keeper_request *q, const int fds[2]) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = NULL;
    const struct machine_image image = {.template_id = q->template_id, .base = q->layer, .files = q->files, .state_fd = fds[0], .memory_fd = fds[1], .vcpus = q->vcpus};
    if (fds[1] < 0) err_set(&e, ERR_INVALID, "two files come with an image of a machine");
    else if (!id_valid(q->files, "img_")) err_set(&e, ERR_INVALID, "not an id of a kept layer");
    else if (!possible(&e)) c = machine_restore(&image, q->id, &q->limits, &e);
    answer_cell(&r, c, &e, true);
}

static void do_base(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    if (!c || (c->machine ? base_start(c, q->layer, q->tag, &e) : not_machine(&e))) answer(&r, -1, &e, NULL, 0); /* else on_saved */
}

static void do_connect(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct cell *c = wanted(q, &e);
    int fd = -1;
    if (c && !c->machine) (void)not_machine(&e);
    else if (c && !machine_usable(c, &e)) fd = machine_connect(c->machine, q->slot, &e);
    answer(&r, fd < 0 ? -1 : 0, &e, &fd, 1);
}

static void do_copy(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct capture *k = captured(q, &e);
    struct cell *c = NULL;
    if (k && !k->machine) (void)not_machine(&e);
    else if (k) c = machine_copy(k, q->id, q->flags & KEEPER_LAST, &e);
    answer_cell(&r, c, &e, true);
}

static void do_save(const struct keeper_request *q, const int fds[2]) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct capture *k = captured(q, &e);
    if (!k || (k->machine ? save_start(k, fds, q->tag, &e) : not_machine(&e))) answer(&r, -1, &e, NULL, 0); /* else on_saved */
}

static void do_capture(const struct keeper_request *q, struct cell *c) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    struct capture *k = machine_capture(c, q->capture, q->flags & KEEPER_HOLD, &e);
    if (k) {
        r.slots = (uint32_t)k->machine->streams;
        r.frozen_us = (uint32_t)k->frozen_us;
        r.machine = 1;
        r.vcpus = k->machine->vcpus;
    }
    answer(&r, k ? 0 : -1, &e, NULL, 0);
}

/* What goes on processes of a cell, which a machine keeps to itself. */
static void refuse(const struct keeper_request *q) {
    struct keeper_reply r = reply_to(q);
    struct err e;
    err_set(&e, ERR_UNSUPPORTED, "the cell is a virtual machine: its contexts are its own");
    answer(&r, -1, &e, NULL, 0);
}

void on_saved(const struct saved *s, int rc, const struct err *e) {
    struct keeper_reply r = {.magic = KEEPER_MAGIC, .op = s->op, .tag = s->tag, .cell = s->cell, .serial = s->serial, .machine = 1, .vcpus = s->vcpus};
    memcpy(r.layer, s->base, sizeof r.layer);
    if (!rc) r.bytes = s->bytes;
    if (s->tag) answer(&r, rc, e, NULL, 0);
}

void on_machine_ended(void) { server_report.cells--; }

bool serve_machine(const struct keeper_request *q, const int fds[2]) {
    struct cell *c = cell_find(q->cell, q->serial);
    const struct capture *k = capture_find(q->capture);
    switch (q->op) {
    case KEEPER_MACHINE_BOOT: do_boot(q); return true;
    case KEEPER_MACHINE_BASE: do_base(q); return true;
    case KEEPER_MACHINE_TEMPLATE: do_template(q); return true;
    case KEEPER_MACHINE_MAKE: do_make(q); return true;
    case KEEPER_MACHINE_CONNECT: do_connect(q); return true;
    case KEEPER_MACHINE_COPY: do_copy(q); return true;
    case KEEPER_MACHINE_SAVE: do_save(q, fds); return true;
    case KEEPER_MACHINE_RESTORE: do_restore(q, fds); return true;
    case KEEPER_CAPTURE:
        if (!c || !c->machine) return false;
        do_capture(q, c);
        return true;
    case KEEPER_CONTEXT_MAKE:
    case KEEPER_CONTEXT_SIGNAL:
    case KEEPER_THAW_BEGIN:
    case KEEPER_THAW_CALLS:
    case KEEPER_THAW_RUN:
        if (!c || !c->machine) return false;
        refuse(q);
        return true;
    case KEEPER_CAPTURE_OPEN:
    case KEEPER_CAPTURE_MAKE:
        if (!k || !k->machine) return false;
        refuse(q);
        return true;
    default: return false;
    }
}
