#include "driver/process/process_driver.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/process/base.h"
#include "driver/process/base_file.h"
#include "driver/process/internal.h"

/* A filled cell costs 1 to 3 MB, an empty one half of that; eight serve a burst at the rate at which an agent starts work. */
#define FILLED_DEFAULT 8
#define EMPTY_DEFAULT 4

_Static_assert(DRIVER_SLOTS == KEEPER_SLOTS, "driver and keeper agree on the slots of a cell");
_Static_assert(CELL_ID_MAX <= KEEPER_ID && TEMPLATE_ID_HEX < KEEPER_TEMPLATE, "ids fit the keeper's messages");

static struct process_driver *self(struct driver *d) { return (struct process_driver *)d; }

/* ---- cells ---- */

struct driver_cell *process_cell_new(struct process_driver *d, const char *template_id, const struct cell_limits *limits) {
    struct driver_cell *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct driver_cell){.ops = d->base.ops, .driver = d, .place = PLACE_OUT, .limits = *limits, .guest_fd = -1, .python = {-1, -1, -1}, .next = d->cells};
    id_make(c->id, "sbx_");
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", template_id);
    if (d->cells) d->cells->previous = c;
    d->cells = c;
    return c;
}

void process_cell_free(struct driver_cell *c) {
    pool_forget(c);
    if (c->held && !c->driver->closing) process_capture_drop(c->driver, c->held);
    close_fd(&c->guest_fd);
    close_fd(&c->python.control_fd);
    close_fd(&c->python.stdout_fd);
    close_fd(&c->python.stderr_fd);
    if (c->next) c->next->previous = c->previous;
    if (c->previous) c->previous->next = c->next;
    else c->driver->cells = c->next;
    free(c);
}

struct driver_cell *process_cell_by(struct process_driver *d, uint32_t index, uint32_t serial) {
    for (struct driver_cell *c = d->cells; c; c = c->next)
        if (c->index == index && c->serial == serial) return c;
    return NULL;
}

struct driver_cell *process_cell_named(struct process_driver *d, const char *id) {
    for (struct driver_cell *c = d->cells; c; c = c->next)
        if (!strcmp(c->id, id)) return c;
    return NULL;
}

struct keeper_request process_cell_request(const struct driver_cell *c, uint32_t op) {
    struct keeper_request q = {.op = op, .cell = c->index, .serial = c->serial};
    memcpy(q.id, c->id, sizeof c->id);
    memcpy(q.template_id, c->template_id, sizeof c->template_id);
    return q;
}

/* ---- zygotes ---- */

/* One request to the keeper per template and language, however many wait for it. */
struct ensure {
    struct ensure *next;
    struct process_driver *driver;
    char template_id[TEMPLATE_ID_HEX + 1];
    uint32_t language;
    struct waiter *waiting;
};

struct waiter {
    struct waiter *next;
    void (*done)(void *arg, struct err *, bool cold);
    void *arg;
};

static void on_zygote_started(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct ensure *z = arg, **at = &z->driver->ensuring;
    (void)fds, (void)n;
    while (*at != z) at = &(*at)->next;
    *at = z->next; /* before the callbacks: one may ask again */
    for (struct waiter *w = z->waiting, *next; w; w = next) {
        next = w->next;
        w->done(w->arg, e, r && r->cold);
        free(w);
    }
    free(z);
}

static struct ensure *ensure_start(struct process_driver *d, const char *template_id, uint32_t language) {
    struct keeper_request q = {.op = KEEPER_ZYGOTE_START, .language = language};
    struct ensure *z = calloc(1, sizeof *z);
    if (!z) abort();
    *z = (struct ensure){.next = d->ensuring, .driver = d, .language = language};
    (void)snprintf(z->template_id, sizeof z->template_id, "%s", template_id);
    (void)snprintf(q.template_id, sizeof q.template_id, "%s", template_id);
    d->ensuring = z;
    keeper_call(d->keeper, &q, on_zygote_started, z);
    return z;
}

