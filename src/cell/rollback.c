/* A cell is gone (its keeper died, its PID 1 was killed) and an image of it exists: it is what the image says again.
 * Nobody is left in the belief that nothing happened: executions end as "lost", and an event says back to when. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/image.h"

static void tell(struct cell *c, const char *why) {
    char time[32], text[160];
    struct json_object *about = json_object_new_object();
    format_time(time, c->frozen_at_ms);
    (void)snprintf(text, sizeof text, "%s: back to the image of %s", why, time);
    json_object_object_add(about, "image_id", json_object_new_string(c->image_id));
    json_object_object_add(about, "from", json_object_new_string(time));
    c->world->counters.rolled_back++;
    world_event(c->world, c->id, "sandbox.rolled_back", NULL, text, about);
}

static void take_image(struct cell *c, struct json_object *row) {
    c->frozen_at_ms = json_object_get_int64(body_get(row, "created_ms"));
    c->image_memory = (uint64_t)json_object_get_int64(body_get(row, "memory_bytes"));
    c->image_disk = (uint64_t)json_object_get_int64(body_get(row, "disk_bytes"));
    c->image_frozen_ms = (uint32_t)(json_object_get_int64(body_get(row, "frozen_us")) / 1000);
    json_object_put(c->not_carried);
    c->not_carried = json_object_get(body_get(row, "not_carried"));
}

static void on_away(void *arg, struct err *err) {
    struct cell *c = arg;
    struct json_object *row = image_row_get(c->world, c->image_id);
    struct err failed;
    if (err) log_error("%s: not everything was given back: %s", c->id, err->text);
    c->rolling_back = false;
    cell_cpu_settle(c);
    if (c->status < CELL_ENDING) {
        take_image(c, row);
        cell_contexts_from_row(c, body_get(row, "cell"), RUNNING_DROPPED);
        c->status = CELL_FROZEN;
        c->paused_ms = monotonic_ms();
        if (cell_save(c, &failed) < 0) log_error("%s: %s", c->id, failed.text);
        cell_arm(c);
        tell(c, c->lost_why);
    }
    json_object_put(row);
    cell_turn_over(c);
    cell_release(c);
}

static void go(struct turn *t) {
    struct cell *c = container_of(t, struct cell, rollback);
    struct driver_cell *dc = c->driver;
    if (c->status >= CELL_ENDING || c->status == CELL_FROZEN) { /* it was written in its last moment: nothing is lost */
        c->rolling_back = false;
        cell_turn_over(c);
        cell_release(c);
        return;
    }
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_end_all(c->contexts[i], "lost", c->lost_why);
    struct guest_link *guest = c->guest;
    c->guest = NULL;
    if (guest) guest_link_close(guest, c->lost_why);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_free(c->contexts[i]);
    cell_cpu_look(c);
    c->driver = NULL;
    if (dc)
        c->world->config.driver->ops->destroy(dc, on_away, c);
    else
        on_away(c, NULL);
}

static void drop(struct turn *t) { cell_release(container_of(t, struct cell, rollback)); }

void cell_lost(struct cell *c, const char *reason) {
    if (c->status >= CELL_ENDING || c->rolling_back || c->status == CELL_FROZEN) return;
    if (c->merging) {
        (void)snprintf(c->lost_why, sizeof c->lost_why, "%s", reason);
        return;
    }
    struct json_object *row = image_row_get(c->world, c->image_id);
    json_object_put(row);
    if (!row || !cell_can_freeze(c)) {
        cell_end(c, reason);
        return;
    }
    (void)snprintf(c->lost_why, sizeof c->lost_why, "%s", reason);
    c->rolling_back = true;
    c->status = CELL_FREEZING; /* nobody uses it any more */
    deadline_unset(c->world->deadlines, &c->life);
    cell_hold(c);
    c->rollback.drop = drop;
    cell_turn(c, &c->rollback, go);
}

/* ---- at the start of the daemon ---- */

void cell_frozen_alone(struct cell *c, bool said_so) {
    struct json_object *row = image_row_get(c->world, c->image_id);
    struct err err;
    take_image(c, row);
    c->status = CELL_FROZEN;
    c->paused_ms = monotonic_ms();
    cell_contexts_from_row(c, body_get(row, "cell"), said_so ? RUNNING_SAME : RUNNING_DROPPED);
    json_object_put(row);
    cell_clocks_hold(c);
    if (!image_there(c->world, c->image_id)) {
        log_error("%s: its image %s is not there", c->id, c->image_id);
        world_event(c->world, c->id, "sandbox.image_missing", ERR_IMAGE, "the files of its image are not there", NULL);
    }
    if (said_so) return;
    if (cell_save(c, &err) < 0) log_error("%s: %s", c->id, err.text);
    tell(c, "it did not survive until this daemon started");
}
