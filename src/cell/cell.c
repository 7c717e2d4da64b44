#include "cell/cell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "cell/branch_inside.h"
#include "cell/image.h"
#include "cell/text.h"

struct cell *cell_new(struct world *w, const char *id) {
    struct cell *c = calloc(1, sizeof *c);
    if (!c) abort();
    c->world = w;
    c->refs = 1;
    (void)snprintf(c->id, sizeof c->id, "%s", id);
    return c;
}

static void on_hello(void *arg) { (void)arg; }

static void on_guest_lost(void *arg, const char *why) {
    struct cell *c = arg;
    log_warn("%s: %s", c->id, why);
    cell_lost(c, "lost");
}

void cell_open_guest(struct cell *c, int fd, bool taken_over) {
    c->guest =
        guest_link_open(c->world->config.loop, fd, taken_over, &(struct guest_link_events){on_hello, on_guest_lost, c});
    if (taken_over || !c->env) return;
    struct err err;
    struct json_object *op = json_object_new_object();
    json_object_object_add(op, "op", json_object_new_string("environment"));
    json_object_object_add(op, "env", json_object_get(c->env));
    if (guest_link_notice(c->guest, op, &err) < 0)
        log_warn("%s: %s", c->id, err.text); /* env is bounded: cannot happen */
    json_object_put(op);
}

struct cell *cell_hold(struct cell *c) {
    c->refs++;
    return c;
}

static void cell_free(struct cell *c) {
    struct world *w = c->world;
    deadline_unset(w->deadlines, &c->life);
    defer_cancel(w->defers, &c->ending);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_free(c->contexts[i]);
    procs_free(c); /* the link was closed before: by the end of the cell or of the world */
    history_forget_cell(&w->history, &c->history);
    for (struct cell_waiter *x; (x = c->waiters);) {
        c->waiters = x->next;
        free(x);
    }
    tail_free(&c->log);
    defer_cancel(w->defers, &c->turn_later);
    json_object_put(c->env);
    json_object_put(c->metadata);
    json_object_put(c->not_carried);
    free(c);
}

void cell_release(struct cell *c) {
    if (--c->refs == 0) cell_free(c);
}

const char *cell_id(const struct cell *c) { return c->id; }
const char *cell_owner(const struct cell *c) { return c->owner; }

int cell_gone_error(struct err *err, const char *id, const char *reason) {
    return err_hint(err, ERR_GONE, "Create a new sandbox.", "the sandbox %.40s ended: %s", id, reason);
}

struct cell *cell_find(struct world *w, const char *id, struct err *err) {
    struct cell *c = world_lookup(w, id);
    char reason[64];
    if (c && c->status < CELL_ENDING) return c;
    if (c)
        cell_gone_error(err, id, c->reason);
    else if (id_valid(id, "sbx_") &&
             (merge_unwritten(w, id, reason) || store_cell_ended(w->config.store, id, reason, sizeof reason)))
        cell_gone_error(err, id, reason);
    else
        err_set(err, ERR_NOT_FOUND, "no sandbox has the id \"%.40s\"", id);
    return NULL;
}

int cell_usable(struct cell *c, struct err *err) {
    if (c->status >= CELL_ENDING) return cell_gone_error(err, c->id, c->reason);
    if (c->status == CELL_RUNNING) return 0;
    if (cell_asleep(c))
        return err_hint(err, ERR_CONFLICT, "Wake it first.", "the sandbox %s is hibernated", c->id);
    return err_hint(err, ERR_CONFLICT, "Resume it first.", "the sandbox %s is paused", c->id);
}

void cell_touch(struct cell *c) { c->active_ms = monotonic_ms(); }

/* ---- the end of a cell: executions and processes end, the driver gives everything back, the store keeps the reason
 * ---- */

static void tell_waiters(struct cell *c, struct err *err) {
    for (struct cell_waiter *x; (x = c->waiters);) {
        c->waiters = x->next;
        if (x->cb) x->cb(x->arg, err);
        free(x);
    }
}

/* With an image both rows go in one commit that lasts: a deleted Space does not come back after a power cut. */
static int end_rows(struct cell *c, struct err *err) {
    struct store *s = c->world->config.store;
    if (!c->image_id[0]) return store_cell_delete(s, c->id, c->reason, err);
    store_begin_durable(s);
    if (store_cell_delete(s, c->id, c->reason, err) == 0 && store_image_delete(s, c->image_id, err) == 0)
        return store_commit_durable(s, err);
    store_rollback(s);
    return -1;
}