void zygote_ensure(struct process_driver *d, const char *template_id, uint32_t language, void (*done)(void *, struct err *, bool), void *arg) {
    struct ensure *z = d->ensuring;
    struct waiter *w = calloc(1, sizeof *w);
    if (!w) abort();
    while (z && (z->language != language || strcmp(z->template_id, template_id))) z = z->next;
    if (!z) z = ensure_start(d, template_id, language);
    *w = (struct waiter){z->waiting, done, arg};
    z->waiting = w;
}

/* ---- contexts ---- */

struct fill {
    struct process_driver *driver;
    struct keeper_request request; /* names the cell by number: it may be gone before the answer comes */
    bool warmed;
    driver_context_done done;
    void *arg;
};

static void fill_send(struct fill *);

static void on_fill_warm(void *arg, struct err *e, bool cold) {
    struct fill *f = arg;
    (void)cold;
    if (!e) {
        fill_send(f);
        return;
    }
    f->done(f->arg, e, NULL);
    free(f);
}

static void on_filled(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct fill *f = arg;
    (void)r;
    if (e && e->sys_errno == EAGAIN && !f->warmed) { /* first use of this language, or its zygote died */
        f->warmed = true;
        zygote_ensure(f->driver, f->request.template_id, f->request.language, on_fill_warm, f);
        return;
    }
    if (!e && n == 3) {
        const struct context_ends ends = {fds[0], fds[1], fds[2]};
        f->done(f->arg, NULL, &ends);
    } else {
        struct err odd;
        if (!e) err_set(&odd, ERR_INTERNAL, "the keeper sent %zu descriptors for a context", n);
        f->done(f->arg, e ? e : &odd, NULL);
    }
    free(f);
}

static void fill_send(struct fill *f) { keeper_call(f->driver->keeper, &f->request, on_filled, f); }

static void context_make(struct driver_cell *c, int slot, const char *language, driver_context_done done, void *arg) {
    struct fill *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct fill){.driver = c->driver, .request = process_cell_request(c, KEEPER_CONTEXT_MAKE), .done = done, .arg = arg};
    f->request.slot = (uint32_t)slot;
    f->request.language = !strcmp(language, "shell") ? KEEPER_SHELL : KEEPER_PYTHON;
    fill_send(f);
}

static void context_signal(struct driver_cell *c, int slot, int signo) {
    struct keeper_request q = process_cell_request(c, KEEPER_CONTEXT_SIGNAL);
    q.slot = (uint32_t)slot;
    q.signo = signo;
    keeper_ask(c->driver->keeper, &q, NULL, NULL);
}

/* ---- the rest of the contract ---- */

static void set_limits(struct driver_cell *c, const struct cell_limits *l, driver_done done, void *arg) {
    struct keeper_request q = process_cell_request(c, KEEPER_CELL_LIMITS);
    q.limits = keeper_limits_of(l);
    c->limits = *l;
    keeper_ask(c->driver->keeper, &q, done, arg);
}

static void freeze(struct driver_cell *c, uint32_t on, driver_done done, void *arg) {
    struct keeper_request q = process_cell_request(c, KEEPER_CELL_FREEZE);
    q.on = on;
    keeper_ask(c->driver->keeper, &q, done, arg);
}
static void cell_pause(struct driver_cell *c, driver_done done, void *arg) { freeze(c, 1, done, arg); }
static void cell_resume(struct driver_cell *c, driver_done done, void *arg) { freeze(c, 0, done, arg); }

struct stats_call {
    driver_stats_done done;
    void *arg;
};

static void on_stats(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct stats_call *s = arg;
    struct cell_stats out = {0};
    (void)fds, (void)n;
    if (!e)
        out = (struct cell_stats){.memory_bytes = r->stats.memory_bytes, .memory_peak_bytes = r->stats.memory_peak_bytes, .cpu_us = r->stats.cpu_us,
                                  .disk_bytes = r->stats.disk_bytes, .oom_kills = r->stats.oom_kills, .pids = r->stats.pids};
    s->done(s->arg, e, e ? NULL : &out);
    free(s);
}

static void stats(struct driver_cell *c, driver_stats_done done, void *arg) {
    struct keeper_request q = process_cell_request(c, KEEPER_CELL_STATS);
    struct stats_call *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct stats_call){done, arg};
    keeper_call(c->driver->keeper, &q, on_stats, s);
}

