#include "cell/inspect.h"

#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "cell/text.h"
#include "wire/context_proto.h"

#define VALUE_BYTES 200 /* of a value as it is shown */

static void unlink_question(struct inspection *q) {
    struct inspection **at = &q->context->inspections;
    while (*at && *at != q) at = &(*at)->next;
    if (*at) *at = q->next;
    q->next = NULL;
    q->context = NULL;
}

static void tell(struct deferred *d) {
    struct inspection *q = container_of(d, struct inspection, later);
    struct json_object *variables = q->variables;
    q->variables = NULL;
    q->done(q, q->failed ? &q->err : NULL, q->failed ? NULL : variables); /* q may be gone when this returns */
    json_object_put(variables);
}

/* It is over; q->err says why when it failed. */
static void finish(struct inspection *q, bool failed) {
    struct world *w = q->context->cell->world;
    deadline_unset(w->deadlines, &q->clock);
    q->failed = failed;
    unlink_question(q);
    defer(w->defers, &q->later, tell);
}

static void interrupt(struct context *x) {
    if (x->cell->driver && x->ready)
        x->cell->world->config.driver->ops->context_signal(x->cell->driver, x->slot, SIGINT);
}

static void on_clock(struct deadline *d) {
    struct inspection *q = container_of(d, struct inspection, clock);
    struct context *x = q->context;
    if (q->asked) interrupt(x); /* its DONE frees the context */
    if (cell_usable(x->cell, &q->err) < 0) {
        finish(q, true);
        return;
    }
    err_hint(&q->err, ERR_CONFLICT,
             q->asked ? "Ask for fewer variables, or without them."
                      : "Wait for its execution, interrupt it, or ask without variables.",
             q->asked ? "the variables of context %.40s took longer than %d s to look at"
                      : "the context %.40s has been busy for %d s",
             x->id, (q->asked ? INSPECT_RUN_MS : INSPECT_WAIT_MS) / 1000);
    finish(q, true);
}

void inspection_start(struct inspection *q, struct context *x) {
    struct inspection **at = &x->inspections;
    while (*at) at = &(*at)->next;
    *at = q;
    q->context = x;
    if (strcmp(x->language, LANGUAGE_PYTHON) != 0) {
        err_set(&q->err, ERR_INVALID, "the context %.40s runs %s: only variables of a Python context can be told",
                x->id, x->language);
        finish(q, true);
        return;
    }
    if (x->state == CONTEXT_LOST && !x->running && !x->queue) {
        err_hint(&q->err, ERR_CONFLICT, "Run something in it, or ask without variables.",
                 "the context %.40s is not there: it starts again when it is used", x->id);
        finish(q, true);
        return;
    }
    deadline_set(x->cell->world->deadlines, &q->clock, monotonic_ms() + INSPECT_WAIT_MS, on_clock);
    context_next(x);
}

void inspection_cancel(struct inspection *q, struct world *w) {
    deadline_unset(w->deadlines, &q->clock);
    defer_cancel(w->defers, &q->later);
    if (q->context) {
        struct context *x = q->context;
        if (q->asked) interrupt(x);
        unlink_question(q);
    }
    json_object_put(q->variables);
    q->variables = NULL;
}

bool inspection_next(struct context *x) {
    static const char question[] = "{\"value_bytes\":"
                                   "200"
                                   "}";
    _Static_assert(VALUE_BYTES == 200, "said in the question");
    struct inspection *q = x->inspections;
    if (x->inspecting) return true;
    if (!q || x->running || x->state != CONTEXT_LIVE || x->cell->status != CELL_RUNNING || x->taking_over || x->dying ||
        x->deleting || x->settle.pos)
        return false;
    if (++x->last_number == 0) x->last_number = 1; /* 0 means none */
    x->inspecting = x->last_number;
    q->asked = true;
    context_link_put(x->link, CONTEXT_INSPECT, 0, x->inspecting, question, sizeof question - 1);
    context_link_send(x->link);
    deadline_set(x->cell->world->deadlines, &q->clock, monotonic_ms() + INSPECT_RUN_MS, on_clock);
    return true;
}

/* The question that the context works at; NULL when it was given up, and only its DONE is waited for. */
static struct inspection *asked(struct context *x) {
    return x->inspections && x->inspections->asked ? x->inspections : NULL;
}

static void on_done(struct context *x, struct json_object *json) {
    struct inspection *q = asked(x);
    const char *status = text_field(json, "status");
    bool interrupted = status && strcmp(status, "interrupted") == 0;
    x->inspecting = 0;
    if (q) {
        bool ok = q->variables && status && strcmp(status, "ok") == 0;
        if (!ok)
            err_set(&q->err, ERR_CONFLICT, "the context %.40s did not tell its variables%s", x->id,
                    interrupted ? ": it was interrupted" : "");
        finish(q, !ok);
    }
    if (interrupted || !q) context_settle(x); /* a SIGINT may still be under way */
    context_next(x);
}

void inspection_frame(struct context *x, uint16_t type, struct json_object *json) {
    struct inspection *q = asked(x);
    if (type == CONTEXT_DONE)
        on_done(x, json);
    else if (type == CONTEXT_VARIABLES && q) {
        json_object_put(q->variables);
        q->variables = json_object_get(json);
    }
}

void inspections_end(struct context *x, const char *why) {
    x->inspecting = 0;
    while (x->inspections) {
        struct inspection *q = x->inspections;
        err_set(&q->err, ERR_CONFLICT, "the variables of context %.40s cannot be told: %s", x->id, why);
        finish(q, true);
    }
}
