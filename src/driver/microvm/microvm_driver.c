#include "driver/microvm/microvm_driver.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "driver/microvm/internal.h"

#define POOL_DEFAULT 2 /* a machine that waits costs what its guest wrote since the copy: some MB */
#define VCPUS_MAX 8    /* wire/vmm_proto.h */

_Static_assert(DRIVER_SLOTS == KEEPER_SLOTS, "driver and keeper agree on the slots of a cell");

static struct microvm *self(struct driver *d) { return (struct microvm *)d; }

uint32_t microvm_capture_number(struct microvm *d) {
    /* The process driver counts from 1 on the same connection: these have the highest bit. */
    if (!++d->last_capture || !(d->last_capture >> 31)) d->last_capture = 0x80000001u;
    return d->last_capture;
}

void microvm_capture_drop(struct microvm *d, uint32_t capture) {
    struct keeper_request q = {.op = KEEPER_CAPTURE_DROP, .capture = capture};
    keeper_ask(d->keeper, &q, NULL, NULL);
}

/* ---- later ---- */

struct later {
    struct later *next;
    void (*turn)(void *arg);
    void *arg;
};

static void on_turn(uv_idle_t *h) {
    struct microvm *d = h->data;
    struct later *first = d->later;
    d->later = NULL;
    d->later_last = &d->later;
    uv_idle_stop(h);
    while (first) {
        struct later *l = first;
        first = l->next;
        l->turn(l->arg);
        free(l);
    }
}

void microvm_later(struct microvm *d, void (*turn)(void *), void *arg) {
    struct later *l = calloc(1, sizeof *l);
    if (!l) abort();
    *l = (struct later){NULL, turn, arg};
    *d->later_last = l;
    d->later_last = &l->next;
    uv_idle_start(&d->turn, on_turn);
}

/* ---- events ---- */

static bool on_event(void *arg, const struct keeper_reply *r, const int *fds, size_t n) {
    struct microvm *d = arg;
    struct driver_cell *c = machine_cell_by(d, r->cell, r->serial);
    switch (r->op) {
    case KEEPER_EVENT_FOUND:
        if (r->machine) machine_found(d, r, fds, n);
        return r->machine;
    case KEEPER_EVENT_CELL_GONE:
        if (!c || !r->serial) return template_event(d, r);
        machine_gone(c, r->fate == KEEPER_FATE_OOM ? CELL_FATE_OOM : CELL_FATE_KILLED);
        machine_refill(d);
        return true;
    case KEEPER_EVENT_LAYER:
        if (d->keeping) kept_layers_told(d->keeping, r->id);
        return d->keeping != NULL;
    default: return false;
    }
}

static void on_hello(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct microvm *d = arg;
    (void)fds, (void)n;
    if (!e) d->report = r->report;
}

static void say_hello(struct microvm *d) {
    struct keeper_request q = {.op = KEEPER_HELLO};
    keeper_call(d->keeper, &q, on_hello, d);
}

/* Machines end with their keeper. */
static void on_lost(void *arg) {
    struct microvm *d = arg;
    d->keeper_lost = true;
    templates_forget(d);
    while (d->cells) {
        struct driver_cell *c = d->cells;
        machine_cell_hold(c);
        if (c->out || c->pool) machine_gone(c, CELL_FATE_LOST);
        machine_cell_end(c); /* the first of the list now is another one, whatever the callbacks did */
        machine_cell_release(c);
    }
}

static void on_back(void *arg) {
    struct microvm *d = arg;
    d->keeper_lost = false;
    say_hello(d);
}

/* ---- open, report, close ---- */

bool microvm_driver_kvm(const struct driver *d) { return ((const struct microvm *)d)->report.features & KEEPER_HAS_KVM; }

int microvm_driver_has(const struct driver *base, const char *template_id, struct err *e) {
    const struct microvm *d = (const struct microvm *)base;
    static const char *const needed[] = {"kernel", "initrd", "root.erofs", "disk.img"};
    char path[4300];
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        (void)snprintf(path, sizeof path, "%s/%.64s/%s", d->config.machines_dir, template_id, needed[i]);
        /* A directory that only root may search tells nothing: the keeper will say what is missing. */
        if (access(path, F_OK) && (errno == ENOENT || errno == ENOTDIR))
            return err_hint(e, ERR_TEMPLATE, "run `cella template build python --machine yes` (or the name of your template), or ask for the driver \"process\"",
                            "the template %.12s has no machine to boot (%s is missing)", template_id, needed[i]);
    }
    return 0;
}

