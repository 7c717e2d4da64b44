/* pool.c: cells kept ready. A create takes a filled cell, else fills an empty one, else has one made; what was taken is made again when the
 * keeper has nothing better to do. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/process/internal.h"

#define REFILL_PAUSE_MS 500 /* after a refill that failed */
#define REFILL_WAIT_MS 10   /* after a create: its first execution should have the processors to itself */

static void refill_soon(struct process_driver *);

struct create {
    struct create *next;
    struct process_driver *driver;
    struct pool *pool;
    struct cell_limits limits;
    driver_create_done done;
    void *arg;
    struct driver_cell *cell;
    const char *from;
    bool cold;
};

struct warm {
    struct warm *next;
    driver_done done;
    void *arg;
};

struct pool *pool_of(struct process_driver *d, const char *template_id) {
    for (struct pool *p = d->pools; p; p = p->next)
        if (!strcmp(p->template_id, template_id)) return p;
    struct pool *p = calloc(1, sizeof *p);
    if (!p) abort();
    p->driver = d;
    (void)snprintf(p->template_id, sizeof p->template_id, "%s", template_id);
    p->next = d->pools;
    d->pools = p;
    return p;
}

static void push(struct pool *p, struct driver_cell *c, enum cell_place place) {
    c->place = place;
    c->pool = p;
    struct driver_cell **list = place == PLACE_FILLED ? &p->filled : &p->empty;
    /* oldest first out: a filled cell has then had time to wake up */
    while (*list) list = &(*list)->pool_next;
    c->pool_next = NULL;
    *list = c;
    if (place == PLACE_FILLED) p->filled_count++;
    else p->empty_count++;
}

static struct driver_cell *pop(struct pool *p, enum cell_place place) {
    struct driver_cell **list = place == PLACE_FILLED ? &p->filled : &p->empty, *c = *list;
    if (!c) return NULL;
    *list = c->pool_next;
    if (place == PLACE_FILLED) p->filled_count--;
    else p->empty_count--;
    c->pool_next = NULL;
    c->place = PLACE_OUT;
    return c;
}

void pool_forget(struct driver_cell *c) {
    if (c->place == PLACE_OUT || !c->pool) return;
    struct driver_cell **list = c->place == PLACE_FILLED ? &c->pool->filled : &c->pool->empty;
    while (*list && *list != c) list = &(*list)->pool_next;
    if (!*list) return;
    *list = c->pool_next;
    if (c->place == PLACE_FILLED) c->pool->filled_count--;
    else c->pool->empty_count--;
    c->place = PLACE_OUT;
}

/* ---- create ---- */

static void create_fail(struct create *c, struct err *e) {
    c->done(c->arg, e, NULL);
    free(c);
}

/* Everything is there: the domain gets the descriptors. */
static void create_finish(struct create *c) {
    struct driver_cell *cell = c->cell;
    const struct driver_created made = {.cell = cell, .guest_fd = cell->guest_fd, .python = cell->python, .cold = c->cold, .from = c->from};
    cell->guest_fd = -1;
    cell->python = (struct context_ends){-1, -1, -1};
    c->done(c->arg, NULL, &made);
    refill_soon(c->driver);
    free(c);
}

static void on_limits(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct create *c = arg;
    (void)r, (void)fds, (void)n;
    if (!e) {
        c->cell->limits = c->limits;
        create_finish(c);
        return;
    }
    c->driver->base.ops->destroy(c->cell, NULL, NULL);
    create_fail(c, e);
}

static void create_limit(struct create *c) {
    if (limits_equal(&c->cell->limits, &c->limits)) {
        create_finish(c);
        return;
    }
    struct keeper_request q = process_cell_request(c->cell, KEEPER_CELL_LIMITS);
    q.limits = keeper_limits_of(&c->limits);
    keeper_call(c->driver->keeper, &q, on_limits, c);
}

static void take_descriptors(struct driver_cell *cell, const struct keeper_reply *r, const int *fds, size_t n) {
    if (n == 1 || n == 4) {
        cell->index = r->cell;
        cell->serial = r->serial;
        cell->guest_fd = fds[0];
    }
    if (n >= 3) cell->python = (struct context_ends){fds[n - 3], fds[n - 2], fds[n - 1]};
}

static void on_made(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct create *c = arg;
    if (e) {
        process_cell_free(c->cell);
        create_fail(c, e);
        return;
    }
    take_descriptors(c->cell, r, fds, n);
    create_finish(c);
}

static void on_filled(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct create *c = arg;
    if (e) {
        c->driver->base.ops->destroy(c->cell, NULL, NULL);
        create_fail(c, e);
        return;
    }
    take_descriptors(c->cell, r, fds, n);
    create_limit(c);
}

/* A callback never comes from inside the call that took it: what a pool had is delivered on the loop's next turn. */
static void on_turn(uv_idle_t *h) {
    struct process_driver *d = h->data;
    struct create *c = d->handed_first;
    d->handed_first = d->handed_last = NULL;
    uv_idle_stop(h);
    while (c) {
        struct create *next = c->next;
        c->next = NULL;
        create_limit(c);
        c = next;
    }
}

