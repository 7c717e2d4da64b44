/* Executions as JSON: results as they come, the Execution at the end, rows for the store, what GET answers. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cell/domain.h"
#include "cell/text.h"

#define RESULTS_MAX 1000              /* of one execution */
#define RESULTS_BYTES_MAX (64u << 20) /* two of the longest frames */

static const struct {
    const char *mime, *key;
} flat[] = {
    {"text/plain", "text"},        {"text/html", "html"},
    {"text/markdown", "markdown"}, {"image/svg+xml", "svg"},
    {"image/png", "png"},          {"image/jpeg", "jpeg"},
    {"application/pdf", "pdf"},    {"text/latex", "latex"},
    {"application/json", "json"},  {"application/javascript", "javascript"},
};

static void add(struct json_object *o, const char *key, struct json_object *v) { json_object_object_add(o, key, v); }
static void add_text(struct json_object *o, const char *key, const char *s) { add(o, key, json_object_new_string(s)); }

static size_t bundle_bytes(struct json_object *data) {
    size_t n = 0;
    json_object_object_foreach(data, mime, value) {
        n += strlen(mime) + 200;
        if (json_object_is_type(value, json_type_string))
            n += (size_t)json_object_get_string_len(value);
        else
            n += strlen(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN)) *
                 8; /* objects of json-c take several times their text */
    }
    return n;
}

static struct json_object *result_json(struct json_object *data, struct json_object *metadata, bool is_main) {
    struct json_object *o = json_object_new_object(), *v;
    add(o, "data", json_object_get(data));
    add(o, "metadata",
        json_object_is_type(metadata, json_type_object) ? json_object_get(metadata) : json_object_new_object());
    add(o, "is_main_result", json_object_new_boolean(is_main));
    for (size_t i = 0; i < sizeof flat / sizeof *flat; i++)
        if (json_object_object_get_ex(data, flat[i].mime, &v)) add(o, flat[i].key, json_object_get(v));
    return o;
}

bool execution_add_result(struct execution *x, struct json_object *frame, bool is_main) {
    struct json_object *data = body_get(frame, "data");
    if (!json_object_is_type(data, json_type_object)) return false;
    if (x->collect) {
        if (!x->results) x->results = json_object_new_array();
        size_t n = bundle_bytes(data);
        if (x->results_bytes + n > RESULTS_BYTES_MAX || json_object_array_length(x->results) >= RESULTS_MAX)
            x->results_dropped++;
        else {
            x->results_bytes += n;
            json_object_array_add(x->results, result_json(data, body_get(frame, "metadata"), is_main));
        }
    }
    execution_emit(x, is_main ? EXECUTION_RESULT : EXECUTION_DISPLAY, frame, NULL, 0);
    return true;
}

/* ---- the Execution ---- */

static struct json_object *dropped(const struct output *o) {
    struct json_object *v = json_object_new_object();
    add(v, "dropped_bytes", json_object_new_uint64(o->dropped));
    return v;
}

/* What was printed before this daemon took over was never read by it: it cannot say how much. */
static struct json_object *unknown_loss(void) {
    struct json_object *v = json_object_new_object();
    add(v, "dropped_bytes", NULL);
    add_text(v, "reason", "daemon_restart");
    return v;
}

static struct json_object *truncated(struct execution *x) {
    struct json_object *o = json_object_new_object();
    if (x->after_restart_of_daemon) {
        add(o, "stdout", unknown_loss());
        add(o, "stderr", unknown_loss());
        return o;
    }
    if (x->out[0].dropped) add(o, "stdout", dropped(&x->out[0]));
    if (x->out[1].dropped) add(o, "stderr", dropped(&x->out[1]));
    if (x->results_dropped) {
        struct json_object *v = json_object_new_object();
        add(v, "dropped_results", json_object_new_uint64(x->results_dropped));
        add(o, "results", v);
    }
    if (json_object_object_length(o)) return o;
    json_object_put(o);
    return NULL;
}

static void add_main(struct json_object *o, struct json_object *results) {
    struct json_object *text = NULL, *png = NULL, *v;
    for (size_t i = 0; results && i < json_object_array_length(results); i++) {
        struct json_object *r = json_object_array_get_idx(results, i);
        if (json_object_get_boolean(body_get(r, "is_main_result")) &&
            json_object_is_type(v = body_get(r, "text"), json_type_string))
            text = v;
        if (!png) png = body_get(r, "png");
    }
    add(o, "text", text ? json_object_get(text) : json_object_new_string(""));
    add(o, "png", json_object_get(png));
}