struct destroy_call {
    struct driver_cell *cell;
    driver_done done;
    void *arg;
};

static void on_destroyed(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct destroy_call *s = arg;
    (void)r, (void)fds, (void)n;
    bool gone = e && (e->sys_errno == ENOENT || !strcmp(e->code, ERR_UNAVAILABLE)); /* it died by itself meanwhile, or with the keeper */
    if (s->done) s->done(s->arg, gone ? NULL : e);
    process_cell_free(s->cell);
    free(s);
}

static void destroy(struct driver_cell *c, driver_done done, void *arg) {
    struct destroy_call *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct destroy_call){c, done, arg};
    pool_forget(c);
    c->dying = true;
    struct keeper_request q = process_cell_request(c, KEEPER_CELL_DESTROY);
    keeper_call(c->driver->keeper, &q, on_destroyed, s);
}

static const char *cell_id_of(const struct driver_cell *c) { return c->id; }

static void create(struct driver *base, const char *template_id, const struct cell_limits *l, driver_create_done done, void *arg) {
    pool_create(self(base), template_id, l, done, arg);
}
static void warm(struct driver *base, const char *template_id, driver_done done, void *arg) { pool_warm(self(base), template_id, done, arg); }

static void adopt(struct driver *base, driver_done done, void *arg) {
    struct keeper_request q = {.op = KEEPER_LIST};
    keeper_ask(self(base)->keeper, &q, done, arg); /* the cells come as events before the answer */
}

static void set_listener(struct driver *base, const struct driver_listener *l) { self(base)->listener = *l; }

/* ---- events ---- */

static void found(struct process_driver *d, const struct keeper_reply *r, const int *fds, size_t n) {
    struct context_ends ends[DRIVER_SLOTS];
    int guest_fd;
    if (n < 1) return;
    struct driver_cell *c = process_cell_new(d, r->template_id, &d->pool_limits);
    c->index = r->cell;
    c->serial = r->serial;
    (void)snprintf(c->id, sizeof c->id, "%s", r->id);
    process_take_streams(r->slots, fds, n, &guest_fd, ends);
    d->listener.on_adopt(d->listener.arg, c, c->template_id, guest_fd, ends);
}

static void context_exit(struct process_driver *d, struct driver_cell *c, const struct keeper_reply *r) {
    static const enum context_fate fate[] = {FATE_EXITED, FATE_KILLED, FATE_OOM};
    if (c->making) {
        process_thaw_exit(c, (int)r->slot, fate[r->fate % 3], r->code);
        return;
    }
    if (c->place == PLACE_OUT) {
        if (!c->dying) d->listener.on_context_exit(d->listener.arg, c, (int)r->slot, fate[r->fate % 3], r->code);
        return;
    }
    log_warn("a pooled cell lost its context (fate %u, code %d)", r->fate, r->code);
    destroy(c, NULL, NULL);
}

static void cell_gone(struct process_driver *d, struct driver_cell *c, enum cell_fate fate) {
    if (c->dying) return; /* the answer to destroy() frees it */
    if (c->making) {
        c->gone = true; /* thaw.c frees it */
        return;
    }
    if (c->place == PLACE_OUT) d->listener.on_cell_gone(d->listener.arg, c, fate);
    process_cell_free(c);
}

static bool on_event(void *arg, const struct keeper_reply *r, const int *fds, size_t n) {
    struct process_driver *d = arg;
    struct driver_cell *c = process_cell_by(d, r->cell, r->serial);
    if (r->op == KEEPER_EVENT_FOUND && !r->machine) {
        found(d, r, fds, n);
    } else if (r->op == KEEPER_EVENT_CONTEXT_EXIT && c) {
        context_exit(d, c, r);
    } else if (r->op == KEEPER_EVENT_CELL_GONE && c) {
        cell_gone(d, c, r->fate == KEEPER_FATE_OOM ? CELL_FATE_OOM : CELL_FATE_KILLED);
        pool_refill_all(d);
    } else if (r->op == KEEPER_EVENT_LAYER && d->keeping) {
        kept_layers_told(d->keeping, r->id);
    } else if (r->op == KEEPER_EVENT_ZYGOTE_GONE) {
        bases_forget_zygote(d, r->template_id, r->language);
        if (r->language == KEEPER_PYTHON) pool_of(d, r->template_id)->ready = false;
    } else {
        return false;
    }
    return true;
}

