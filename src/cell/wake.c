/* Wake: a cell with its own id is made from its image; its contexts are what they were. The image stays until the next
 * one replaces it. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "cell/image.h"

struct wake {
    struct turn turn;
    struct cell *cell;
    cell_done_cb cb;
    void *arg;
    int64_t began_ms;
    struct err err;
};

static void done(struct wake *x, struct err *err) {
    struct cell *c = x->cell;
    cell_turn_over(c);
    if (x->cb) x->cb(x->arg, err);
    cell_release(c);
    free(x);
}

static void failed(struct wake *x) {
    struct cell *c = x->cell;
    if (c->status >= CELL_ENDING)
        cell_gone_error(&x->err, c->id, c->reason);
    else {
        c->status = CELL_FROZEN;
        cell_arm(c);
        log_warn("%s: not woken: %s", c->id, x->err.text);
        world_event(c->world, c->id, "sandbox.wake_failed", x->err.code, x->err.text, NULL);
    }
    done(x, &x->err);
}

static void on_undone(void *arg, struct err *err) {
    if (err) log_error("%s: not everything was given back: %s", ((struct wake *)arg)->cell->id, err->text);
    failed(arg);
}

/* It is there, and nobody may have it. */
static void undo(struct wake *x, const struct driver_copy *copy) {
    cell_copy_close(copy);
    x->cell->driver = NULL;
    x->cell->world->config.driver->ops->destroy(copy->cell, on_undone, x);
}

static void tell(struct wake *x) {
    struct cell *c = x->cell;
    struct json_object *about = json_object_new_object();
    json_object_object_add(about, "wake_ms", json_object_new_int64(monotonic_ms() - x->began_ms));
    json_object_object_add(about, "image_id", json_object_new_string(c->image_id));
    world_event(c->world, c->id, "sandbox.woken", NULL, NULL, about);
}

static void on_thawed(void *arg, struct err *err, const struct driver_copy *copy) {
    struct wake *x = arg;
    struct cell *c = x->cell;
    struct world *w = c->world;
    if (err) {
        x->err = *err;
        failed(x);
        return;
    }
    if (c->status >= CELL_ENDING || fault_error("domain.thaw.made", &x->err) < 0) {
        undo(x, copy);
        return;
    }
    cell_set_driver(c, copy->cell);
    c->status = CELL_RUNNING;
    int64_t expires = c->expires_ms;
    if (c->freeze_on_timeout && c->ttl_ms) c->expires_ms = wall_ms() + c->ttl_ms;
    /* Written before anybody is told: a next daemon destroys a living cell whose row says that it is frozen. */
    if (cell_save(c, &x->err) < 0 || fault_error("domain.thaw.saved", &x->err) < 0) {
        c->expires_ms = expires;
        undo(x, copy);
        return;
    }
    w->counters.woken++;
    cell_attach_copy(c, copy);
    struct json_object *more = cell_not_carried(c, copy->not_carried);
    if (!c->not_carried) c->not_carried = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(more); i++)
        json_object_array_add(c->not_carried, json_object_get(json_object_array_get_idx(more, i)));
    json_object_put(more);
    cell_touch(c);
    cell_arm(c);
    cell_go_on(c, monotonic_ms() - c->paused_ms);
    tell(x);
    done(x, NULL);
}

static int admit(struct cell *c, struct err *err) {
    struct json_object *row = image_row_get(c->world, c->image_id);
    json_object_put(row);
    if (!row)
        return err_hint(err, ERR_IMAGE, "Delete the sandbox.", "nothing is known about the image of the sandbox %s",
                        c->id);
    if (!image_there(c->world, c->image_id))
        return err_hint(err, ERR_IMAGE, "Put the directory back, or delete the sandbox.",
                        "the files of the sandbox %s are not there: images/%s below the state directory", c->id,
                        c->image_id);
    if (world_room(c->world, 1, err) < 0) return -1;
    return fault_error("domain.thaw.begin", err);
}

static void go(struct turn *t) {
    struct wake *x = container_of(t, struct wake, turn);
    struct cell *c = x->cell;
    struct world *w = c->world;
    char dir[IMAGE_PATH];
    x->began_ms = monotonic_ms();
    if (c->status >= CELL_ENDING) {
        failed(x);
        return;
    }
    if (c->status != CELL_FROZEN) {
        done(x, NULL);
        return;
    }
    if (admit(c, &x->err) < 0) {
        failed(x);
        return;
    }
    c->status = CELL_WAKING;
    image_path(w, c->image_id, false, dir);
    w->config.driver->ops->thaw(w->config.driver, c->image_id, dir, c->id, &c->limits, on_thawed, x);
}

static void drop(struct turn *t) {
    struct wake *x = container_of(t, struct wake, turn);
    cell_release(x->cell);
    free(x);
}

void cell_wake(struct cell *c, cell_done_cb cb, void *arg) {
    struct wake *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct wake){.cell = cell_hold(c), .cb = cb, .arg = arg};
    x->turn.drop = drop;
    cell_turn(c, &x->turn, go);
}