struct json_object *execution_json(struct execution *x) {
    struct json_object *o = json_object_new_object();
    char time[32];
    bool ran = x->started_ms != 0;
    add_text(o, "id", x->id);
    add_text(o, "context_id", x->context->id);
    add_text(o, "language", x->context->language);
    if (x->forked_from[0]) add_text(o, "forked_from", x->forked_from);
    add(o, "results", x->results ? json_object_get(x->results) : json_object_new_array());
    add(o, "stdout", text_json(x->out[0].kept.data, x->out[0].kept.len));
    add(o, "stderr", text_json(x->out[1].kept.data, x->out[1].kept.len));
    add_main(o, x->results);
    add(o, "error", json_object_get(x->error));
    add(o, "execution_count", json_object_new_int64(x->execution_count));
    add(o, "duration_ms", text_number(ran ? (double)(monotonic_us() - x->started_us) / 1000 : 0));
    format_time(time, x->started_ms);
    add(o, "started_at", ran ? json_object_new_string(time) : NULL);
    add(o, "truncated", truncated(x));
    add(o, "exit_code", x->has_exit_code ? json_object_new_int(x->exit_code) : NULL);
    add_text(o, "exit", x->exit);
    add(o, "context_restarted", json_object_new_boolean(x->context_restarted));
    add(o, "remaining_seconds", cell_remaining(x->context->cell));
    return o;
}

struct json_object *execution_row(struct execution *x) {
    struct json_object *o = json_object_new_object();
    add_text(o, "status", "running");
    add_text(o, "context_id", x->context->id);
    add(o, "number", json_object_new_int64(x->number));
    add(o, "started_ms", json_object_new_int64(x->started_ms));
    add(o, "timeout_ms", json_object_new_int64(x->timeout_ms));
    if (x->slept_ms) add(o, "slept_ms", json_object_new_int64(x->slept_ms));
    if (x->forked_from[0]) add_text(o, "forked_from", x->forked_from);
    return o;
}

/* ---- what GET answers ---- */

static struct json_object *unfinished(struct execution *x) {
    struct json_object *o = json_object_new_object();
    char time[32];
    format_time(time, x->started_ms);
    add_text(o, "id", x->id);
    add_text(o, "context_id", x->context->id);
    add_text(o, "language", x->context->language);
    add_text(o, "status", x->stage == STAGE_QUEUED ? "queued" : "running");
    if (x->forked_from[0]) add_text(o, "forked_from", x->forked_from);
    add(o, "started_at", x->started_ms ? json_object_new_string(time) : NULL);
    return o;
}

struct json_object *execution_get(struct cell *c, const char *id, struct err *err) {
    struct execution *x = execution_find(c, id);
    if (x) return unfinished(x);
    struct history_entry *e = history_find(&c->history, id);
    if (e && e->execution) return json_object_get(e->execution);
    if (e)
        err_set(err, ERR_GONE, "the result of execution %.40s was too large to keep", id);
    else
        err_set(err, ERR_NOT_FOUND, "no execution %.40s: the last %d of a sandbox are kept", id, HISTORY_PER_CELL);
    return NULL;
}

struct execution *execution_find(struct cell *c, const char *id) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *k = c->contexts[i];
        if (!k) continue;
        if (k->running && strcmp(k->running->id, id) == 0) return k->running;
        for (struct execution *x = k->queue; x; x = x->next)
            if (strcmp(x->id, id) == 0) return x;
    }
    return NULL;
}

static struct json_object *finished(struct history_entry *e) {
    static const char *const keys[] = {"context_id",      "language", "started_at", "duration_ms",
                                       "execution_count", "exit",     "exit_code",  "error"};
    struct json_object *o = json_object_new_object();
    add_text(o, "id", e->id);
    add_text(o, "status", "finished");
    for (size_t i = 0; e->execution && i < sizeof keys / sizeof *keys; i++)
        add(o, keys[i], json_object_get(body_get(e->execution, keys[i])));
    return o;
}

struct json_object *execution_list(struct cell *c) {
    struct json_object *list = json_object_new_array();
    for (struct history_entry *e = c->history.oldest; e; e = e->cell_newer) json_object_array_add(list, finished(e));
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *k = c->contexts[i];
        if (!k) continue;
        if (k->running) json_object_array_add(list, unfinished(k->running));
        for (struct execution *x = k->queue; x; x = x->next) json_object_array_add(list, unfinished(x));
    }
    return list;
}