/* Cells end with their keeper. */
static void on_lost(void *arg) {
    struct process_driver *d = arg;
    d->keeper_lost = true;
    bases_forget(d);
    for (struct pool *p = d->pools; p; p = p->next) p->ready = false, p->refilling = false;
    for (struct driver_cell *c = d->cells, *next; c; c = next) {
        next = c->next;
        cell_gone(d, c, CELL_FATE_LOST);
    }
}

static void on_hello(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct process_driver *d = arg;
    (void)fds, (void)n;
    if (!e) d->report = r->report;
}

static void on_back(void *arg) {
    struct process_driver *d = arg;
    struct keeper_request q = {.op = KEEPER_HELLO};
    d->keeper_lost = false;
    keeper_call(d->keeper, &q, on_hello, d);
    for (struct pool *p = d->pools; p; p = p->next) pool_warm(d, p->template_id, NULL, NULL);
}

/* The keeper has nothing to do: the time to make what was taken. */
static void on_quiet(void *arg) { pool_refill_all(arg); }

/* ---- report, open, close ---- */

static struct json_object *report(struct driver *base) {
    static const struct {
        uint32_t bit;
        const char *name;
    } feature[] = {{KEEPER_HAS_MSEAL, "mseal"}, {KEEPER_HAS_LANDLOCK, "landlock"}, {KEEPER_HAS_BTRFS, "btrfs_layers"},
                   {KEEPER_HAS_DISK_QUOTA, "disk_limits"}, {KEEPER_HAS_MEMORY, "memory_limits"}, {KEEPER_HAS_CPU, "cpu_limits"},
                   {KEEPER_HAS_PIDS, "pid_limits"}, {KEEPER_HAS_CGROUP_KILL, "cgroup_kill"}};
    struct process_driver *d = self(base);
    struct json_object *o = json_object_new_object(), *f = json_object_new_object(), *pools = json_object_new_array();
    for (size_t i = 0; i < sizeof feature / sizeof *feature; i++)
        json_object_object_add(f, feature[i].name, json_object_new_boolean((d->report.features & feature[i].bit) != 0));
    for (struct pool *p = d->pools; p; p = p->next) {
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "template", json_object_new_string(p->template_id));
        json_object_object_add(j, "ready", json_object_new_boolean(p->ready));
        json_object_object_add(j, "filled", json_object_new_int64(p->filled_count));
        json_object_object_add(j, "empty", json_object_new_int64(p->empty_count));
        json_object_array_add(pools, j);
    }
    json_object_object_add(o, "name", json_object_new_string(base->ops->name));
    json_object_object_add(o, "isolation", json_object_new_string(base->ops->isolation));
    json_object_object_add(o, "keeper", json_object_new_string(d->keeper_lost ? "lost" : "connected"));
    json_object_object_add(o, "features", f);
    json_object_object_add(o, "pools", pools);
    json_object_object_add(o, "pool_filled_target", json_object_new_int64(d->filled_target));
    json_object_object_add(o, "pool_empty_target", json_object_new_int64(d->empty_target));
    json_object_object_add(o, "creates_from_filled", json_object_new_int64((int64_t)d->from_filled));
    json_object_object_add(o, "creates_from_empty", json_object_new_int64((int64_t)d->from_empty));
    json_object_object_add(o, "creates_made", json_object_new_int64((int64_t)d->made));
    json_object_object_add(o, "forks", json_object_new_int64((int64_t)d->forks));
    json_object_object_add(o, "cells_copied", json_object_new_int64((int64_t)d->copies));
    json_object_object_add(o, "refills", json_object_new_int64((int64_t)d->refills));
    return o;
}

static void free_last(void *arg) {
    struct process_driver *d = arg;
    if (!d->closing || d->handles || d->works.count) return;
    free(d->bases);
    free(d->key_file);
    free(d);
}

