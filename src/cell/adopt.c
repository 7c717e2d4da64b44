/* Taking over the cells that survived the last daemon. Rows of the store are matched to what the driver found: a cell
 * without a row is destroyed, a row without a cell ended as lost, and executions that were running are finished from
 * what their contexts send again (context_proto.h, "Taking over"). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/branch_inside.h"
#include "cell/image.h"
#include "cell/text.h"
#include "wire/context_proto.h"
#include "wire/frame.h"

struct start {
    struct world *world;
    void (*done)(void *arg, struct err *);
    void *arg;
    struct err err;
    struct deferred later;
};

static void nothing(void *arg, struct err *err) { (void)arg, (void)err; }

static int keep_row(void *arg, const char *id, const char *json) {
    struct json_object *row = json_tokener_parse(json);
    if (row && id_valid(id, "sbx_"))
        json_object_object_add(arg, id, row);
    else
        json_object_put(row);
    return 0;
}

static int adopt_execution(void *cell, const char *id, const char *json);

/* Its memory is in an image: because it was hibernated, or because that is what is left of it. */
static bool adopt_frozen(struct world *w, const char *id, struct json_object *row) {
    struct err err;
    const char *image = text_field(row, "image_id");
    struct json_object *image_row = image ? image_row_get(w, image) : NULL;
    struct cell *c = image_row ? cell_new(w, id) : NULL;
    json_object_put(image_row);
    if (!c) return false;
    if (cell_from_row(c, row) < 0) {
        cell_release(c);
        return false;
    }
    world_add(w, c);
    const char *state = text_field(row, "state");
    cell_frozen_alone(c, state && strcmp(state, "hibernated") == 0);
    if (store_execution_each(w->config.store, id, adopt_execution, c, &err) < 0) log_warn("%s: %s", id, err.text);
    cell_arm(c);
    return true;
}

static void end_rows_without_cell(struct world *w) {
    struct err err;
    json_object_object_foreach(w->adoptable, id, row) {
        if (adopt_frozen(w, id, row)) continue;
        w->counters.lost++;
        if (store_cell_delete(w->config.store, id, "lost", &err) < 0) log_error("%s: %s", id, err.text);
        branch_ended(w, id, body_get(row, "metadata"), "lost");
        world_event(w, id, "sandbox.lost", "lost", "the sandbox did not survive until this daemon started", NULL);
    }
    json_object_put(w->adoptable);
    w->adoptable = NULL;
}

static void on_adopted(void *arg, struct err *err) {
    struct start *s = arg;
    if (!err) {
        merge_recover_end(s->world);
        end_rows_without_cell(s->world);
        images_at_start(s->world);
    }
    s->done(s->arg, err);
    free(s);
}

static void on_failed(struct deferred *d) {
    struct start *s = container_of(d, struct start, later);
    s->done(s->arg, &s->err);
    free(s);
}

void adopt_begin(struct world *w, void (*done)(void *, struct err *), void *arg) {
    struct start *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct start){.world = w, .done = done, .arg = arg};
    w->adoptable = json_object_new_object();
    if (store_cell_each(w->config.store, keep_row, w->adoptable, &s->err) < 0 || merge_recover_begin(w, &s->err) < 0)
        defer(w->defers, &s->later, on_failed);
    else
        w->config.driver->ops->adopt(w->config.driver, on_adopted, s);
}

/* ---- executions of an adopted cell ---- */

static void lost_without_trace(struct cell *c, const char *id, struct json_object *row) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string(id));
    json_object_object_add(o, "context_id", json_object_get(body_get(row, "context_id")));
    json_object_object_add(o, "results", json_object_new_array());
    json_object_object_add(o, "stdout", json_object_new_string(""));
    json_object_object_add(o, "stderr", json_object_new_string(""));
    json_object_object_add(
        o, "error",
        execution_error("ExecutionLost", "", "the daemon ended while the code ran, and its context is gone"));
    json_object_object_add(o, "exit", json_object_new_string("lost"));
    history_add(&c->world->history, &c->history, id, o, 2500);
    json_object_put(o);
}

