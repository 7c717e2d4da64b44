/* pool.c: a create takes a cell that was made ahead, else has one made: a copy of the template's machine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "driver/microvm/internal.h"

#define REFILL_WAIT_MS 50    /* after a create: its first execution should have the processors to itself */
#define REFILL_PAUSE_MS 5000 /* after a refill that failed */

struct create {
    struct microvm *driver;
    char template_id[TEMPLATE_ID_HEX + 1];
    struct cell_limits limits;
    driver_create_done done; /* NULL: the cell is for the pool */
    void *arg;
    struct pool *pool;       /* then */
    struct driver_cell *cell;
    const char *from;
    bool cold, again;
};

static void refill_soon(struct microvm *, uint64_t ms);

static struct pool *pool_of(struct microvm *d, const char *template_id) {
    struct pool *p = d->pools;
    while (p && strcmp(p->template_id, template_id)) p = p->next;
    if (p) return p;
    if (!(p = calloc(1, sizeof *p))) abort();
    *p = (struct pool){.next = d->pools, .driver = d};
    (void)snprintf(p->template_id, sizeof p->template_id, "%s", template_id);
    d->pools = p;
    return p;
}

static void push(struct pool *p, struct driver_cell *c) {
    struct driver_cell **at = &p->filled;
    while (*at) at = &(*at)->pool_next; /* the oldest goes out first */
    *at = c;
    c->pool = p;
    c->pool_next = NULL;
    p->filled_count++;
}

void machine_pool_forget(struct driver_cell *c) {
    if (!c->pool) return;
    struct driver_cell **at = &c->pool->filled;
    while (*at && *at != c) at = &(*at)->pool_next;
    if (*at) {
        *at = c->pool_next;
        c->pool->filled_count--;
    }
    c->pool = NULL;
}

/* ---- the end of a create ---- */

static void refilled(struct create *x, struct err *e) {
    struct pool *p = x->pool;
    p->refilling = false;
    if (e) {
        log_warn("cannot keep machines ready: %s", e->text);
        p->failures++;
        refill_soon(p->driver, REFILL_PAUSE_MS);
    } else {
        p->failures = 0;
        push(p, x->cell);
        machine_refill(p->driver);
    }
    free(x);
}

static void create_failed(struct create *x, struct err *e) {
    if (!x->done) {
        refilled(x, e);
        return;
    }
    x->done(x->arg, e, NULL);
    free(x);
}

static void create_finish(struct create *x) {
    struct driver_cell *c = x->cell;
    struct context_ends ends[DRIVER_SLOTS];
    struct driver_created made = {.cell = c, .cold = x->cold, .from = x->from};
    struct err e;
    if (!x->done) {
        refilled(x, NULL);
        return;
    }
    if (c->ends[0].control_fd < 0) {
        err_set(&e, ERR_UNAVAILABLE, "the machine came up without its Python");
        machine_destroy(c, NULL, NULL);
        create_failed(x, &e);
        return;
    }
    machine_hand_out(c, &made.guest_fd, ends); /* a new machine has the one context */
    made.python = ends[0];
    machine_cell_hold(c);
    x->done(x->arg, NULL, &made);
    machine_told(c);
    machine_cell_release(c);
    refill_soon(x->driver, REFILL_WAIT_MS);
    free(x);
}

/* ---- a new machine ---- */

static void need(struct create *);

static void on_become(void *arg, struct err *e, struct driver_cell *c) {
    struct create *x = arg;
    x->cell = c;
    if (e) create_failed(x, e);
    else create_finish(x);
}

static void on_made(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct create *x = arg;
    struct driver_cell *c = x->cell;
    struct err odd;
    if (e && e->sys_errno == EAGAIN && !x->again) { /* the template's machine ended, or another base is newer */
        x->again = true;
        template_forget(x->driver, x->template_id);
        machine_cell_end(c);
        need(x);
        return;
    }
    if (e) {
        machine_cell_end(c);
        create_failed(x, e);
        return;
    }
    c->index = r->cell;
    c->serial = r->serial;
    if (machine_take_fds(c, 1, fds, n)) {
        machine_become(c, on_become, x);
        return;
    }
    err_set(&odd, ERR_INTERNAL, "the keeper sent %zu descriptors for a machine", n);
    machine_destroy(c, NULL, NULL);
    create_failed(x, &odd);
}

