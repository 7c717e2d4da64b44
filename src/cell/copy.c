/* A cell's contexts, taken from a row and given the streams of a copy: after a wake, for a cell made from a snapshot.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/domain.h"
#include "cell/inspect.h"
#include "cell/text.h"
#include "wire/context_proto.h"

static int64_t get_int(struct json_object *o, const char *key) { return json_object_get_int64(body_get(o, key)); }

static void take_running(struct context *k, struct json_object *row, bool anew) {
    const char *id = text_field(row, "id");
    struct execution *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct execution){.context = k,
                            .stage = STAGE_RUNNING,
                            .collect = true,
                            .stop_on_input = true,
                            .told_start = true,
                            .stored = true,
                            .after_restart_of_daemon = !anew};
    if (anew) {
        id_make(x->id, "exe_");
        (void)snprintf(x->forked_from, sizeof x->forked_from, "%s", id ? id : "");
    } else
        (void)snprintf(x->id, sizeof x->id, "%s", id ? id : "");
    x->number = (uint32_t)get_int(row, "number");
    x->timeout_ms = get_int(row, "timeout_ms");
    x->slept_ms = anew ? 0 : get_int(row, "slept_ms");
    int64_t left = get_int(row, "left_ms"), ran = x->timeout_ms > left ? x->timeout_ms - left : 0;
    x->started_ms = anew ? wall_ms() : get_int(row, "started_ms");
    x->started_us = monotonic_us() - (anew ? 0 : ran * 1000);
    k->running = x;
    execution_arm(x, left);
}

static void take_context(struct cell *c, struct json_object *row, enum copy_running running) {
    int64_t slot = get_int(row, "slot");
    const char *id = text_field(row, "id"), *word = text_field(row, "language"), *cwd = text_field(row, "cwd");
    const char *language = word ? language_name(word) : NULL;
    struct json_object *run = body_get(row, "running");
    if (slot < 0 || slot >= DRIVER_SLOTS || !id || !language || c->contexts[slot]) return;
    struct context *k = context_new(c, (int)slot, language, id);
    k->state = CONTEXT_FROZEN;
    k->ready = true;
    k->created_ms = get_int(row, "created_ms");
    k->cwd = cwd ? strdup(cwd) : NULL;
    k->env = json_object_get(body_get(row, "env"));
    k->last_number = (uint32_t)get_int(row, "last_number");
    k->execution_count = (uint64_t)get_int(row, "execution_count");
    k->restarts = (uint64_t)get_int(row, "restarts");
    if (run && running != RUNNING_DROPPED) take_running(k, run, running == RUNNING_NEW);
}

void cell_contexts_from_row(struct cell *c, struct json_object *row, enum copy_running running) {
    struct json_object *contexts = body_get(row, "contexts");
    for (size_t i = 0; json_object_is_type(contexts, json_type_array) && i < json_object_array_length(contexts); i++)
        take_context(c, json_object_array_get_idx(contexts, i), running);
}

/* ---- copies, and what comes back from an image ---- */

static void on_copy_silent(struct deadline *d) {
    context_broken(container_of(d, struct context, eof), "it did not answer after it was copied");
}

void context_attach_copy(struct context *x, const struct context_ends *ends) {
    struct cell *c = x->cell;
    struct world *w = c->world;
    struct execution *e = x->running;
    char text[CELL_ID_MAX + 96];
    context_open_link(x, ends);
    x->state = CONTEXT_LIVE;
    x->taking_over = true;
    x->dying = false;
    x->broken = NULL;
    if (e) e->replayed = 0;
    if (e && e->known)
        context_link_go_on(x->link, &x->rest);
    else
        context_link_replays(x->link, true);
    int n = snprintf(text, sizeof text, "{\"sandbox_id\":\"%s\",\"hostname\":\"%.12s\"}", c->id, c->id + 4);
    context_link_put(x->link, CONTEXT_FORKED, 0, 0, text, (size_t)n);
    /* No execution of it has ended: what it was told at its start may have been under way when it was frozen. */
    if (x->execution_count == 0 && !e) context_put_settings(x);
    context_link_put(x->link, CONTEXT_HELLO, 0, 0, NULL, 0);
    context_link_send(x->link);
    if (e) context_link_pause(x->link, e->paused);
    /* Something that no record names may still compute: it gets the time an execution gets by default. */
    if (!e) deadline_set(w->deadlines, &x->eof, monotonic_ms() + w->config.execute_timeout_default_ms, on_copy_silent);
}