static void resume_execution(struct context *k, const char *id, struct json_object *row) {
    struct execution *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct execution){.context = k,
                            .stage = STAGE_RUNNING,
                            .collect = true,
                            .stop_on_input = true,
                            .told_start = true,
                            .stored = true,
                            .after_restart_of_daemon = true};
    const char *forked_from = text_field(row, "forked_from");
    (void)snprintf(x->id, sizeof x->id, "%s", id);
    (void)snprintf(x->forked_from, sizeof x->forked_from, "%s", forked_from ? forked_from : "");
    x->number = (uint32_t)json_object_get_int64(body_get(row, "number"));
    x->timeout_ms = json_object_get_int64(body_get(row, "timeout_ms"));
    x->started_ms = json_object_get_int64(body_get(row, "started_ms"));
    x->slept_ms = json_object_get_int64(body_get(row, "slept_ms"));
    int64_t ran_ms = wall_ms() - x->started_ms - x->slept_ms, left = x->timeout_ms - ran_ms;
    x->started_us = monotonic_us() - ran_ms * 1000;
    k->running = x;
    execution_arm(x, left > 0 ? left : 0);
}

static int adopt_execution(void *arg, const char *id, const char *json) {
    struct cell *c = arg;
    struct err err;
    struct json_object *row = json_tokener_parse(json);
    const char *status = row ? text_field(row, "status") : NULL,
               *context_id = row ? text_field(row, "context_id") : NULL;
    struct json_object *execution = row ? body_get(row, "execution") : NULL;
    struct execution *known = execution_find(c, id); /* the image says that it runs */
    if (known && status && strcmp(status, "finished") == 0) {
        known->context->running = NULL;
        execution_free(known);
        known = NULL;
    }
    if (known)
        ; /* it goes on when the sandbox wakes */
    else if (status && strcmp(status, "finished") == 0 && execution)
        history_add(&c->world->history, &c->history, id, execution, 2500 + strlen(json));
    else if (status && context_id) {
        struct context *k = context_find(c, context_id, &err);
        if (k && k->state == CONTEXT_LIVE && !k->running)
            resume_execution(k, id, row);
        else
            lost_without_trace(c, id, row);
    }
    json_object_put(row);
    return 0;
}

/* ---- one cell ---- */

static void close_ends(const struct context_ends *e) {
    if (e->control_fd >= 0) close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd);
}

static void discard(struct world *w, struct driver_cell *dc, int guest_fd, const struct context_ends ends[DRIVER_SLOTS]) {
    close(guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) close_ends(&ends[i]);
    w->config.driver->ops->destroy(dc, nothing, NULL);
}

static bool row_says(struct json_object *row, const char *state) {
    const char *word = row ? text_field(row, "state") : NULL;
    return word && strcmp(word, state) == 0;
}

static void on_silence(struct deadline *d) {
    context_broken(container_of(d, struct context, eof), "it did not answer the new daemon");
}

static void adopt_context(struct cell *c, struct json_object *row, const struct context_ends *ends,
                          bool taken[DRIVER_SLOTS]) {
    int64_t slot = json_object_get_int64(body_get(row, "slot"));
    const char *id = text_field(row, "id"), *word = text_field(row, "language"), *cwd = text_field(row, "cwd");
    const char *language = word ? language_name(word) : NULL;
    if (slot < 0 || slot >= DRIVER_SLOTS || !id || !language || taken[slot]) return;
    taken[slot] = true;
    struct context *k = context_new(c, (int)slot, language, id);
    k->created_ms = json_object_get_int64(body_get(row, "created_ms"));
    k->cwd = cwd ? strdup(cwd) : NULL;
    k->env = json_object_get(body_get(row, "env"));
    if (ends[slot].control_fd >= 0)
        context_attach(k, &ends[slot], true);
    else {
        k->state = CONTEXT_LOST;
        k->restart_unsaid = true;
    }
}

