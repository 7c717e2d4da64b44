/* E2B's control plane: what a sandbox uses, and what happened to it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/compat/e2b_control.h"
#include "base/clock.h"
#include "base/id.h"
#include "cell/world.h"

#define LOG_EVENTS 1000 /* events of a sandbox that its log shows */
#define MANY_MAX 100    /* sandboxes whose metrics one request may ask for */

/* ---- metrics: one sample, now. cpuUsedPct is the mean since the sandbox began, of all its CPUs together. ---- */

static void put_now(struct json_object *o) {
    char text[32];
    time_t now = (time_t)(wall_ms() / 1000);
    struct tm utc;
    gmtime_r(&now, &utc);
    (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_set_text(o, "timestamp", text);
    json_set_int(o, "timestampUnix", (long long)now);
}

static struct json_object *sample(struct cell *cell, struct json_object *stats) {
    struct json_object *o = json_object_new_object(), *about = cell_describe(cell);
    double cpus = json_object_get_double(json_field(about, "cpu")), uptime = json_object_get_double(json_field(stats, "uptime_seconds"));
    double used = json_object_get_double(json_field(stats, "cpu_us")) / 1e6;
    put_now(o);
    json_set_int(o, "cpuCount", (long long)ceil(cpus));
    json_set(o, "cpuUsedPct", json_object_new_double(uptime > 0 && cpus > 0 ? 100 * used / uptime / cpus : 0));
    json_set(o, "memUsed", json_object_get(json_field(stats, "memory_bytes")));
    json_set(o, "memTotal", json_object_get(json_field(stats, "memory_limit_bytes")));
    json_set_int(o, "memCache", 0); /* not told apart */
    json_set(o, "diskUsed", json_object_get(json_field(stats, "disk_bytes")));
    json_set(o, "diskTotal", json_object_get(json_field(stats, "disk_limit_bytes")));
    json_object_put(about);
    return o;
}

static void measured(void *arg, struct err *e, struct json_object *stats) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
    } else {
        struct json_object *list = json_object_new_array();
        json_object_array_add(list, sample(rq->cell, stats));
        reply_json(rq, 200, list);
    }
    request_release(rq);
}

void e2b_metrics(struct request *rq) {
    if (cell_asleep(rq->cell)) /* it uses nothing, and nothing was recorded */
        reply_json(rq, 200, json_object_new_array());
    else
        cell_stats(rq->cell, measured, request_hold(rq));
}

struct many {
    struct request *rq;
    struct json_object *sandboxes;
    size_t left;
};
struct one {
    struct many *many;
    struct cell *cell;
};

static void many_done(struct many *m) {
    if (--m->left) return;
    struct json_object *o = json_object_new_object();
    json_set(o, "sandboxes", m->sandboxes);
    reply_json(m->rq, 200, o);
    request_release(m->rq);
    free(m);
}

static void one_measured(void *arg, struct err *e, struct json_object *stats) {
    struct one *one = arg;
    if (!e) json_set(one->many->sandboxes, cell_id(one->cell), sample(one->cell, stats));
    cell_release(one->cell);
    many_done(one->many);
    free(one);
}

static void ask_one(struct many *m, const char *id) {
    struct err e;
    const char *owner = api_owner(m->rq);
    struct cell *cell = id_valid(id, "sbx_") ? cell_find(api_of(m->rq)->world, id, &e) : NULL;
    if (!cell || cell_asleep(cell) || (owner && strcmp(cell_owner(cell), owner) != 0)) return;
    struct one *one = calloc(1, sizeof *one);
    if (!one) abort();
    *one = (struct one){.many = m, .cell = cell_hold(cell)};
    m->left++;
    cell_stats(cell, one_measured, one);
}

/* ?sandbox_ids=a,b: those that are not there are not in the answer. */
void e2b_metrics_of_many(struct request *rq) {
    struct err e;
    const char *ids = request_query(rq, "sandbox_ids");
    size_t asked = 0;
    struct many *m = calloc(1, sizeof *m);
    if (!m) abort();
    *m = (struct many){.rq = request_hold(rq), .sandboxes = json_object_new_object(), .left = 1};
    for (const char *p = ids; p && *p; p += *p == ',') {
        char id[CELL_ID_MAX];
        size_t n = strcspn(p, ",");
        (void)snprintf(id, sizeof id, "%.*s", n < sizeof id ? (int)n : 0, p);
        if (++asked <= MANY_MAX) ask_one(m, id);
        p += n;
    }
    if (asked > MANY_MAX) {
        err_set(&e, ERR_INVALID, "at most %d sandboxes at once", MANY_MAX);
        reply_err(rq, &e);
    }
    many_done(m);
}