static void on_destroyed(void *arg, struct err *err) {
    struct cell *c = arg;
    struct world *w = c->world;
    struct err failed;
    char image[CELL_ID_MAX];
    memcpy(image, c->image_id, sizeof image);
    c->status = CELL_ENDED;
    cell_cpu_settle(c);
    if (err) log_error("%s: not everything was given back: %s", c->id, err->text);
    if (end_rows(c, &failed) < 0)
        log_error("%s: %s", c->id, failed.text);
    else
        image_discard(w, image);
    bool asked =
        strcmp(c->reason, "lost") != 0 && strcmp(c->reason, "killed") != 0 && strcmp(c->reason, "out of memory") != 0;
    if (asked)
        w->counters.deleted++;
    else
        w->counters.lost++;
    branch_ended(w, c->id, c->metadata, c->reason);
    world_event(w, c->id, asked ? "sandbox.deleted" : "sandbox.lost", NULL, c->reason, NULL);
    cell_log_end(c);
    tell_waiters(c, err);
    if (w->closing)
        cell_release(c);
    else
        world_remove(w, c);
}

static const char *word_of_end(const struct cell *c) {
    if (strcmp(c->reason, "out of memory") == 0) return "oom";
    return strcmp(c->reason, "lost") == 0 ? "lost" : "killed";
}

static void end_now(struct deferred *d) {
    struct cell *c = container_of(d, struct cell, ending);
    const char *word = word_of_end(c);
    deadline_unset(c->world->deadlines, &c->life);
    cell_hold(c);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_end_all(c->contexts[i], word, c->reason);
    struct guest_link *guest = c->guest;
    c->guest = NULL;
    if (guest) guest_link_close(guest, c->reason);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_free(c->contexts[i]);
    cell_cpu_look(c);
    if (c->driver)
        c->world->config.driver->ops->destroy(steal_ptr(&c->driver), on_destroyed, c);
    else
        on_destroyed(c, NULL);
    cell_release(c);
}

void cell_end(struct cell *c, const char *reason) {
    if (c->status >= CELL_ENDING) return;
    c->status = CELL_ENDING;
    (void)snprintf(c->reason, sizeof c->reason, "%s", reason);
    c->end_waits = c->turn_taken; /* an operation holds parts of it: see cell_turn_over */
    if (!c->end_waits) defer(c->world->defers, &c->ending, end_now);
}

void cell_end_go(struct cell *c) { defer(c->world->defers, &c->ending, end_now); }

static void tell_later(struct deferred *d) { tell_waiters(container_of(d, struct cell, ending), NULL); }

void cell_delete(struct cell *c, const char *reason, cell_done_cb cb, void *arg) {
    struct cell_waiter *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct cell_waiter){.cb = cb, .arg = arg};
    struct cell_waiter **at = &c->waiters;
    while (*at) at = &(*at)->next;
    *at = x;
    if (c->status == CELL_ENDED)
        defer(c->world->defers, &c->ending, tell_later);
    else
        cell_end(c, reason);
}

/* ---- what the driver says ---- */

static struct cell *of_driver(struct world *w, struct driver_cell *dc) {
    struct cell *c = world_lookup(w, w->config.driver->ops->id(dc));
    return c && c->driver == dc ? c : NULL;
}

void cell_set_driver(struct cell *c, struct driver_cell *dc) {
    const struct driver_ops *ops = driver_cell_ops(dc);
    c->driver = dc;
    (void)snprintf(c->driver_name, sizeof c->driver_name, "%s", ops->name);
    (void)snprintf(c->isolation, sizeof c->isolation, "%s", ops->isolation);
}

void cell_on_gone(void *arg, struct driver_cell *dc, enum cell_fate fate) {
    struct cell *c = of_driver(arg, dc);
    if (!c) return;
    c->driver = NULL;
    if (fate == CELL_FATE_OOM) c->world->counters.oom++;
    cell_lost(c, fate == CELL_FATE_OOM ? "out of memory" : fate == CELL_FATE_LOST ? "lost" : "killed");
}

void cell_on_context_exit(void *arg, struct driver_cell *dc, int slot, enum context_fate fate, int code) {
    struct cell *c = of_driver(arg, dc);
    if (c && slot >= 0 && slot < DRIVER_SLOTS && c->contexts[slot]) context_exited(c->contexts[slot], fate, code);
}

char *cell_logs(struct cell *c, const char *stream) {
    struct buf raw = {0}, text = {0};
    int which = strcmp(stream, "stdout") == 0 ? 0 : strcmp(stream, "stderr") == 0 ? 1 : -1;
    tail_copy(&c->log, which, &raw);
    text_append_utf8(&text, raw.data, raw.len);
    buf_append(&text, "", 0);
    buf_free(&raw);
    return text.data;
}
