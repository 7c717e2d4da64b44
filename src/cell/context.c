/* What the API asks of contexts. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cell/domain.h"

struct context *context_find(struct cell *c, const char *id, struct err *err) {
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i] && !c->contexts[i]->deleting && strcmp(c->contexts[i]->id, id) == 0) return c->contexts[i];
    err_set(err, ERR_NOT_FOUND, "the sandbox has no context \"%.60s\"", id);
    return NULL;
}

static int free_slot(struct cell *c, struct err *err) {
    for (int i = 1; i < DRIVER_SLOTS; i++) /* slot 0 is the default context's, also after its delete */
        if (!c->contexts[i]) return i;
    return err_set(err, ERR_LIMIT, "the sandbox has %d contexts, which is the limit", DRIVER_SLOTS);
}

static struct context *add(struct cell *c, int slot, const char *language, const char *id) {
    struct err err;
    struct context *x = context_new(c, slot, language, id);
    context_make(x);
    (void)cell_save(c, &err); /* a context that the next daemon does not know is one it ends: no harm to the others */
    return x;
}

struct context *context_for(struct cell *c, const char *context_id, const char *language, struct err *err) {
    if (context_id) {
        struct context *x = context_find(c, context_id, err);
        if (x && language && strcmp(language, x->language) != 0) {
            err_set(err, ERR_INVALID, "the context %.60s runs %s, not %s", context_id, x->language, language);
            return NULL;
        }
        return x;
    }
    if (!language || strcmp(language, LANGUAGE_PYTHON) == 0) {
        struct context *x = c->contexts[0];
        if (x && !x->deleting) return x;
        if (!x) return add(c, 0, LANGUAGE_PYTHON, "default");
        err_set(err, ERR_CONFLICT, "the default context is being deleted");
        return NULL;
    }
    /* The shell that was made on first use carries the id "shell". */
    for (int i = 1; i < DRIVER_SLOTS; i++)
        if (c->contexts[i] && !c->contexts[i]->deleting && strcmp(c->contexts[i]->id, LANGUAGE_SHELL) == 0)
            return c->contexts[i];
    int slot = free_slot(c, err);
    return slot < 0 ? NULL : add(c, slot, LANGUAGE_SHELL, LANGUAGE_SHELL);
}

static const char *state_word(const struct context *x) {
    if (x->state == CONTEXT_MAKING || x->dying) return "restarting";
    if (x->running || x->queue || x->taking_over) return "busy";
    return x->state == CONTEXT_LOST ? "lost" : "idle";
}

static struct json_object *describe(struct context *x) {
    struct json_object *o = json_object_new_object();
    char time[32];
    format_time(time, x->created_ms);
    json_object_object_add(o, "id", json_object_new_string(x->id));
    json_object_object_add(o, "language", json_object_new_string(x->language));
    json_object_object_add(o, "created_at", json_object_new_string(time));
    json_object_object_add(o, "cwd", x->cwd ? json_object_new_string(x->cwd) : NULL);
    json_object_object_add(o, "state", json_object_new_string(state_word(x)));
    json_object_object_add(o, "execution_count", json_object_new_uint64(x->execution_count));
    json_object_object_add(o, "restarts", json_object_new_uint64(x->restarts));
    return o;
}

struct json_object *context_describe(struct cell *c, const char *id, struct err *err) {
    struct context *x = context_find(c, id, err);
    return x ? describe(x) : NULL;
}

struct json_object *context_list(struct cell *c) {
    struct json_object *list = json_object_new_array();
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i] && !c->contexts[i]->deleting) json_object_array_add(list, describe(c->contexts[i]));
    return list;
}

/* ---- calls that answer later ---- */

struct call {
    struct cell *cell;
    cell_json_cb json_cb;
    cell_done_cb done_cb;
    void *arg;
    char id[DOMAIN_ID];
    struct err err;
    bool failed;
    struct deferred later;
};

static void answer(struct deferred *d) {
    struct call *x = container_of(d, struct call, later);
    struct json_object *o = NULL;
    if (!x->failed && x->json_cb && !(o = context_describe(x->cell, x->id, &x->err))) x->failed = true;
    if (x->json_cb) x->json_cb(x->arg, x->failed ? &x->err : NULL, o);
    if (x->done_cb) x->done_cb(x->arg, x->failed ? &x->err : NULL);
    json_object_put(o);
    cell_release(x->cell);
    free(x);
}

