#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cell/cell_spec.h"
#include "cell/image.h"

/* A create under way. */
struct creation {
    struct world *world;
    cell_create_cb cb;
    void *arg;
    struct cell_spec spec; /* env and metadata: references of its own */
    char owner[64];
    int64_t began_us;
    struct err err;
    struct deferred later;
};

static void creation_free(struct creation *x) {
    json_object_put(x->spec.env);
    json_object_put(x->spec.metadata);
    json_object_put(x->spec.image_row);
    free(x);
}

static void refuse(struct deferred *d) {
    struct creation *x = container_of(d, struct creation, later);
    x->cb(x->arg, &x->err, NULL);
    creation_free(x);
}

static struct cell *make_cell(struct creation *x, struct driver_cell *dc, const char *boot_mode) {
    struct world *w = x->world;
    struct cell *c = cell_new(w, w->config.driver->ops->id(dc));
    cell_set_driver(c, dc);
    (void)snprintf(c->owner, sizeof c->owner, "%s", x->owner);
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", x->spec.template_id);
    (void)snprintf(c->template_name, sizeof c->template_name, "%s", x->spec.template_name);
    (void)snprintf(c->boot_mode, sizeof c->boot_mode, "%s", boot_mode);
    c->limits = x->spec.limits;
    c->env = steal_ptr(&x->spec.env);
    c->metadata = steal_ptr(&x->spec.metadata);
    c->created_ms = wall_ms();
    c->active_ms = monotonic_ms();
    c->ttl_ms = x->spec.ttl_ms;
    c->expires_ms = x->spec.ttl_ms ? c->created_ms + x->spec.ttl_ms : 0;
    c->idle_timeout_ms = x->spec.idle_timeout_ms;
    cell_set_persistence(c, x->spec.persistent, x->spec.freeze_on_timeout);
    c->boot_ms = (double)(monotonic_us() - x->began_us) / 1000;
    world_add(w, c);
    return c;
}

static void create_failed(struct creation *x, struct err *err) {
    x->world->counters.create_failed++;
    world_event(x->world, "", "sandbox.create_failed", err->code, err->text, NULL);
    x->cb(x->arg, err, NULL);
    creation_free(x);
}

static void finish(struct creation *x, struct cell *c) {
    struct world *w = x->world;
    /* Written before the answer: a cell that a client knows is one that the next daemon knows. */
    if (cell_save(c, &x->err) < 0) {
        w->counters.create_failed++;
        cell_end(c, "the database could not be written");
        x->cb(x->arg, &x->err, NULL);
        creation_free(x);
        return;
    }
    w->counters.created++;
    cell_used(c, USE_CREATED, 1);
    cell_arm(c);
    struct json_object *about = json_object_new_object();
    json_object_object_add(about, "template", json_object_new_string(c->template_name));
    json_object_object_add(about, "boot_mode", json_object_new_string(c->boot_mode));
    world_event(w, c->id, "sandbox.created", NULL, NULL, about);
    x->cb(x->arg, NULL, c);
    creation_free(x);
}

static void on_created(void *arg, struct err *err, const struct driver_created *made) {
    struct creation *x = arg;
    x->world->creating--;
    if (err) {
        create_failed(x, err);
        return;
    }
    struct cell *c = make_cell(x, made->cell, made->cold ? "cold" : made->from);
    cell_open_guest(c, made->guest_fd, false);
    context_attach(context_new(c, 0, LANGUAGE_PYTHON, "default"), &made->python, false);
    finish(x, c);
}

/* ---- from a snapshot ---- */

/* What the request says lies over what the original had. */
static void overlay(struct json_object **mine, struct json_object *original) {
    struct json_object *both = json_object_new_object();
    if (original) {
        json_object_object_foreach(original, name, value) json_object_object_add(both, name, json_object_get(value));
    }
    if (*mine) {
        json_object_object_foreach(*mine, name, value) json_object_object_add(both, name, json_object_get(value));
    }
    json_object_put(*mine);
    *mine = both;
}

static void on_thawed(void *arg, struct err *err, const struct driver_copy *copy) {
    struct creation *x = arg;
    struct json_object *original = body_get(x->spec.image_row, "cell");
    x->world->creating--;
    if (err) {
        create_failed(x, err);
        return;
    }
    struct json_object *said = json_object_get(x->spec.env);
    overlay(&x->spec.env, body_get(original, "env"));
    overlay(&x->spec.metadata, body_get(original, "metadata"));
    struct cell *c = make_cell(x, copy->cell, "snapshot");
    cell_contexts_from_row(c, original, RUNNING_NEW);
    cell_attach_copy(c, copy);
    c->not_carried = cell_not_carried(c, copy->not_carried);
    for (int i = 0; said && i < DRIVER_SLOTS; i++) /* the interpreters are there already: they are told */
        if (c->contexts[i] && c->contexts[i]->link) context_put_environment(c->contexts[i], said);
    json_object_put(said);
    cell_keep_running_records(c);
    finish(x, c);
}

static void thaw(struct creation *x) {
    struct driver *d = x->world->config.driver;
    char dir[IMAGE_PATH];
    image_path(x->world, x->spec.image_id, false, dir);
    d->ops->thaw(d, x->spec.image_id, dir, NULL, &x->spec.limits, on_thawed, x);
}

void cell_create(struct world *w, struct json_object *body, const char *owner, cell_create_cb cb, void *arg) {
    struct creation *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct creation){.world = w, .cb = cb, .arg = arg, .began_us = monotonic_us()};
    (void)snprintf(x->owner, sizeof x->owner, "%s", owner ? owner : "");
    int refused = cell_spec_parse(w, body, x->owner, &x->spec, &x->err);
    json_object_get(x->spec.env);
    json_object_get(x->spec.metadata);
    if (refused == 0) refused = world_room(w, 1, &x->err);
    if (refused < 0) {
        defer(w->defers, &x->later, refuse);
        return;
    }
    w->creating++;
    if (x->spec.image_id[0])
        thaw(x);
    else
        x->spec.driver->ops->create(x->spec.driver, x->spec.template_id, &x->spec.limits, on_created, x);
}
