/* The end of an execution: its word, its record, its memory. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/domain.h"
#include "cell/text.h"

#define STORE_BYTES_MAX (256u * 1024) /* a longer Execution is kept over a restart of the daemon without its output */

struct json_object *execution_error(const char *name, const char *traceback, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(name));
    json_object_object_add(o, "value", text_json(text, strlen(text)));
    json_object_object_add(o, "traceback", json_object_new_string(traceback));
    return o;
}

struct json_object *execution_clean_error(struct json_object *frame) {
    static const char *const keys[] = {"name", "value", "traceback"};
    struct json_object *o = json_object_new_object();
    for (size_t i = 0; i < 3; i++) {
        struct json_object *v = body_get(frame, keys[i]);
        bool text = json_object_is_type(v, json_type_string);
        json_object_object_add(o, keys[i], text ? json_object_get(v) : json_object_new_string(""));
    }
    return o;
}

const char *execution_word(struct execution *x, const char *status) {
    if (x->stop == STOP_TIMEOUT) {
        const char *trace = x->error ? json_object_get_string(body_get(x->error, "traceback")) : NULL;
        struct json_object *e =
            execution_error("TimeoutError", trace ? trace : "", "the code ran longer than %g s and was interrupted",
                            (double)x->timeout_ms / 1000);
        json_object_put(x->error);
        x->error = e;
        return "timeout";
    }
    if (strcmp(status, "interrupted") == 0) return x->stop == STOP_INTERRUPT ? "interrupted" : "error";
    if (strcmp(status, "exit") == 0 || strcmp(status, "ok") == 0) {
        bool exited = strcmp(status, "exit") == 0;
        if (exited && !x->error && x->has_exit_code && x->exit_code != 0 &&
            strcmp(x->context->language, LANGUAGE_PYTHON) == 0)
            x->error = execution_error("SystemExit", "", "%d", x->exit_code);
        return x->error || (x->has_exit_code && x->exit_code != 0) ? "error" : "ok";
    }
    return "error";
}

void execution_free(struct execution *x) {
    struct world *w = x->context->cell->world;
    deadline_unset(w->deadlines, &x->clock);
    deadline_unset(w->deadlines, &x->store_at);
    defer_cancel(w->defers, &x->later);
    json_object_put(x->body);
    json_object_put(x->results);
    json_object_put(x->error);
    buf_free(&x->out[0].kept);
    buf_free(&x->out[1].kept);
    free(x);
}

static void save_finished(struct execution *x, struct json_object *execution, size_t size) {
    struct err err;
    struct cell *c = x->context->cell;
    struct json_object *row = json_object_new_object(), *kept = json_object_get(execution);
    if (size > STORE_BYTES_MAX) {
        static const char *const bulk[] = {"results", "stdout", "stderr", "text", "png"};
        json_object_put(kept);
        kept = json_object_new_object();
        json_object_object_foreach(execution, key, value) json_object_object_add(kept, key, json_object_get(value));
        for (size_t i = 0; i < sizeof bulk / sizeof *bulk; i++) json_object_object_del(kept, bulk[i]);
        json_object_object_add(kept, "not_kept",
                               json_object_new_string("the output was too large to keep over a restart of the daemon"));
    }
    json_object_object_add(row, "status", json_object_new_string("finished"));
    json_object_object_add(row, "execution", kept);
    if (store_execution_put(c->world->config.store, x->id, c->id,
                            json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), &err) < 0)
        log_warn("%s: %s", x->id, err.text);
    json_object_put(row);
}

void execution_finish(struct execution *x, const char *exit, struct json_object *error) {
    struct cell *c = x->context->cell;
    struct world *w = c->world;
    deadline_unset(w->deadlines, &x->clock);
    deadline_unset(w->deadlines, &x->store_at);
    defer_cancel(w->defers, &x->later);
    x->stage = STAGE_DONE;
    x->exit = exit;
    if (error) {
        json_object_put(x->error);
        x->error = error;
    }
    cell_touch(c);
    cell_used(c, USE_EXECUTIONS, 1);
    int64_t took_us = x->started_ms ? monotonic_us() - x->started_us : 0;
    if (took_us > 0) cell_used(c, USE_EXECUTION_US, (uint64_t)took_us);
    struct json_object *execution = execution_json(x);
    size_t size = 2500 + x->out[0].kept.len + x->out[1].kept.len + x->results_bytes;
    history_add(&w->history, &c->history, x->id, execution, size);
    execution_emit(x, EXECUTION_END, execution, NULL, 0);
    if (x->stored && c->status < CELL_ENDING) save_finished(x, execution, size);
    json_object_put(execution);
    execution_free(x);
}
