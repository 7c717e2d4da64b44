/* fork.c: copies of a living machine. Its processes stop (HOLD), the keeper captures it, they go on; each child is a copy of the capture that is told
 * who it is before its processes go on. */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "driver/microvm/internal.h"

struct fork {
    struct microvm *driver;
    struct driver_cell *parent; /* held */
    uint32_t capture;
    unsigned n, asked, answered;
    int64_t stopped_us;
    uint64_t frozen_us;
    struct json_object *not_carried; /* an empty list: a machine is copied whole */
    driver_child_done each;
    driver_fork_done done;
    void *arg;
};

struct child {
    struct fork *fork;
    unsigned index;
    struct driver_cell *cell;
};

static void ask(struct fork *);

static void fork_over(struct fork *f, struct err *e) {
    f->done(f->arg, e, f->frozen_us);
    machine_cell_release(f->parent);
    json_object_put(f->not_carried);
    free(f);
}

static void child_over(struct child *x, struct err *e) {
    struct fork *f = x->fork;
    f->answered++;
    if (e) f->each(f->arg, x->index, e, NULL);
    free(x);
    if (f->answered == f->n) fork_over(f, NULL);
    else ask(f);
}

static void on_become(void *arg, struct err *e, struct driver_cell *c) {
    struct child *x = arg;
    struct fork *f = x->fork;
    if (!e) {
        struct driver_copy copy = {.cell = c, .not_carried = f->not_carried};
        machine_hand_out(c, &copy.guest_fd, copy.ends);
        f->driver->copies++;
        machine_cell_hold(c);
        f->each(f->arg, x->index, NULL, &copy);
        machine_told(c);
        machine_cell_release(c);
    }
    child_over(x, e);
}

static void on_copied(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct child *x = arg;
    struct driver_cell *c = x->cell;
    struct err odd;
    if (e) {
        machine_cell_end(c);
        child_over(x, e);
        return;
    }
    c->index = r->cell;
    c->serial = r->serial;
    if (machine_take_fds(c, r->slots, fds, n)) {
        machine_become(c, on_become, x);
        return;
    }
    machine_destroy(c, NULL, NULL);
    err_set(&odd, ERR_INTERNAL, "the keeper sent %zu descriptors for a copy", n);
    child_over(x, &odd);
}

static void ask(struct fork *f) {
    while (f->asked < f->n && f->asked - f->answered < COPIES_AHEAD) {
        struct child *x = calloc(1, sizeof *x);
        if (!x) abort();
        *x = (struct child){.fork = f, .index = f->asked++, .cell = machine_cell_new(f->driver, f->parent->template_id, &f->parent->limits)};
        x->cell->limits_unknown = f->parent->limits_unknown;
        memcpy(x->cell->base, f->parent->base, sizeof x->cell->base);
        struct keeper_request q = {.op = KEEPER_MACHINE_COPY, .capture = f->capture, .flags = f->asked == f->n ? KEEPER_LAST : 0};
        memcpy(q.id, x->cell->id, sizeof x->cell->id);
        keeper_call(f->driver->keeper, &q, on_copied, x);
    }
}

static void on_captured(void *arg, struct err *e) {
    struct fork *f = arg;
    if (f->parent->listed) machine_go(f->parent);
    f->frozen_us = (uint64_t)(monotonic_us() - f->stopped_us);
    if (e) fork_over(f, e);
    else ask(f);
}

static void on_held(void *arg, struct err *e, const struct machine_message *m) {
    struct fork *f = arg;
    (void)m;
    if (e) {
        struct err why = *e;
        if (f->parent->listed) machine_go(f->parent);
        err_wrap(&why, "its processes could not be stopped for the copy");
        fork_over(f, &why);
        return;
    }
    struct keeper_request q = machine_request(f->parent, KEEPER_CAPTURE);
    q.capture = f->capture;
    keeper_ask(f->driver->keeper, &q, on_captured, f);
}

void machine_fork(struct driver_cell *c, unsigned n, driver_child_done each, driver_fork_done done, void *arg) {
    struct microvm *d = c->driver;
    struct fork *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct fork){.driver = d, .parent = machine_cell_hold(c), .capture = microvm_capture_number(d), .n = n, .stopped_us = monotonic_us(),
                       .not_carried = json_object_new_array(), .each = each, .done = done, .arg = arg};
    d->forks++;
    machine_hold(c, on_held, f);
}

/* ---- a cell takes another's name ---- */

struct rename {
    struct driver_cell *cell;
    char id[CELL_ID_MAX];
    driver_done done;
    void *arg;
};

static void rename_over(struct rename *x, struct err *e) {
    x->done(x->arg, e);
    machine_cell_release(x->cell);
    free(x);
}

static void on_named(void *arg, struct err *e, const struct machine_message *m) {
    (void)e, (void)m; /* it has the name; that its guest does not show it in its host name is not worth losing it */
    rename_over(arg, NULL);
}

static void on_renamed(void *arg, struct err *e) {
    struct rename *x = arg;
    struct driver_cell *c = x->cell, *old = e ? NULL : machine_cell_named(c->driver, x->id);
    if (old && old != c && !old->dying) machine_cell_end(old); /* dying: the answer to its destroy() ends it */
    if (e || !c->listed) {
        rename_over(x, e);
        return;
    }
    struct machine_message m = {.type = MACHINE_NAME};
    memcpy(c->id, x->id, sizeof c->id);
    memcpy(m.identity.id, x->id, sizeof x->id);
    machine_ask(c, &m, STATS_MS, on_named, x);
}

void machine_rename(struct driver_cell *c, const char *id, driver_done done, void *arg) {
    struct rename *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct rename){.cell = machine_cell_hold(c), .done = done, .arg = arg};
    (void)snprintf(x->id, sizeof x->id, "%s", id);
    struct keeper_request q = machine_request(c, KEEPER_CELL_RENAME);
    memset(q.id, 0, sizeof q.id);
    memcpy(q.id, x->id, sizeof x->id);
    keeper_ask(c->driver->keeper, &q, on_renamed, x);
}