/* ---- logs: the events of the sandbox; what its programs print is in the answers to the requests that ran them ---- */

static void put_message(struct json_object *entry, struct json_object *event) {
    struct buf b = {0};
    const char *message = json_object_get_string(json_field(event, "message"));
    buf_str(&b, json_object_get_string(json_field(event, "type")));
    if (message) buf_printf(&b, ": %s", message);
    json_set_text(entry, "message", b.data);
    buf_free(&b);
}

static struct json_object *entry_of(struct json_object *event) {
    struct json_object *o = json_object_new_object();
    json_set(o, "timestamp", json_object_get(json_field(event, "ts")));
    put_message(o, event);
    json_set_text(o, "level", json_field(event, "code") ? "error" : "info");
    json_set(o, "fields", json_object_new_object());
    return o;
}

static struct json_object *entries_of(struct request *rq, bool backward) {
    struct json_object *events = world_events(api_of(rq)->world, cell_id(rq->cell), LOG_EVENTS), *list = json_object_new_array();
    size_t n = json_object_array_length(events);
    for (size_t i = 0; i < n; i++) json_object_array_add(list, entry_of(json_object_array_get_idx(events, backward ? n - 1 - i : i)));
    json_object_put(events);
    return list;
}

/* A line of the older call is a JSON object as text: the CLI reads its fields. */
static struct json_object *line_of(struct json_object *entry) {
    struct json_object *line = json_object_new_object(), *inner = json_object_new_object();
    json_set(inner, "level", json_object_get(json_field(entry, "level")));
    json_set_text(inner, "logger", "cella");
    json_set(inner, "message", json_object_get(json_field(entry, "message")));
    json_set(line, "timestamp", json_object_get(json_field(entry, "timestamp")));
    json_set_text(line, "line", json_object_to_json_string_ext(inner, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(inner);
    return line;
}

static int64_t time_of(struct json_object *entry) {
    int64_t at = 0;
    (void)e2b_time_parse(json_object_get_string(json_field(entry, "timestamp")), &at);
    return at;
}

/* ?start= (milliseconds since 1970), ?limit= */
void e2b_logs(struct request *rq) {
    struct err e;
    long long start, limit;
    if (query_number(&rq->query, "start", 0, INT64_MAX, 0, &start, &e) < 0 || query_number(&rq->query, "limit", 0, LOG_EVENTS, LOG_EVENTS, &limit, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *o = json_object_new_object(), *lines = json_object_new_array(), *entries = json_object_new_array(), *all = entries_of(rq, false);
    for (size_t i = 0; i < json_object_array_length(all) && json_object_array_length(lines) < (size_t)limit; i++) {
        struct json_object *entry = json_object_array_get_idx(all, i);
        if (time_of(entry) < start) continue;
        json_object_array_add(lines, line_of(entry));
        json_object_array_add(entries, json_object_get(entry));
    }
    json_object_put(all);
    json_set(o, "logs", lines);
    json_set(o, "logEntries", entries);
    reply_json(rq, 200, o);
}

/* ?cursor= (milliseconds since 1970), ?limit=, ?direction=forward|backward */
void e2b_logs_v2(struct request *rq) {
    struct err e;
    long long cursor, limit;
    const char *direction = request_query(rq, "direction");
    bool backward = direction && strcmp(direction, "backward") == 0;
    if (query_number(&rq->query, "cursor", 0, INT64_MAX, -1, &cursor, &e) < 0 || query_number(&rq->query, "limit", 0, LOG_EVENTS, LOG_EVENTS, &limit, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *o = json_object_new_object(), *all = entries_of(rq, backward), *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(all) && json_object_array_length(list) < (size_t)limit; i++) {
        struct json_object *entry = json_object_array_get_idx(all, i);
        if (cursor >= 0 && (backward ? time_of(entry) > cursor : time_of(entry) < cursor)) continue;
        json_object_array_add(list, json_object_get(entry));
    }
    json_object_put(all);
    json_set(o, "logs", list);
    reply_json(rq, 200, o);
}