static void make(struct create *x, const char *layer) {
    x->cell = machine_cell_new(x->driver, x->template_id, &x->limits);
    (void)snprintf(x->cell->base, sizeof x->cell->base, "%s", layer);
    struct keeper_request q = machine_request(x->cell, KEEPER_MACHINE_MAKE);
    q.limits = keeper_limits_of(&x->limits);
    memcpy(q.layer, x->cell->base, sizeof x->cell->base);
    x->driver->made++;
    keeper_call(x->driver->keeper, &q, on_made, x);
}

static void on_need(void *arg, struct err *e, const char *layer, bool cold) {
    struct create *x = arg;
    x->cold = x->cold || cold;
    if (e) create_failed(x, e);
    else make(x, layer);
}

static void need(struct create *x) {
    const char *layer = template_ready(x->driver, x->template_id);
    if (layer) make(x, layer);
    else template_need(x->driver, x->template_id, on_need, x);
}

/* ---- create ---- */

static void on_pooled_limits(void *arg, struct err *e) {
    struct create *x = arg;
    if (!e) {
        create_finish(x);
        return;
    }
    machine_destroy(x->cell, NULL, NULL);
    create_failed(x, e);
}

static void on_pooled_turn(void *arg) {
    struct create *x = arg;
    struct driver_cell *c = x->cell;
    if (!c->listed || c->dying || c->gone) { /* it ended just now */
        if (!c->dying) machine_cell_end(c);
        machine_cell_release(c);
        x->cell = NULL;
        need(x);
        return;
    }
    machine_cell_release(c);
    if (limits_equal(&c->limits, &x->limits)) create_finish(x);
    else machine_set_limits(c, &x->limits, on_pooled_limits, x);
}

static void refused_turn(void *arg) {
    struct create *x = arg;
    struct err e;
    (void)machine_limits_check(x->driver, &x->limits, &e);
    create_failed(x, &e);
}

void machine_create(struct driver *base, const char *template_id, const struct cell_limits *limits, driver_create_done done, void *arg) {
    struct microvm *d = (struct microvm *)base;
    struct create *x = calloc(1, sizeof *x);
    struct err e;
    if (!x) abort();
    *x = (struct create){.driver = d, .limits = *limits, .done = done, .arg = arg, .from = "made"};
    (void)snprintf(x->template_id, sizeof x->template_id, "%s", template_id);
    struct pool *p = pool_of(d, template_id);
    p->wanted = true;
    if (machine_limits_check(d, limits, &e)) {
        microvm_later(d, refused_turn, x); /* the callback does not come from inside this call */
    } else if (p->filled) {
        x->cell = machine_cell_hold(p->filled);
        x->from = "filled";
        machine_pool_forget(x->cell);
        d->from_pool++;
        microvm_later(d, on_pooled_turn, x);
    } else {
        need(x);
    }
}

/* ---- ahead ---- */

static void on_refill_timer(uv_timer_t *t) { machine_refill(t->data); }
static void refill_soon(struct microvm *d, uint64_t ms) { uv_timer_start(&d->refill_timer, on_refill_timer, ms, 0); }

static void refill(struct pool *p) {
    struct microvm *d = p->driver;
    const char *layer = template_ready(d, p->template_id);
    if (!p->wanted || p->refilling || !layer || d->keeper_lost || d->closing || p->filled_count >= d->pool_target) return;
    struct create *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct create){.driver = d, .limits = d->config.limits, .pool = p, .from = "filled", .again = true};
    memcpy(x->template_id, p->template_id, sizeof x->template_id);
    p->refilling = true;
    make(x, layer);
}

void machine_refill(struct microvm *d) {
    for (struct pool *p = d->pools; p; p = p->next) refill(p);
}

struct warm {
    struct microvm *driver;
    driver_done done;
    void *arg;
};

static void on_warmed(void *arg, struct err *e, const char *layer, bool cold) {
    struct warm *w = arg;
    struct microvm *d = w->driver;
    (void)layer, (void)cold;
    if (w->done) w->done(w->arg, e);
    free(w);
    machine_refill(d);
}

void machine_warm(struct driver *base, const char *template_id, driver_done done, void *arg) {
    struct microvm *d = (struct microvm *)base;
    struct warm *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct warm){d, done, arg};
    pool_of(d, template_id)->wanted = true;
    template_need(d, template_id, on_warmed, w);
}

void machine_pools_close(struct microvm *d) {
    for (struct pool *p = d->pools, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    d->pools = NULL;
}
