/* Cells: made, listed, described, changed, deleted. */
#include <stdlib.h>
#include <string.h>

#include "api/compat/tables.h"
#include "api/handlers.h"
#include "api/owners.h"
#include "api/trace/trace.h"
#include "base/clock.h"
#include "cell/world.h"

static void created(void *arg, struct err *e, struct cell *cell) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
    } else {
        char place[64];
        struct json_object *about = cell_describe(cell);
        rq->cell = cell_hold(cell);
        if (rq->key_id[0]) owners_add(api_of(rq)->owners, cell_id(cell), rq->key_id);
        trace_created(rq, cell);
        json_set_text(about, "state", "ready"); /* the word that some clients wait for */
        (void)snprintf(place, sizeof place, "/v1/sandboxes/%s", cell_id(cell));
        reply_json(rq, 201, about);
        reply_header(rq, "Location", place);
    }
    request_release(rq);
}

void handle_cell_create(struct request *rq) {
    const char *owner = api_owner(rq);
    trace_start(rq, "cella.create");
    if (!rq->body) rq->body = json_object_new_object();
    pandastack_default_template(rq);
    cell_create(api_of(rq)->world, rq->body, owner ? owner : "", created, request_hold(rq));
}

/* ?metadata=key=value, as often as wanted: cells that have every pair. */
static int metadata_filter(struct request *rq, struct json_object **out, struct err *e) {
    *out = NULL;
    for (size_t i = 0; i < rq->query.count; i++) {
        if (strcmp(rq->query.fields[i].name, "metadata") != 0) continue;
        const char *pair = rq->query.fields[i].value, *equals = strchr(pair, '=');
        char name[256];
        if (!equals || equals == pair || (size_t)(equals - pair) >= sizeof name) {
            json_object_put(*out);
            *out = NULL;
            return err_set(e, ERR_INVALID, "the query field \"metadata\" must be name=value");
        }
        (void)snprintf(name, sizeof name, "%.*s", (int)(equals - pair), pair);
        if (!*out) *out = json_object_new_object();
        json_set_text(*out, name, equals + 1);
    }
    return 0;
}

static int state_filter(const char *state, struct err *e) {
    static const char *const words[] = {"running", "paused", "hibernating", "hibernated", "waking"};
    for (size_t i = 0; state && *state && i < sizeof words / sizeof *words; i++)
        if (strcmp(state, words[i]) == 0) return 0;
    if (!state || !*state) return 0;
    return err_set(e, ERR_INVALID, "the query field \"state\" must be running, paused, hibernating, hibernated or waking");
}

void handle_cell_list(struct request *rq) {
    struct err e;
    struct json_object *filter;
    const char *state = request_query(rq, "state");
    if (metadata_filter(rq, &filter, &e) < 0 || state_filter(state, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    reply_json(rq, 200, cell_list(api_of(rq)->world, filter, state && *state ? state : NULL, api_owner(rq)));
    json_object_put(filter);
}

void handle_cell_get(struct request *rq) { reply_json(rq, 200, cell_describe(rq->cell)); }

void handle_cell_delete(struct request *rq) {
    cell_delete(rq->cell, "deleted by request", answer_empty, request_hold(rq));
}

static void reply_lifecycle(struct request *rq) {
    struct json_object *about = cell_describe(rq->cell), *out = json_object_new_object();
    static const char *const fields[] = {"expires_at", "remaining_seconds", "idle_timeout_seconds", "idle_seconds",
                                         "ttl_seconds", "persistent", "on_timeout", "space_id", "status"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        struct json_object *value = json_field(about, fields[i]);
        json_set(out, fields[i], value ? json_object_get(value) : NULL);
    }
    if (!json_field(out, "ttl_seconds") && json_field(about, "remaining_seconds"))
        json_set(out, "ttl_seconds", json_object_get(json_field(about, "remaining_seconds")));
    json_object_put(about);
    reply_json(rq, 200, out);
}

void handle_lifecycle_get(struct request *rq) { reply_lifecycle(rq); }

void handle_lifecycle_set(struct request *rq) {
    struct err e;
    if (!rq->body) rq->body = json_object_new_object();
    if (cell_set_lifecycle(rq->cell, rq->body, &e) < 0)
        reply_err(rq, &e);
    else
        reply_lifecycle(rq);
}

void handle_pause(struct request *rq) { cell_pause(rq->cell, answer_empty, request_hold(rq)); }
void handle_resume(struct request *rq) { cell_resume(rq->cell, answer_empty, request_hold(rq)); }
void handle_stats(struct request *rq) { cell_stats(rq->cell, answer_json, request_hold(rq)); }

/* The stats under the names that existing clients know, next to our own. */
static void metrics_answer(void *arg, struct err *e, struct json_object *stats) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
    } else {
        struct json_object *out = NULL;
        json_object_deep_copy(stats, &out, NULL);
        double uptime = json_object_get_double(json_field(stats, "uptime_seconds"));
        double cpu = (double)json_object_get_int64(json_field(stats, "cpu_us")) / 1e6;
        json_set_int(out, "host_rss_bytes", json_object_get_int64(json_field(stats, "memory_bytes")));
        json_set(out, "host_cpu_percent", json_object_new_double(uptime > 0 ? 100 * cpu / uptime : 0));
        reply_json(rq, 200, out);
    }
    request_release(rq);
}

void handle_cell_metrics(struct request *rq) { cell_stats(rq->cell, metrics_answer, request_hold(rq)); }
