/* Life of a cell in time: ttl, idle timeout, pause. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/cell_spec.h"

bool cell_busy(const struct cell *c) {
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i] && (c->contexts[i]->running || c->contexts[i]->queue)) return true;
    return c->transfers > 0 || procs_alive(c);
}

static bool is_awake(const struct cell *c) { return c->status == CELL_RUNNING || c->status == CELL_PAUSED; }

/* A timeout came: 1 it was dealt with, 0 not now. */
static bool time_over(struct cell *c, bool idle) {
    if (!c->freeze_on_timeout) {
        cell_end(c, idle ? "it was idle for too long" : "its time to live was over");
        return true;
    }
    if (!is_awake(c) || monotonic_ms() < c->freeze_again_ms) return false;
    cell_freeze_on_timeout(c, idle);
    return true;
}

static void on_life(struct deadline *d) {
    struct cell *c = container_of(d, struct cell, life);
    int64_t now = monotonic_ms();
    if (c->expires_ms && wall_ms() >= c->expires_ms && time_over(c, false)) return;
    /* Work counts as activity, and the clock starts when it ends: so it is looked at again a whole timeout later. */
    if (c->idle_timeout_ms && cell_busy(c)) c->active_ms = now;
    if (c->idle_timeout_ms && c->status == CELL_RUNNING && now >= c->active_ms + c->idle_timeout_ms && time_over(c, true)) return;
    cell_arm(c);
}

void cell_arm(struct cell *c) {
    int64_t now = monotonic_ms(), at = INT64_MAX;
    if (c->expires_ms && (is_awake(c) || !c->freeze_on_timeout)) at = now + (c->expires_ms - wall_ms());
    /* An idle deadline that moved on is found when the old one fires: a request costs no timer. */
    int64_t idle_at = c->active_ms + c->idle_timeout_ms;
    if (c->idle_timeout_ms && c->status == CELL_RUNNING && idle_at < at) at = idle_at;
    if (at < c->freeze_again_ms && c->freeze_on_timeout) at = c->freeze_again_ms;
    if (at == INT64_MAX || c->status >= CELL_ENDING)
        deadline_unset(c->world->deadlines, &c->life);
    else
        deadline_set(c->world->deadlines, &c->life, at, on_life);
}

static void make_space(struct cell *c, bool persistent) {
    c->persistent = persistent;
    c->space_id[0] = 0;
    if (persistent) (void)snprintf(c->space_id, sizeof c->space_id, "space_%s", c->id + 4);
}

void cell_set_persistence(struct cell *c, bool persistent, bool freeze_on_timeout) {
    make_space(c, persistent);
    c->freeze_on_timeout = freeze_on_timeout;
}

struct life { /* what a patch may change, to put it back */
    int64_t expires_ms, ttl_ms, idle_timeout_ms;
    bool persistent, freezes;
    struct json_object *metadata;
};

static void put_life(struct cell *c, const struct life *l) {
    c->expires_ms = l->expires_ms;
    c->ttl_ms = l->ttl_ms;
    c->idle_timeout_ms = l->idle_timeout_ms;
    c->metadata = l->metadata;
    cell_set_persistence(c, l->persistent, l->freezes);
}

int cell_set_lifecycle(struct cell *c, struct json_object *patch, struct err *err) {
    struct json_object *metadata = NULL;
    bool ttl_said = false, idle_said = false;
    struct life old = {c->expires_ms, c->ttl_ms, c->idle_timeout_ms, c->persistent, c->freeze_on_timeout, c->metadata}, new = old;
    if (c->status >= CELL_ENDING) return cell_gone_error(err, c->id, c->reason);
    if (cell_spec_times(patch, &new.ttl_ms, &new.idle_timeout_ms, &ttl_said, &idle_said, err) < 0 ||
        cell_spec_metadata(patch, &metadata, err) < 0 ||
        cell_spec_persistence(c->world, patch, &new.persistent, &new.freezes, err) < 0)
        return -1;
    if (ttl_said) new.expires_ms = new.ttl_ms ? wall_ms() + new.ttl_ms : 0;
    if (metadata) new.metadata = json_object_get(metadata);
    put_life(c, &new);
    cell_touch(c);
    if (cell_save(c, err) < 0) { /* not written, not done */
        if (metadata) json_object_put(new.metadata);
        put_life(c, &old);
        return -1;
    }
    if (metadata) json_object_put(old.metadata);
    cell_arm(c);
    return 0;
}

