/* Hibernate: the cell is stopped and written, its image made durable, the row says so in the same commit, and only then
 * its memory is given back. Until that commit every failure lets the cell go on as if nothing had been asked.
 *
 * What a client waits for: an execution that runs is stopped with the cell and goes on after the wake, its clock
 * standing still meanwhile; whoever waits for it keeps waiting. Processes, terminals and transfers end as "killed". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "cell/image.h"
#include "cell/proc.h"
#include "cell/text.h"

#define AGAIN_MS 30000 /* a freeze on timeout that failed (a full disk) is tried again after this */

struct freeze {
    struct turn turn;
    struct cell *cell;
    cell_json_cb cb; /* NULL: a timeout */
    void *arg;
    const char *why;
    bool idle; /* because nothing happened: somebody may have come until it is its turn */
    enum cell_status before;
    char id[CELL_ID_MAX], old[CELL_ID_MAX];
    int64_t frozen_at_ms;
    struct driver_image image; /* its not_carried: a reference of our own */
    struct err err;
};

bool cell_can_freeze(const struct cell *c) {
    const struct driver_ops *ops = c->world->config.driver->ops;
    return ops->freeze && ops->thaw && ops->release;
}

bool cell_asleep(const struct cell *c) {
    return c->status == CELL_FREEZING || c->status == CELL_FROZEN || c->status == CELL_WAKING;
}

static struct json_object *answer(struct cell *c) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string(c->id));
    json_object_object_add(o, "status", json_object_new_string(cell_status_word(c)));
    json_object_object_add(o, "space_id", c->space_id[0] ? json_object_new_string(c->space_id) : NULL);
    json_object_object_add(o, "memory_bytes", json_object_new_uint64(c->image_memory));
    json_object_object_add(o, "disk_bytes", json_object_new_uint64(c->image_disk));
    json_object_object_add(o, "size_bytes", json_object_new_uint64(c->image_memory + c->image_disk));
    json_object_object_add(o, "frozen_ms", json_object_new_int64(c->image_frozen_ms));
    json_object_object_add(o, "not_carried",
                           c->not_carried ? json_object_get(c->not_carried) : json_object_new_array());
    return o;
}

static void done(struct freeze *x, struct err *err) {
    struct cell *c = x->cell;
    cell_turn_over(c);
    struct json_object *o = err || !x->cb ? NULL : answer(c);
    if (x->cb) x->cb(x->arg, err, o);
    json_object_put(o);
    json_object_put(x->image.not_carried);
    cell_release(c);
    free(x);
}

/* ---- it did not work ---- */

static void on_released(void *arg, struct err *err) {
    struct freeze *x = arg;
    struct cell *c = x->cell;
    if (err) log_error("%s: it was stopped for its image and does not go on: %s", c->id, err->text);
    if (c->status == CELL_FREEZING && !c->rolling_back) {
        struct err failed;
        c->status = x->before;
        c->freeze_again_ms = monotonic_ms() + AGAIN_MS;
        if (!x->cb) cell_touch(c);
        if (cell_save(c, &failed) < 0) log_warn("%s: %s", c->id, failed.text);
        if (c->status == CELL_RUNNING) cell_go_on(c, monotonic_ms() - c->paused_ms);
        cell_arm(c);
        world_event(c->world, c->id, "sandbox.hibernate_failed", x->err.code, x->err.text, NULL);
    } else if (c->status >= CELL_ENDING)
        cell_gone_error(&x->err, c->id, c->reason);
    done(x, &x->err);
}

/* held: the cell stands still until it is released. */
static void failed(struct freeze *x, struct err *err, bool held) {
    struct cell *c = x->cell;
    if (err != &x->err) x->err = *err;
    bool goes_on = c->status == CELL_FREEZING && !c->rolling_back;
    if (goes_on) err_wrap(&x->err, "the sandbox could not be hibernated and goes on");
    log_warn("%s: %s", c->id, x->err.text);
    image_discard(c->world, x->id);
    if (held && c->driver && c->status == CELL_FREEZING)
        c->world->config.driver->ops->release(c->driver, on_released, x);
    else
        on_released(x, NULL);
}

/* ---- the image is there ---- */