static void create_serve(struct create *c) {
    struct process_driver *d = c->driver;
    struct keeper_request q;
    if ((c->cell = pop(c->pool, PLACE_FILLED))) {
        d->from_filled++;
        c->from = "filled";
        if (d->handed_last) d->handed_last->next = c;
        else d->handed_first = c;
        d->handed_last = c;
        uv_idle_start(&d->turn, on_turn);
        return;
    }
    if ((c->cell = pop(c->pool, PLACE_EMPTY))) {
        d->from_empty++;
        c->from = "empty";
        q = process_cell_request(c->cell, KEEPER_CONTEXT_MAKE);
        q.language = KEEPER_PYTHON;
        keeper_call(d->keeper, &q, on_filled, c);
        return;
    }
    d->made++;
    c->from = "made";
    c->cell = process_cell_new(d, c->pool->template_id, &c->limits);
    q = process_cell_request(c->cell, KEEPER_CELL_MAKE);
    q.language = KEEPER_PYTHON;
    q.limits = keeper_limits_of(&c->limits);
    keeper_call(d->keeper, &q, on_made, c);
}

/* ---- the template's zygote ---- */

static void on_zygote(void *arg, struct err *e, bool cold) {
    struct pool *p = arg;
    struct create *c = p->waiting;
    struct warm *w = p->warming;
    p->starting = false;
    p->ready = !e;
    p->waiting = NULL;
    p->warming = NULL;
    while (c) {
        struct create *next = c->next;
        c->next = NULL;
        c->cold = cold;
        if (e) create_fail(c, e);
        else create_serve(c);
        c = next;
    }
    while (w) {
        struct warm *next = w->next;
        if (w->done) w->done(w->arg, e);
        free(w);
        w = next;
    }
    if (!e) pool_refill_all(p->driver);
}

static void start(struct pool *p) {
    if (p->starting) return;
    p->starting = true;
    zygote_ensure(p->driver, p->template_id, KEEPER_PYTHON, on_zygote, p);
}

void pool_create(struct process_driver *d, const char *template_id, const struct cell_limits *limits, driver_create_done done, void *arg) {
    struct create *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct create){.driver = d, .pool = pool_of(d, template_id), .limits = *limits, .done = done, .arg = arg};
    if (c->pool->ready) {
        create_serve(c);
        return;
    }
    struct create **at = &c->pool->waiting;
    while (*at) at = &(*at)->next;
    *at = c;
    start(c->pool);
}

void pool_warm(struct process_driver *d, const char *template_id, driver_done done, void *arg) {
    struct pool *p = pool_of(d, template_id);
    struct warm *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct warm){.next = p->warming, .done = done, .arg = arg};
    p->warming = w;
    start(p);
}

/* ---- refill ---- */

struct refill {
    struct pool *pool;
    struct driver_cell *cell;
    enum cell_place place;
    bool made; /* the cell itself is new */
};

static void on_pause_over(uv_timer_t *t) {
    struct process_driver *d = t->data;
    for (struct pool *p = d->pools; p; p = p->next)
        if (p->failures) p->refilling = false;
    pool_refill_all(d);
}

/* A moment later, unless a pool runs low: then at once. */
static void refill_soon(struct process_driver *d) {
    bool low = false;
    for (struct pool *p = d->pools; p; p = p->next) low = low || (p->ready && p->filled_count < d->filled_target / 2);
    if (low) pool_refill_all(d);
    else if (!uv_is_active((uv_handle_t *)&d->refill_timer)) uv_timer_start(&d->refill_timer, on_pause_over, REFILL_WAIT_MS, 0);
}

static void on_refilled(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct refill *f = arg;
    struct pool *p = f->pool;
    if (e) {
        log_warn("cannot keep cells ready: %s", e->text);
        if (f->made) process_cell_free(f->cell);
        else p->driver->base.ops->destroy(f->cell, NULL, NULL);
        p->failures++;
        if (e->sys_errno == EAGAIN) p->ready = false; /* the zygote is gone: the next create warms it again */
        uv_timer_start(&p->driver->refill_timer, on_pause_over, REFILL_PAUSE_MS, 0);
    } else {
        take_descriptors(f->cell, r, fds, n);
        push(p, f->cell, f->place);
        p->driver->refills++;
        p->failures = 0;
        p->refilling = false;
        pool_refill_all(p->driver);
    }
    free(f);
}

static void refill(struct pool *p) {
    struct process_driver *d = p->driver;
    bool want_filled = p->filled_count < d->filled_target;
    if (!p->ready || p->refilling || d->keeper_lost || keeper_client_pending(d->keeper)) return;
    if (!want_filled && p->empty_count >= d->empty_target) return;
    if (uv_is_active((uv_handle_t *)&d->refill_timer) && p->filled_count >= d->filled_target / 2 && want_filled) return; /* refill_soon's moment */
    struct refill *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct refill){.pool = p, .place = want_filled ? PLACE_FILLED : PLACE_EMPTY};
    f->cell = want_filled ? pop(p, PLACE_EMPTY) : NULL;
    f->made = !f->cell;
    if (f->made) f->cell = process_cell_new(d, p->template_id, &d->pool_limits);
    struct keeper_request q = process_cell_request(f->cell, f->made ? KEEPER_CELL_MAKE : KEEPER_CONTEXT_MAKE);
    q.language = want_filled ? KEEPER_PYTHON : KEEPER_NONE;
    q.limits = keeper_limits_of(&d->pool_limits);
    p->refilling = true;
    keeper_call(d->keeper, &q, on_refilled, f);
}

void pool_refill_all(struct process_driver *d) {
    for (struct pool *p = d->pools; p; p = p->next) refill(p);
}

void pool_close_all(struct process_driver *d) {
    for (struct pool *p = d->pools, *next; p; p = next) {
        next = p->next;
        for (struct create *c = p->waiting, *cn; c; c = cn) {
            cn = c->next;
            free(c);
        }
        for (struct warm *w = p->warming, *wn; w; w = wn) {
            wn = w->next;
            free(w);
        }
        free(p);
    }
    d->pools = NULL;
}
