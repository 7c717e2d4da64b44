#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cell/cell_spec.h"

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
    free(x);
}

static void refuse(struct deferred *d) {
    struct creation *x = container_of(d, struct creation, later);
    x->cb(x->arg, &x->err, NULL);
    creation_free(x);
}

static struct cell *make_cell(struct creation *x, const struct driver_created *made) {
    struct world *w = x->world;
    struct cell *c = cell_new(w, w->config.driver->ops->id(made->cell));
    c->driver = made->cell;
    (void)snprintf(c->owner, sizeof c->owner, "%s", x->owner);
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", x->spec.template_id);
    (void)snprintf(c->template_name, sizeof c->template_name, "%s", x->spec.template_name);
    (void)snprintf(c->boot_mode, sizeof c->boot_mode, "%s", made->cold ? "cold" : made->from);
    c->limits = x->spec.limits;
    c->env = steal_ptr(&x->spec.env);
    c->metadata = steal_ptr(&x->spec.metadata);
    c->created_ms = wall_ms();
    c->active_ms = monotonic_ms();
    c->expires_ms = x->spec.ttl_ms ? c->created_ms + x->spec.ttl_ms : 0;
    c->idle_timeout_ms = x->spec.idle_timeout_ms;
    c->boot_ms = (double)(monotonic_us() - x->began_us) / 1000;
    world_add(w, c);
    cell_open_guest(c, made->guest_fd, false);
    context_attach(context_new(c, 0, LANGUAGE_PYTHON, "default"), &made->python, false);
    return c;
}

static void on_created(void *arg, struct err *err, const struct driver_created *made) {
    struct creation *x = arg;
    struct world *w = x->world;
    w->creating--;
    if (err) {
        w->counters.create_failed++;
        world_event(w, "", "sandbox.create_failed", err->code, err->text, NULL);
        x->cb(x->arg, err, NULL);
        creation_free(x);
        return;
    }
    struct cell *c = make_cell(x, made);
    /* Written before the answer: a cell that a client knows is one that the next daemon knows. */
    if (cell_save(c, &x->err) < 0) {
        w->counters.create_failed++;
        cell_end(c, "the database could not be written");
        x->cb(x->arg, &x->err, NULL);
        creation_free(x);
        return;
    }
    w->counters.created++;
    cell_arm(c);
    struct json_object *about = json_object_new_object();
    json_object_object_add(about, "template", json_object_new_string(c->template_name));
    json_object_object_add(about, "boot_mode", json_object_new_string(c->boot_mode));
    world_event(w, c->id, "sandbox.created", NULL, NULL, about);
    x->cb(x->arg, NULL, c);
    creation_free(x);
}

void cell_create(struct world *w, struct json_object *body, const char *owner, cell_create_cb cb, void *arg) {
    struct creation *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct creation){.world = w, .cb = cb, .arg = arg, .began_us = monotonic_us()};
    (void)snprintf(x->owner, sizeof x->owner, "%s", owner ? owner : "");
    int refused = cell_spec_parse(w, body, &x->spec, &x->err);
    json_object_get(x->spec.env);
    json_object_get(x->spec.metadata);
    if (refused == 0 && w->cell_count + w->creating >= w->config.cells_max)
        refused = err_hint(&x->err, ERR_LIMIT, "Delete sandboxes that are not used, or give them an idle timeout.",
                           "%u sandboxes are alive, the limit of this host", w->config.cells_max);
    if (refused < 0) {
        defer(w->defers, &x->later, refuse);
        return;
    }
    w->creating++;
    w->config.driver->ops->create(w->config.driver, x->spec.template_id, &x->spec.limits, on_created, x);
}