/* ---- pause and resume ---- */

struct change {
    struct cell *cell;
    cell_done_cb cb;
    void *arg;
    struct err err;
    struct deferred later;
};

static struct change *change_new(struct cell *c, cell_done_cb cb, void *arg) {
    struct change *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct change){.cell = cell_hold(c), .cb = cb, .arg = arg};
    return x;
}

static void change_done(struct change *x, struct err *err) {
    if (x->cb) x->cb(x->arg, err);
    cell_release(x->cell);
    free(x);
}

static void refused(struct deferred *d) {
    struct change *x = container_of(d, struct change, later);
    change_done(x, &x->err);
}
static void nothing_to_do(struct deferred *d) { change_done(container_of(d, struct change, later), NULL); }

static void changed(struct cell *c, const char *event) {
    struct err err;
    if (cell_save(c, &err) < 0) log_warn("%s: %s", c->id, err.text);
    world_event(c->world, c->id, event, NULL, NULL, NULL);
}

static void on_paused(void *arg, struct err *err) {
    struct change *x = arg;
    struct cell *c = x->cell;
    if (c->status == CELL_PAUSING) {
        c->status = err ? CELL_RUNNING : CELL_PAUSED;
        c->paused_ms = monotonic_ms();
        if (!err) cell_clocks_hold(c);
        cell_arm(c);
        if (!err) c->world->counters.paused++, changed(c, "sandbox.paused");
    }
    change_done(x, err);
}

void cell_pause(struct cell *c, cell_done_cb cb, void *arg) {
    struct change *x = change_new(c, cb, arg);
    if (c->status == CELL_PAUSED)
        defer(c->world->defers, &x->later, nothing_to_do);
    else if (cell_usable(c, &x->err) < 0)
        defer(c->world->defers, &x->later, refused);
    else {
        c->status = CELL_PAUSING;
        c->world->config.driver->ops->pause(c->driver, on_paused, x);
    }
}

static void on_resumed(void *arg, struct err *err) {
    struct change *x = arg;
    struct cell *c = x->cell;
    if (!err && c->status == CELL_PAUSED) {
        c->status = CELL_RUNNING;
        c->world->counters.resumed++;
        int64_t slept = monotonic_ms() - c->paused_ms;
        cell_touch(c);
        cell_arm(c);
        cell_clocks_go(c, slept);
        changed(c, "sandbox.resumed");
    }
    change_done(x, err);
}

void cell_resume(struct cell *c, cell_done_cb cb, void *arg) {
    struct change *x = change_new(c, cb, arg);
    if (c->status == CELL_RUNNING)
        defer(c->world->defers, &x->later, nothing_to_do);
    else if (c->status == CELL_PAUSED)
        c->world->config.driver->ops->resume(c->driver, on_resumed, x);
    else {
        if (c->status == CELL_PAUSING)
            err_set(&x->err, ERR_CONFLICT, "the sandbox %s is being paused", c->id);
        else
            cell_gone_error(&x->err, c->id, c->reason);
        defer(c->world->defers, &x->later, refused);
    }
}

/* The time a cell is paused does not count towards the timeouts of what runs in it. */
void cell_clocks_hold(struct cell *c) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct execution *x = c->contexts[i] ? c->contexts[i]->running : NULL;
        if (x) x->clock_held = x->clock.pos > 0, deadline_unset(c->world->deadlines, &x->clock);
    }
    procs_clocks(c, true, 0);
}

void cell_clocks_go(struct cell *c, int64_t slept_ms) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct execution *x = c->contexts[i] ? c->contexts[i]->running : NULL;
        if (x && x->clock_held) deadline_set(c->world->deadlines, &x->clock, x->clock.at_ms + slept_ms, x->clock.fire);
        if (x) x->clock_held = false;
        if (c->contexts[i]) context_next(c->contexts[i]);
    }
    procs_clocks(c, false, slept_ms);
}
