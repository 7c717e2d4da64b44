/* cell.c: the life of a cell that is a machine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/microvm/internal.h"

#define ENDED_MS 2000 /* the keeper sees the end of a monitor too, and knows why */

struct driver_cell *machine_cell_new(struct microvm *d, const char *template_id, const struct cell_limits *limits) {
    struct driver_cell *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct driver_cell){.ops = d->base.ops, .driver = d, .refs = 1, .listed = true, .limits = *limits, .guest_fd = -1, .next = d->cells};
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        c->slot[i] = (struct slot){.cell = c, .conn = -1};
        c->ends[i] = (struct context_ends){-1, -1, -1};
    }
    id_make(c->id, "sbx_");
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", template_id);
    if (d->cells) d->cells->previous = c;
    d->cells = c;
    return c;
}

struct driver_cell *machine_cell_hold(struct driver_cell *c) {
    c->refs++;
    return c;
}

void machine_cell_release(struct driver_cell *c) {
    if (--c->refs == 0) free(c);
}

static void close_ends(struct context_ends *e) {
    close_fd(&e->control_fd);
    close_fd(&e->stdout_fd);
    close_fd(&e->stderr_fd);
}

void machine_cell_end(struct driver_cell *c) {
    struct microvm *d = c->driver;
    if (!c->listed) return;
    c->listed = false;
    machine_pool_forget(c);
    if (c->held && !d->closing) microvm_capture_drop(d, c->held);
    c->silent = d->closing;
    if (c->link) machine_link_close(c->link, false);
    c->link = NULL;
    close_fd(&c->guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        if (c->slot[i].pump) context_pump_close(c->slot[i].pump);
        c->slot[i].pump = NULL;
        close_fd(&c->slot[i].conn);
        close_ends(&c->ends[i]);
    }
    if (c->next) c->next->previous = c->previous;
    if (c->previous) c->previous->next = c->next;
    else d->cells = c->next;
    machine_cell_release(c);
}

struct driver_cell *machine_cell_by(struct microvm *d, uint32_t index, uint32_t serial) {
    for (struct driver_cell *c = d->cells; c; c = c->next)
        if (c->index == index && c->serial == serial) return c;
    return NULL;
}

struct driver_cell *machine_cell_named(struct microvm *d, const char *id) {
    for (struct driver_cell *c = d->cells; c; c = c->next)
        if (!strcmp(c->id, id)) return c;
    return NULL;
}

struct keeper_request machine_request(const struct driver_cell *c, uint32_t op) {
    struct keeper_request q = {.op = op, .cell = c->index, .serial = c->serial};
    memcpy(q.id, c->id, sizeof c->id);
    memcpy(q.template_id, c->template_id, sizeof c->template_id);
    return q;
}

/* ---- asking the guest ---- */

struct ask {
    struct driver_cell *cell;
    machine_answer done;
    void *arg;
};

static void on_answer(void *arg, struct err *e, const struct machine_message *m) {
    struct ask *a = arg;
    if (a->done && !a->cell->silent) a->done(a->arg, e, m);
    machine_cell_release(a->cell);
    free(a);
}

static void no_link(void *arg) {
    struct ask *a = arg;
    struct err e;
    err_set(&e, ERR_LOST, "the machine has ended");
    on_answer(a, &e, NULL);
}

void machine_ask(struct driver_cell *c, struct machine_message *m, int64_t timeout_ms, machine_answer done, void *arg) {
    struct ask *a = calloc(1, sizeof *a);
    if (!a) abort();
    *a = (struct ask){machine_cell_hold(c), done, arg};
    if (c->link) machine_call(c->link, m, timeout_ms, on_answer, a);
    else microvm_later(c->driver, no_link, a);
}

void machine_hold(struct driver_cell *c, machine_answer done, void *arg) {
    struct machine_message m = {.type = MACHINE_HOLD};
    c->holds++;
    machine_ask(c, &m, ANSWER_MS, done, arg);
}

static void on_go(void *arg, struct err *e, const struct machine_message *m) {
    const struct driver_cell *c = arg;
    (void)m;
    if (e && c->listed && !c->dying) log_warn("%s: it was told to go on: %s", c->id, e->text);
}

void machine_go(struct driver_cell *c) {
    struct machine_message m = {.type = MACHINE_GO};
    if (c->holds && --c->holds) return;
    if (c->link) machine_ask(c, &m, ANSWER_MS, on_go, c);
}

/* ---- the end ---- */

struct destroy {
    struct driver_cell *cell;
    driver_done done;
    void *arg;
};

static void on_destroyed(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct destroy *s = arg;
    (void)r, (void)fds, (void)n;
    const bool gone = e && (e->sys_errno == ENOENT || !strcmp(e->code, ERR_UNAVAILABLE)); /* it ended by itself meanwhile, or with the keeper */
    if (s->done) s->done(s->arg, gone ? NULL : e);
    machine_cell_end(s->cell);
    machine_cell_release(s->cell);
    free(s);
}

void machine_destroy(struct driver_cell *c, driver_done done, void *arg) {
    struct destroy *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct destroy){machine_cell_hold(c), done, arg};
    machine_pool_forget(c);
    c->dying = true;
    if (c->held) microvm_capture_drop(c->driver, c->held); /* its processes stay stopped: the guest was told to hold them */
    c->held = 0;
    struct keeper_request q = machine_request(c, KEEPER_CELL_DESTROY);
    keeper_call(c->driver->keeper, &q, on_destroyed, s);
}

void machine_gone(struct driver_cell *c, enum cell_fate fate) {
    struct microvm *d = c->driver;
    if (c->dying || c->gone) return; /* the answer to destroy() ends it */
    c->gone = true;
    if (c->out) {
        d->listener.on_cell_gone(d->listener.arg, c, fate);
        machine_cell_end(c);
    } else if (c->pool) {
        machine_cell_end(c);
    } else if (c->link) { /* it is being made: what it was asked fails, and whoever makes it gives up */
        machine_link_close(c->link, false);
        c->link = NULL;
    }
}

/* ---- a control connection that hung up ---- */

static void on_ended_timer(uv_timer_t *t) {
    struct microvm *d = t->data;
    bool more = false;
    for (struct driver_cell *c = d->cells, *next; c; c = next) {
        next = c->next;
        if (!c->ended_ms || c->dying || c->gone) continue;
        if (monotonic_ms() < c->ended_ms + ENDED_MS) {
            more = true;
            continue;
        }
        struct keeper_request q = machine_request(c, KEEPER_CELL_DESTROY);
        keeper_ask(d->keeper, &q, NULL, NULL);
        machine_gone(c, CELL_FATE_LOST);
        uv_timer_start(t, on_ended_timer, 0, 0); /* the list may have changed altogether */
        return;
    }
    if (more) uv_timer_start(t, on_ended_timer, ENDED_MS / 4, 0);
}

void machine_ended_soon(struct driver_cell *c) {
    c->ended_ms = monotonic_ms();
    uv_timer_start(&c->driver->ended_timer, on_ended_timer, ENDED_MS, 0);
}