static void on_destroyed(void *arg, struct err *err) {
    struct freeze *x = arg;
    struct cell *c = x->cell;
    struct world *w = c->world;
    fault_point("domain.freeze.destroyed");
    cell_cpu_settle(c);
    if (err) log_error("%s: not everything was given back: %s", c->id, err->text);
    if (c->status == CELL_FREEZING) {
        c->status = CELL_FROZEN;
        cell_arm(c);
    }
    w->counters.hibernated++;
    struct json_object *about = answer(c);
    json_object_object_del(about, "id");
    json_object_object_del(about, "status");
    world_event(w, c->id, "sandbox.hibernated", NULL, x->why, about);
    if (c->status >= CELL_ENDING) {
        cell_gone_error(&x->err, c->id, c->reason);
        done(x, &x->err);
    } else
        done(x, NULL);
}

static void take_image(struct freeze *x) {
    struct cell *c = x->cell;
    c->frozen_at_ms = x->frozen_at_ms;
    c->image_memory = x->image.memory_bytes;
    c->image_disk = x->image.disk_bytes;
    c->image_frozen_ms = (uint32_t)(x->image.frozen_us / 1000);
    json_object_put(c->not_carried);
    c->not_carried = json_object_get(x->image.not_carried);
}

/* The row of the image, the row of the cell, the end of the old image: one commit. */
static int commit(struct freeze *x, struct err *err) {
    struct cell *c = x->cell;
    struct store *s = c->world->config.store;
    memcpy(x->old, c->image_id, sizeof x->old);
    memcpy(c->image_id, x->id, sizeof c->image_id);
    c->status = CELL_FROZEN;
    struct json_object *row = image_row(c, "space", NULL, &x->image);
    json_object_object_add(row, "created_ms", json_object_new_int64(x->frozen_at_ms));
    json_object_object_add(row, "not_carried", json_object_get(x->image.not_carried));
    json_object_object_add(row, "cell", cell_row(c));
    store_begin_durable(s);
    cell_keep_running_records(c);
    int out = image_row_put(c->world, x->id, row, err);
    if (out == 0) out = cell_save(c, err);
    if (out == 0 && x->old[0]) out = store_image_delete(s, x->old, err);
    if (out == 0) out = fault_error("domain.freeze.commit", err);
    if (out == 0)
        out = store_commit_durable(s, err);
    else
        store_rollback(s);
    json_object_put(row);
    c->status = CELL_FREEZING;
    if (out < 0) memcpy(c->image_id, x->old, sizeof c->image_id);
    return out;
}

static void add_open_thing(struct json_object *list, const char *kind, int64_t pid, const char *text) {
    struct json_object *o = json_object_new_object();
    for (size_t i = 0; pid && i < json_object_array_length(list); i++) {
        struct json_object *known = body_get(json_object_array_get_idx(list, i), "pid");
        if (known && json_object_get_int64(known) == pid) pid = -1; /* the driver named it */
    }
    if (pid < 0) {
        json_object_put(o);
        return;
    }
    json_object_object_add(o, "kind", json_object_new_string(kind));
    json_object_object_add(o, "context_id", NULL);
    json_object_object_add(o, "pid", pid ? json_object_new_int64(pid) : NULL);
    json_object_object_add(o, "text", text_json(text, strlen(text)));
    json_object_array_add(list, o);
}

/* Processes that Cella started and the driver did not name, and what was being transferred. */
static void add_open_things(struct cell *c, struct json_object *list) {
    for (struct proc *p = c->procs; p; p = p->next)
        if (p->state != PROC_ENDED) add_open_thing(list, "process", p->pid, p->command);
    if (c->transfers) add_open_thing(list, "transfer", 0, "uploads, downloads and watches that were open");
}

static void on_published(void *arg, struct err *err) {
    struct freeze *x = arg;
    struct cell *c = x->cell;
    struct world *w = c->world;
    if (c->status >= CELL_ENDING) {
        cell_gone_error(&x->err, c->id, c->reason);
        failed(x, &x->err, false);
        return;
    }
    if (!err && fault_error("domain.freeze.published", &x->err) < 0) err = &x->err;
    if (err) {
        failed(x, err, true);
        return;
    }
    for (int i = 0; i < DRIVER_SLOTS; i++) /* what it printed and sent until it stood still belongs to now */
        if (c->contexts[i] && c->contexts[i]->link) context_link_drain(c->contexts[i]->link);
    if (commit(x, &x->err) < 0) {
        failed(x, &x->err, true);
        return;
    }
    fault_point("domain.freeze.committed");
    add_open_things(c, x->image.not_carried);
    take_image(x);
    cell_let_go(c, "the sandbox was hibernated");
    image_discard(w, x->old);
    if (c->driver) {
        struct driver_cell *dc = c->driver;
        cell_cpu_look(c);
        c->driver = NULL;
        w->config.driver->ops->destroy(dc, on_destroyed, x);
    } else
        on_destroyed(x, NULL);
}