void adopt_cell(void *arg, struct driver_cell *dc, const char *template_id, int guest_fd,
                const struct context_ends ends[DRIVER_SLOTS]) {
    struct world *w = arg;
    struct err err;
    bool taken[DRIVER_SLOTS] = {false};
    const char *id = w->config.driver->ops->id(dc);
    struct json_object *row = merge_recover_cell(w, dc, body_get(w->adoptable, id));
    if (row_says(row, "hibernated")) { /* its image is what counts: the last daemon ended between the two */
        log_info("%s: found alive, but it is hibernated: destroyed", id);
        discard(w, dc, guest_fd, ends);
        return;
    }
    struct cell *c = row ? cell_new(w, id) : NULL;
    if (!c || cell_from_row(c, row) < 0 || strcmp(c->template_id, template_id) != 0) {
        log_warn("%s: found alive and not known: destroyed", id);
        if (c) cell_release(c);
        discard(w, dc, guest_fd, ends);
        return;
    }
    cell_set_driver(c, dc);
    world_add(w, c);
    cell_open_guest(c, guest_fd, true);
    struct json_object *contexts = body_get(row, "contexts");
    for (size_t i = 0; contexts && i < json_object_array_length(contexts); i++)
        adopt_context(c, json_object_array_get_idx(contexts, i), ends, taken);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        if (taken[i] || ends[i].control_fd < 0) continue;
        close_ends(&ends[i]); /* made in the last moment of the old daemon: nobody was told of it */
        w->config.driver->ops->context_signal(dc, i, SIGKILL);
    }
    if (store_execution_each(w->config.store, c->id, adopt_execution, c, &err) < 0) log_warn("%s: %s", c->id, err.text);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *k = c->contexts[i];
        /* Something short that no row names may still run: it gets the time an execution gets by default. */
        if (k && k->state == CONTEXT_LIVE && !k->running)
            deadline_set(w->deadlines, &k->eof, monotonic_ms() + w->config.execute_timeout_default_ms, on_silence);
    }
    /* The last daemon ended while it wrote the image, for which the cell stands still. */
    if (row_says(row, "freezing") && w->config.driver->ops->release) w->config.driver->ops->release(dc, nothing, NULL);
    if (c->status == CELL_PAUSED) cell_clocks_hold(c);
    cell_arm(c);
    world_event(w, c->id, "sandbox.adopted", NULL, "a new daemon took the sandbox over", NULL);
    json_object_object_del(w->adoptable, c->id);
}

/* What a context sends while it is taken over: everything again, and, when nothing of the execution was missed (it was frozen and woken by this
 * daemon), also what goes on. */
static bool is_news(struct execution *x, uint16_t type, uint16_t flags) {
    bool result = type == CONTEXT_DISPLAY || type == CONTEXT_RESULT;
    if (!(flags & FRAME_REPLAY)) return x->known;
    if (type == CONTEXT_INPUT_REQUEST) return !x->wants_input;
    if (type == CONTEXT_ERROR) return !x->error;
    return !result || ++x->replayed > x->shown;
}

void adopt_frame(struct context *k, uint16_t type, uint16_t flags, uint32_t number, struct json_object *json) {
    if (type != CONTEXT_STATUS) {
        if (k->running && k->running->number == number && is_news(k->running, type, flags))
            execution_on_frame(k->running, type, json);
        return;
    }
    struct json_object *last = body_get(json, "last");
    k->taking_over = false;
    context_link_replays(k->link, false);
    deadline_unset(k->cell->world->deadlines, &k->eof);
    if (json_object_is_type(last, json_type_int)) k->last_number = (uint32_t)json_object_get_int64(last);
    struct execution *x = k->running;
    if (x && x->body && k->last_number != x->number) {
        if (k->execution_count == 0) context_put_settings(k);
        execution_dispatch(x); /* it was frozen or copied before it read the code: here it is again */
        return;
    }
    if (x) { /* the context is idle, and this one was not among what it sent again */
        k->running = NULL;
        execution_finish(x, "lost",
                         execution_error("ExecutionLost", "", "the result was lost when the daemon was restarted"));
    }
    context_next(k);
}