static struct json_object *report(struct driver *base) {
    struct microvm *d = self(base);
    struct json_object *o = json_object_new_object(), *pools = json_object_new_array();
    for (const struct pool *p = d->pools; p; p = p->next) {
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "template", json_object_new_string(p->template_id));
        json_object_object_add(j, "ready", json_object_new_boolean(template_ready(d, p->template_id) != NULL));
        json_object_object_add(j, "filled", json_object_new_int64(p->filled_count));
        json_object_object_add(j, "empty", json_object_new_int64(0));
        json_object_array_add(pools, j);
    }
    json_object_object_add(o, "name", json_object_new_string(base->ops->name));
    json_object_object_add(o, "isolation", json_object_new_string(base->ops->isolation));
    json_object_object_add(o, "keeper", json_object_new_string(d->keeper_lost ? "lost" : "connected"));
    json_object_object_add(o, "kvm", json_object_new_boolean(microvm_driver_kvm(base)));
    json_object_object_add(o, "machine_memory_mb", json_object_new_int64((int64_t)(d->config.memory_bytes >> 20)));
    json_object_object_add(o, "machine_vcpus", json_object_new_int64(d->config.vcpus));
    json_object_object_add(o, "pools", pools);
    json_object_object_add(o, "pool_filled_target", json_object_new_int64(d->pool_target));
    json_object_object_add(o, "pool_empty_target", json_object_new_int64(0));
    json_object_object_add(o, "templates", templates_report(d));
    json_object_object_add(o, "creates_from_filled", json_object_new_int64((int64_t)d->from_pool));
    json_object_object_add(o, "creates_from_empty", json_object_new_int64(0));
    json_object_object_add(o, "creates_made", json_object_new_int64((int64_t)d->made));
    json_object_object_add(o, "bakes", json_object_new_int64((int64_t)d->bakes));
    json_object_object_add(o, "bakes_failed", json_object_new_int64((int64_t)d->bakes_failed));
    json_object_object_add(o, "bake_ms_last", json_object_new_int64(d->bake_ms_last));
    json_object_object_add(o, "forks", json_object_new_int64((int64_t)d->forks));
    json_object_object_add(o, "cells_copied", json_object_new_int64((int64_t)d->copies));
    return o;
}

void microvm_free_last(void *arg) {
    struct microvm *d = arg;
    if (!d->closing || d->handles || d->works.count) return;
    free((char *)d->config.machines_dir);
    free((char *)d->config.key_file);
    free(d);
}

static void on_closed(uv_handle_t *h) {
    struct microvm *d = h->data;
    d->handles--;
    microvm_free_last(d);
}

static void driver_close(struct driver *base) {
    struct microvm *d = self(base);
    d->closing = true;
    d->handles = 3;
    keeper_client_close(d->keeper);
    kept_layers_forget(d->keeping);
    while (d->cells) machine_cell_end(d->cells);
    machine_pools_close(d);
    templates_close(d);
    for (struct later *l = d->later, *next; l; l = next) {
        next = l->next;
        free(l);
    }
    uv_close((uv_handle_t *)&d->turn, on_closed);
    uv_close((uv_handle_t *)&d->refill_timer, on_closed);
    uv_close((uv_handle_t *)&d->ended_timer, on_closed);
}

static void set_listener(struct driver *base, const struct driver_listener *l) { self(base)->listener = *l; }
static const char *cell_id_of(const struct driver_cell *c) { return c->id; }
/* The keeper counts its cells and never gives a number twice. */
static uint64_t incarnation(const struct driver_cell *c) { return ((uint64_t)c->index + 1) << 32 | c->serial; }
static void image_drop(struct driver *base, const char *image_id, driver_done done, void *arg) { kept_layer_drop(self(base)->keeper, image_id, done, arg); }
static void images_keep(struct driver *base, const char *const *keep, size_t n, driver_done done, void *arg) {
    kept_layers_sweep(self(base)->keeper, &self(base)->keeping, keep, n, done, arg);
}

static const struct driver_ops ops = {
    .name = "microvm",
    .isolation = "a virtual machine with its own kernel under KVM; its monitor jailed (own user, empty root, seccomp, no capabilities, cgroup limits)",
    .set_listener = set_listener, .adopt = machine_adopt, .warm = machine_warm, .create = machine_create, .context_make = machine_context_make,
    .context_signal = machine_context_signal, .set_limits = machine_set_limits, .pause = machine_pause, .resume = machine_resume, .stats = machine_stats,
    .destroy = machine_destroy, .id = cell_id_of, .fork = machine_fork, .rename = machine_rename, .freeze = machine_freeze, .release = machine_release_held,
    .thaw = machine_thaw, .image_drop = image_drop, .images_keep = images_keep, .incarnation = incarnation, .report = report, .close = driver_close,
};

struct driver *microvm_driver_open(uv_loop_t *loop, struct keeper_client *beside, const struct microvm_config *config, struct err *e) {
    struct microvm *d = calloc(1, sizeof *d);
    if (!d) abort();
    *d = (struct microvm){.base.ops = &ops, .loop = loop, .works = {.loop = loop, .done = microvm_free_last, .driver = d}, .config = *config, .pool_target = config->pool < 0 ? POOL_DEFAULT : (unsigned)config->pool};
    d->config.machines_dir = strdup(config->machines_dir);
    d->config.key_file = strdup(config->key_file);
    d->later_last = &d->later;
    if (!d->config.machines_dir || !d->config.key_file || !config->vcpus || config->vcpus > VCPUS_MAX) {
        err_set(e, ERR_INVALID, "a machine has 1 to %d vCPUs", VCPUS_MAX);
        free((char *)d->config.machines_dir);
        free((char *)d->config.key_file);
        free(d);
        return NULL;
    }
    if (d->config.limits.memory_bytes > config->memory_bytes) d->config.limits.memory_bytes = config->memory_bytes;
    if (d->config.limits.cpu_millis > config->vcpus * 1000) d->config.limits.cpu_millis = config->vcpus * 1000;
    d->keeper = keeper_client_join(beside, &(struct keeper_client_events){.on_event = on_event, .on_lost = on_lost, .on_back = on_back, .arg = d});
    uv_idle_init(loop, &d->turn);
    uv_timer_init(loop, &d->refill_timer);
    uv_timer_init(loop, &d->ended_timer);
    d->turn.data = d->refill_timer.data = d->ended_timer.data = d;
    say_hello(d);
    return &d->base;
}