static void on_frozen(void *arg, struct err *err, const struct driver_image *image) {
    struct freeze *x = arg;
    struct cell *c = x->cell;
    if (!err) {
        x->image = *image;
        x->image.not_carried = cell_not_carried(c, image->not_carried);
        x->frozen_at_ms = wall_ms();
    }
    if (!err && fault_error("domain.freeze.written", &x->err) < 0) {
        failed(x, &x->err, true);
        return;
    }
    if (err || c->status >= CELL_ENDING) {
        if (!err) cell_gone_error(&x->err, c->id, c->reason);
        failed(x, err ? err : &x->err, false);
        return;
    }
    image_publish(c->world, x->id, on_published, x);
}

/* ---- its turn ---- */

/* 1: nothing to do, 0: go on, -1: refused. */
static int admit(struct freeze *x, struct err *err) {
    struct cell *c = x->cell;
    if (c->status >= CELL_ENDING) return cell_gone_error(err, c->id, c->reason);
    if (c->status == CELL_FROZEN) return 1;
    if (!cell_can_freeze(c)) return err_set(err, ERR_UNSUPPORTED, "this driver cannot hibernate sandboxes");
    if ((c->status != CELL_RUNNING && c->status != CELL_PAUSED) || !c->driver)
        return err_hint(err, ERR_CONFLICT, "Try again in a moment.", "the sandbox %s is %s", c->id,
                        cell_status_word(c));
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *k = c->contexts[i];
        if (k && (k->state == CONTEXT_MAKING || k->dying))
            return err_hint(err, ERR_CONFLICT, "Try again in a moment.", "the context %s is being started", k->id);
    }
    if (!x->idle) return 0;
    return cell_busy(c) || monotonic_ms() < c->active_ms + c->idle_timeout_ms; /* somebody came in between */
}

static void go(struct turn *t) {
    struct freeze *x = container_of(t, struct freeze, turn);
    struct cell *c = x->cell;
    char dir[IMAGE_PATH];
    int out = admit(x, &x->err);
    if (out) {
        if (out < 0 && !x->cb && c->status < CELL_ENDING) c->freeze_again_ms = monotonic_ms() + AGAIN_MS;
        if (c->status < CELL_ENDING) cell_arm(c);
        done(x, out < 0 ? &x->err : NULL);
        return;
    }
    x->before = c->status;
    c->status = CELL_FREEZING;
    if (x->before == CELL_RUNNING) {
        c->paused_ms = monotonic_ms();
        cell_clocks_hold(c);
    }
    cell_arm(c);
    if (cell_save(c, &x->err) < 0 || image_begin(c->world, x->id, &x->err) < 0 ||
        fault_error("domain.freeze.begin", &x->err) < 0) {
        failed(x, &x->err, false);
        return;
    }
    image_path(c->world, x->id, true, dir);
    c->world->config.driver->ops->freeze(c->driver, x->id, dir, true, on_frozen, x);
}

static void drop(struct turn *t) {
    struct freeze *x = container_of(t, struct freeze, turn);
    json_object_put(x->image.not_carried);
    cell_release(x->cell);
    free(x);
}

static void freeze(struct cell *c, const char *why, bool idle, cell_json_cb cb, void *arg) {
    struct freeze *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct freeze){.cell = cell_hold(c), .cb = cb, .arg = arg, .why = why, .idle = idle};
    x->turn.drop = drop;
    cell_turn(c, &x->turn, go);
}

void cell_hibernate(struct cell *c, cell_json_cb cb, void *arg) { freeze(c, "by request", false, cb, arg); }
void cell_freeze_on_timeout(struct cell *c, bool idle) {
    freeze(c, idle ? "it was idle" : "its time to live was over", idle, NULL, NULL);
}