static void on_closed(uv_handle_t *h) {
    struct process_driver *d = h->data;
    d->handles--;
    free_last(d);
}

static void driver_close(struct driver *base) {
    struct process_driver *d = self(base);
    d->closing = true;
    keeper_client_close(d->keeper);
    kept_layers_forget(d->keeping);
    bases_close(d);
    while (d->cells) process_cell_free(d->cells);
    for (struct ensure *z = d->ensuring, *next; z; z = next) {
        next = z->next;
        for (struct waiter *w = z->waiting, *wn; w; w = wn) {
            wn = w->next;
            free(w);
        }
        free(z);
    }
    pool_close_all(d);
    uv_idle_stop(&d->turn);
    uv_timer_stop(&d->refill_timer);
    d->handles = 2;
    uv_close((uv_handle_t *)&d->turn, on_closed);
    uv_close((uv_handle_t *)&d->refill_timer, on_closed);
}

static void image_drop(struct driver *base, const char *image_id, driver_done done, void *arg) { kept_layer_drop(self(base)->keeper, image_id, done, arg); }
static void images_keep(struct driver *base, const char *const *keep, size_t n, driver_done done, void *arg) {
    kept_layers_sweep(self(base)->keeper, &self(base)->keeping, keep, n, done, arg);
}

static const struct driver_ops ops = {
    .name = "process",
    .isolation = "namespaces, own id range, seccomp, Landlock, no capabilities, cgroup limits (shared host kernel)",
    .set_listener = set_listener, .adopt = adopt, .warm = warm, .create = create, .context_make = context_make,
    .context_signal = context_signal, .set_limits = set_limits, .pause = cell_pause, .resume = cell_resume, .stats = stats,
    .destroy = destroy, .id = cell_id_of, .fork = process_fork, .rename = process_rename,
    .freeze = process_freeze, .release = process_release, .thaw = process_thaw, .image_drop = image_drop, .images_keep = images_keep,
    .incarnation = process_incarnation, .report = report, .close = driver_close,
};

void process_driver_pool(struct driver *base, long long filled, long long empty) {
    if (filled >= 0) self(base)->filled_target = (unsigned)filled;
    if (empty >= 0) self(base)->empty_target = (unsigned)empty;
    pool_refill_all(self(base));
}

int process_driver_images(struct driver *base, const char *bases_dir, const char *key_file, struct err *e) {
    struct process_driver *d = self(base);
    free(d->bases);
    free(d->key_file);
    d->bases = strdup(bases_dir);
    d->key_file = strdup(key_file);
    if (!d->bases || !d->key_file) return err_sys(e, ENOMEM, "process driver");
    base_files_tidy(bases_dir);
    return 0;
}

struct keeper_client *process_driver_keeper(struct driver *base) { return self(base)->keeper; }

void process_driver_limits(struct driver *base, const struct cell_limits *l) { self(base)->pool_limits = *l; }

struct driver *process_driver_open(uv_loop_t *loop, const char *keeper_socket, struct err *e) {
    struct process_driver *d = calloc(1, sizeof *d);
    if (!d) return err_sys(e, ENOMEM, "process driver"), NULL;
    d->base.ops = &ops;
    d->loop = loop;
    d->works = (struct works){.loop = loop, .done = free_last, .driver = d};
    d->filled_target = FILLED_DEFAULT;
    d->empty_target = EMPTY_DEFAULT;
    d->pool_limits = (struct cell_limits){.memory_bytes = 1ull << 30, .disk_bytes = 2ull << 30, .cpu_millis = 1000, .pids_max = 256, .open_files = 1024};
    const struct keeper_client_events events = {.on_event = on_event, .on_lost = on_lost, .on_back = on_back, .on_quiet = on_quiet, .arg = d};
    if (!(d->keeper = keeper_client_open(loop, keeper_socket, &events, e))) {
        free(d);
        return NULL;
    }
    uv_idle_init(loop, &d->turn);
    d->turn.data = d;
    uv_timer_init(loop, &d->refill_timer);
    d->refill_timer.data = d;
    struct keeper_request q = {.op = KEEPER_HELLO};
    keeper_call(d->keeper, &q, on_hello, d);
    return &d->base;
}
