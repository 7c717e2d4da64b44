#include "cell/diff.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cell/diff_inside.h"
#include "cell/diff_variables.h"

#define DIFF_MS 300000 /* a comparison that takes longer than this serves nobody */

static void diff_free(struct diff *d) {
    struct world *w = d->cells[MINE]->world;
    deadline_unset(w->deadlines, &d->clock);
    diff_contents_cancel(d);
    for (int s = 0; s < SIDES; s++) {
        diff_ask_cancel(&d->asks[s]);
        buf_free(&d->asks[s].bytes);
        inspection_cancel(&d->questions[s], w);
        json_object_put(d->digests[s]);
        json_object_put(d->variables[s]);
        diff_list_free(&d->lists[s]);
    }
    diff_entries_free(&d->entries);
    for (int s = 0; s < SIDES; s++)
        if (d->cells[s]) cell_release(d->cells[s]);
    free(d);
}

void diff_cancel(struct diff *d) { diff_free(d); }

void diff_fail(struct diff *d, struct err *err) {
    struct err kept = *err; /* it may be the diff's own */
    cell_json_cb cb = d->cb;
    void *arg = d->arg;
    diff_free(d);
    cb(arg, &kept, NULL);
}

static struct json_object *error_json(const struct err *err) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "error", json_object_new_string(err->text));
    json_object_object_add(o, "code", json_object_new_string(err->code));
    json_object_object_add(o, "hint", err->hint ? json_object_new_string(err->hint) : NULL);
    return o;
}

static void finish_when_done(struct diff *d) {
    if (!d->files_done || d->inspecting) return;
    struct json_object *o = json_object_new_object();
    const char *against = d->cells[THEIRS] ? d->cells[THEIRS]->id : "template";
    json_object_object_add(o, "sandbox_id", json_object_new_string(d->cells[MINE]->id));
    json_object_object_add(o, "against", json_object_new_string(against));
    json_object_object_add(o, "files", diff_entries_json(&d->entries, DIFF_SHOWN));
    if (d->options.variables && d->variables_failed) {
        json_object_object_add(o, "variables", NULL);
        json_object_object_add(o, "variables_error", error_json(&d->variables_error));
    } else if (d->options.variables)
        json_object_object_add(o, "variables", diff_variables(d->variables[MINE], d->variables[THEIRS]));
    cell_json_cb cb = d->cb;
    void *arg = d->arg;
    diff_free(d);
    cb(arg, NULL, o);
    json_object_put(o);
}

void diff_files_over(struct diff *d) {
    d->files_done = true;
    finish_when_done(d);
}

/* ---- variables ---- */

static void on_variables(struct diff *d, int side, struct err *err, struct json_object *variables) {
    d->inspecting--;
    d->variables[side] = json_object_get(variables);
    if (err && d->options.variables_wanted) {
        diff_fail(d, err);
        return;
    }
    if (err && !d->variables_failed) {
        d->variables_failed = true;
        d->variables_error = *err;
    }
    finish_when_done(d);
}

static void on_mine(struct inspection *q, struct err *err, struct json_object *variables) {
    on_variables(container_of(q, struct diff, questions[MINE]), MINE, err, variables);
}

static void on_theirs(struct inspection *q, struct err *err, struct json_object *variables) {
    on_variables(container_of(q, struct diff, questions[THEIRS]), THEIRS, err, variables);
}

static int ask_variables(struct diff *d, struct err *err) {
    const char *id = d->options.context_id ? d->options.context_id : "default";
    struct context *contexts[SIDES] = {0};
    for (int s = 0; s < SIDES; s++)
        if (d->cells[s] && !(contexts[s] = context_find(d->cells[s], id, err))) return -1;
    for (int s = 0; s < SIDES; s++) {
        if (!contexts[s]) continue;
        d->questions[s].done = s == MINE ? on_mine : on_theirs;
        d->inspecting++;
        inspection_start(&d->questions[s], contexts[s]);
    }
    return 0;
}

/* ---- begin ---- */

int diff_against(struct cell *c, const char *against, const char **id, struct err *err) {
    *id = NULL;
    if (against && strcmp(against, "parent") == 0) {
        *id = c->parent_id;
        if (c->parent_id[0]) return 0;
        return err_hint(err, ERR_CONFLICT, "Compare it with its template: against=template.",
                        "the sandbox %s was not forked: it has no parent", c->id);
    }
    if (against && strcmp(against, "template") != 0) *id = against;
    struct cell *parent = !against && c->parent_id[0] ? world_lookup(c->world, c->parent_id) : NULL;
    if (parent && parent->status < CELL_ENDING) *id = c->parent_id;
    return 0;
}

static void on_clock(struct deadline *c) {
    struct diff *d = container_of(c, struct diff, clock);
    struct err err;
    err_hint(&err, ERR_UNAVAILABLE, "Try again when less is written in them.", "the comparison took longer than %d s",
             DIFF_MS / 1000);
    diff_fail(d, &err);
}

static int check(struct cell *mine, struct cell *theirs, struct err *err) {
    if (cell_usable(mine, err) < 0) return -1;
    if (!theirs) return 0;
    if (theirs == mine) return err_set(err, ERR_INVALID, "a sandbox does not differ from itself");
    if (strcmp(mine->template_id, theirs->template_id) != 0)
        return err_hint(err, ERR_CONFLICT, "Compare each with its own template: against=template.",
                        "%s and %s come from different templates", mine->id, theirs->id);
    return cell_usable(theirs, err);
}

struct diff *diff_start(struct cell *mine, struct cell *theirs, const struct diff_options *options, cell_json_cb cb,
                        void *arg, struct err *err) {
    if (check(mine, theirs, err) < 0) return NULL;
    struct diff *d = calloc(1, sizeof *d);
    if (!d) abort();
    *d = (struct diff){
        .cells = {cell_hold(mine), theirs ? cell_hold(theirs) : NULL}, .options = *options, .cb = cb, .arg = arg};
    if (options->variables && ask_variables(d, &d->variables_error) < 0) {
        d->variables_failed = true;
        if (options->variables_wanted) {
            *err = d->variables_error;
            diff_free(d);
            return NULL;
        }
    }
    d->options.context_id = NULL; /* borrowed: used up */
    deadline_set(mine->world->deadlines, &d->clock, monotonic_ms() + DIFF_MS, on_clock);
    diff_files_begin(d);
    return d;
}