static struct call *call_new(struct cell *c, cell_json_cb json_cb, cell_done_cb done_cb, void *arg) {
    struct call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct call){.cell = cell_hold(c), .json_cb = json_cb, .done_cb = done_cb, .arg = arg};
    return x;
}

static int create(struct cell *c, struct json_object *body, char id[DOMAIN_ID], struct err *err) {
    const char *word = LANGUAGE_PYTHON, *cwd = NULL;
    struct json_object *env = NULL;
    if (cell_usable(c, err) < 0 || body_text(body, "language", &word, err) < 0 ||
        body_text(body, "cwd", &cwd, err) < 0 || body_map(body, "env", true, &env, err) < 0)
        return -1;
    const char *language = language_name(word);
    if (!language) return err_set(err, ERR_INVALID, "language must be \"python\" or \"bash\", not \"%.40s\"", word);
    if (cwd && (cwd[0] != '/' || strlen(cwd) > 4000)) return err_set(err, ERR_INVALID, "cwd must be an absolute path");
    int slot = free_slot(c, err);
    if (slot < 0) return -1;
    struct context *x = context_new(c, slot, language, NULL);
    x->cwd = cwd ? strdup(cwd) : NULL;
    x->env = json_object_get(env);
    memcpy(id, x->id, sizeof x->id);
    return slot;
}

void context_create(struct cell *c, struct json_object *body, cell_json_cb cb, void *arg) {
    struct call *x = call_new(c, cb, NULL, arg);
    int slot = create(c, body, x->id, &x->err);
    if (slot < 0) {
        x->failed = true;
        defer(c->world->defers, &x->later, answer);
        return;
    }
    struct context *made = c->contexts[slot];
    made->restart_cb = cb; /* told when the driver has made it */
    made->restart_arg = arg;
    context_make(made);
    (void)cell_save(c, &x->err);
    cell_release(c);
    free(x);
}

int context_interrupt(struct cell *c, const char *id, struct err *err) {
    struct context *x = context_find(c, id, err);
    if (!x || cell_usable(c, err) < 0) return -1;
    if (!x->running && (x->taking_over || x->inspecting)) { /* what the last daemon started and did not write down */
        c->world->config.driver->ops->context_signal(c->driver, x->slot, SIGINT);
        return 0;
    }
    if (!x->running || x->running->stage != STAGE_RUNNING)
        return err_set(err, ERR_CONFLICT, "no execution runs in the context %.60s", id);
    return execution_interrupt(x->running, err);
}

void context_restart(struct cell *c, const char *id, cell_json_cb cb, void *arg) {
    struct call *call = call_new(c, cb, NULL, arg);
    struct context *x = context_find(c, id, &call->err);
    call->failed = !x || cell_usable(c, &call->err) < 0;
    if (!call->failed && x->restart_cb)
        call->failed = err_set(&call->err, ERR_CONFLICT, "the context %.60s is being restarted", id) < 0;
    if (call->failed) {
        defer(c->world->defers, &call->later, answer);
        return;
    }
    x->restart_cb = cb;
    x->restart_arg = arg;
    if (x->running && x->running->stop == STOP_NONE) x->running->stop = STOP_KILL;
    if (x->state == CONTEXT_LOST) {
        x->failed_starts = 0;
        x->restarts++;
        context_make(x);
    } else
        context_kill(x); /* MAKING: it is fresh as soon as it is there */
    cell_release(c);
    free(call);
}

static void delete_lost(struct deferred *d) {
    struct context *x = container_of(d, struct context, later);
    cell_done_cb cb = x->delete_cb;
    void *arg = x->delete_arg;
    struct cell *c = x->cell;
    struct err err;
    context_end_all(x, "killed", "the context was deleted");
    context_free(x);
    (void)cell_save(c, &err);
    if (cb) cb(arg, NULL);
}

void context_delete(struct cell *c, const char *id, cell_done_cb cb, void *arg) {
    struct call *call = call_new(c, NULL, cb, arg);
    struct context *x = context_find(c, id, &call->err);
    call->failed = !x || cell_usable(c, &call->err) < 0;
    if (call->failed) {
        defer(c->world->defers, &call->later, answer);
        return;
    }
    x->deleting = true;
    x->delete_cb = cb;
    x->delete_arg = arg;
    if (x->running && x->running->stop == STOP_NONE) x->running->stop = STOP_KILL;
    if (x->state == CONTEXT_LOST)
        defer(c->world->defers, &x->later, delete_lost);
    else
        context_kill(x);
    cell_release(c);
    free(call);
}