void context_freeze(struct context *x) {
    struct world *w = x->cell->world;
    if (x->state != CONTEXT_LIVE) return;
    context_link_drain(x->link); /* it stands still: this is all that it has sent */
    deadline_unset(w->deadlines, &x->settle);
    deadline_unset(w->deadlines, &x->eof);
    if (!x->link || x->state != CONTEXT_LIVE) return;
    context_link_rest(x->link, &x->rest);
    context_link_close(x->link);
    x->link = NULL;
    inspections_end(x, "the sandbox was frozen");
    x->state = CONTEXT_FROZEN;
    x->taking_over = false;
    if (x->running) return;
    buf_free(&x->rest.join); /* of an execution that nobody remembers */
}

static void close_ends(const struct context_ends *e) {
    if (e->control_fd >= 0) close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd);
}

void cell_copy_close(const struct driver_copy *copy) {
    close(copy->guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) close_ends(&copy->ends[i]);
}

static void lost_in_copy(struct context *k) {
    k->state = CONTEXT_LOST;
    k->restart_unsaid = true;
    context_end_all(k, "lost", "the context was not in the image");
}

void cell_attach_copy(struct cell *c, const struct driver_copy *copy) {
    const struct driver_ops *ops = c->world->config.driver->ops;
    cell_open_guest(c, copy->guest_fd, false);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *k = c->contexts[i];
        bool there = copy->ends[i].control_fd >= 0;
        if (there && k && k->state == CONTEXT_FROZEN)
            context_attach_copy(k, &copy->ends[i]);
        else if (there) { /* made after its row was written: nobody knows it */
            close_ends(&copy->ends[i]);
            ops->context_signal(copy->cell, i, SIGKILL);
        }
        if (!there && k && k->state == CONTEXT_FROZEN) lost_in_copy(k);
    }
}

struct json_object *cell_not_carried(struct cell *c, struct json_object *list) {
    struct json_object *out = json_object_new_array();
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i), *o = json_object_new_object();
        struct json_object *slot = body_get(one, "context_slot");
        if (!json_object_is_type(one, json_type_object)) continue;
        json_object_object_foreach(one, key, value) {
            if (strcmp(key, "context_slot") != 0) json_object_object_add(o, key, json_object_get(value));
        }
        int64_t n = json_object_is_type(slot, json_type_int) ? json_object_get_int64(slot) : -1;
        struct context *k = n >= 0 && n < DRIVER_SLOTS ? c->contexts[n] : NULL;
        json_object_object_add(o, "context_id", k ? json_object_new_string(k->id) : NULL);
        json_object_array_add(out, o);
    }
    return out;
}

void cell_let_go(struct cell *c, const char *why) {
    struct guest_link *guest = c->guest;
    c->guest = NULL;
    if (guest) guest_link_close(guest, why);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_freeze(c->contexts[i]);
}

void cell_keep_running_records(struct cell *c) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct execution *x = c->contexts[i] ? c->contexts[i]->running : NULL;
        if (!x || x->stage != STAGE_RUNNING) continue;
        x->stored = true;
        deadline_unset(c->world->deadlines, &x->store_at);
        execution_save(x);
    }
}

void cell_go_on(struct cell *c, int64_t slept_ms) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct execution *x = c->contexts[i] ? c->contexts[i]->running : NULL;
        if (!x) continue;
        x->started_us += slept_ms * 1000;
        x->slept_ms += slept_ms;
        if (x->stored) execution_save(x);
    }
    cell_clocks_go(c, slept_ms);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct execution *x = c->contexts[i] ? c->contexts[i]->running : NULL;
        if (x && x->stop_at_wake && x->stage == STAGE_RUNNING) (void)execution_stop(x, STOP_INTERRUPT);
        if (x) x->stop_at_wake = false;
    }
}
