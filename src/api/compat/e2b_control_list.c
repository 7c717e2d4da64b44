/* Lists of E2B's control plane: filters and pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/compat/e2b_control.h"
#include "cell/template.h"
#include "cell/world.h"

/* ---- pages ---- */

#define PLACE_MAX 160 /* a time, "_", an id */

static void place_of(struct json_object *entry, const char *time_key, const char *id_key, char out[static PLACE_MAX]) {
    (void)snprintf(out, PLACE_MAX, "%s_%s", json_object_get_string(json_field(entry, time_key)), json_object_get_string(json_field(entry, id_key)));
}

struct placed {
    char place[PLACE_MAX];
    struct json_object *entry;
};

static int ascending(const void *a, const void *b) { return strcmp(((const struct placed *)a)->place, ((const struct placed *)b)->place); }

static struct json_object *cut_page(struct placed *rows, size_t n, const char *token, bool descending, size_t limit, char next[static PLACE_MAX]) {
    struct json_object *page = json_object_new_array();
    next[0] = 0;
    for (size_t i = 0; i < n; i++) {
        const struct placed *row = &rows[descending ? n - 1 - i : i];
        int order = token ? strcmp(row->place, token) : 1;
        if (token && (descending ? order >= 0 : order <= 0)) continue;
        if (json_object_array_length(page) == limit) return page; /* next names the last one in it */
        json_object_array_add(page, json_object_get(row->entry));
        (void)snprintf(next, PLACE_MAX, "%s", row->place);
    }
    next[0] = 0;
    return page;
}

void e2b_reply_page(struct request *rq, struct json_object *all, const char *time_key, const char *id_key, bool descending) {
    struct err e;
    long long limit;
    char next[PLACE_MAX];
    const char *token = request_query(rq, "nextToken");
    size_t n = json_object_array_length(all);
    if (query_number(&rq->query, "limit", 1, 1000, E2B_PAGE, &limit, &e) < 0) {
        json_object_put(all);
        reply_err(rq, &e);
        return;
    }
    struct placed *rows = calloc(n + 1, sizeof *rows);
    if (!rows) abort();
    for (size_t i = 0; i < n; i++) {
        rows[i].entry = json_object_array_get_idx(all, i);
        place_of(rows[i].entry, time_key, id_key, rows[i].place);
    }
    qsort(rows, n, sizeof *rows, ascending);
    reply_json(rq, 200, cut_page(rows, n, token && *token ? token : NULL, descending, (size_t)limit, next));
    if (next[0]) reply_header(rq, "x-next-token", next);
    free(rows);
    json_object_put(all);
}

/* ---- sandboxes ---- */

struct filter {
    struct request *rq;
    struct json_object *list;
    struct query metadata; /* pairs that are wanted, still encoded once */
    const char *state, *template, *owner; /* template: as it is called in the request */
    char template_id[TEMPLATE_ID_HEX + 1];    /* "": there is none of that name */
    int64_t started_after_ms;
};

/* The value of ?metadata= is a query of its own, whose names and values the SDKs encode once more. */
static bool has_metadata(const struct query *wanted, const struct cell *cell) {
    for (size_t i = 0; i < wanted->count; i++) {
        char *name = strdup(wanted->fields[i].name), *value = strdup(wanted->fields[i].value);
        if (!name || !value) abort();
        const char *has = percent_decode(name, false) >= 0 && percent_decode(value, false) >= 0 ? cell_tag(cell, name) : NULL;
        bool same = has && strcmp(has, value) == 0;
        free(name);
        free(value);
        if (!same) return false;
    }
    return true;
}

/* "running,paused" */
static bool has_state(const char *wanted, const char *state) {
    size_t n = strlen(state);
    for (const char *p = wanted; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (strncmp(p, state, n) == 0 && (!p[n] || p[n] == ',')) return true;
    return !wanted || !*wanted;
}

/* "2026-01-31T12:00:00.123+01:00" in milliseconds since 1970. */
bool e2b_time_parse(const char *text, int64_t *out) {
    struct tm t = {0};
    int used = 0, hours, minutes;
    double fraction = 0;
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min, &t.tm_sec, &used) != 6) return false;
    t.tm_year -= 1900;
    t.tm_mon--;
    int64_t ms = (int64_t)timegm(&t) * 1000;
    if (text[used] == '.') {
        char *end;
        fraction = strtod(text + used, &end);
        used = (int)(end - text);
    }
    ms += (int64_t)(fraction * 1000);
    const char *zone = text + used;
    if (strcmp(zone, "Z") != 0) {
        if ((*zone != '+' && *zone != '-') || sscanf(zone + 1, "%2d:%2d", &hours, &minutes) != 2) return false;
        ms -= (*zone == '-' ? -1 : 1) * (hours * 60 + minutes) * 60000LL;
    }
    *out = ms;
    return true;
}

/* By its name, or by another name of the same template. */
static bool has_template(const struct filter *f, const char *name) {
    struct err e;
    char id[TEMPLATE_ID_HEX + 1];
    if (!f->template || strcmp(f->template, name) == 0) return true;
    return f->template_id[0] && template_resolve(api_of(f->rq)->world, name, id, &e) == 0 && strcmp(id, f->template_id) == 0;
}

static bool take(void *arg, struct cell *cell) {
    struct filter *f = arg;
    if ((f->owner && strcmp(cell_owner(cell), f->owner) != 0) || !has_state(f->state, e2b_state(cell)) || !has_metadata(&f->metadata, cell)) return true;
    struct json_object *info = e2b_info_json(f->rq, cell, false);
    int64_t started = 0;
    (void)e2b_time_parse(json_object_get_string(json_field(info, "startedAt")), &started);
    bool fits = has_template(f, json_object_get_string(json_field(info, "templateID"))) &&
                (!f->started_after_ms || started > f->started_after_ms);
    if (fits)
        json_object_array_add(f->list, info);
    else
        json_object_put(info);
    return true;
}

static int check_time(const char *text, int64_t *out, struct err *e) {
    if (!text || !*text || e2b_time_parse(text, out)) return 0;
    return err_set(e, ERR_INVALID, "startedAfter must be a time as 2026-01-31T12:00:00Z");
}

void e2b_list(struct request *rq) {
    struct err e;
    const char *order = request_query(rq, "order"), *template = request_query(rq, "template");
    struct filter f = {.rq = rq,
                       .state = request_query(rq, "state"),
                       .template = template && *template ? template : NULL,
                       .owner = api_owner(rq)};
    if (query_parse(&f.metadata, request_query(rq, "metadata"), &e) < 0 || check_time(request_query(rq, "startedAfter"), &f.started_after_ms, &e) < 0) {
        query_free(&f.metadata);
        reply_err(rq, &e);
        return;
    }
    f.list = json_object_new_array();
    if (f.template && template_resolve(api_of(rq)->world, f.template, f.template_id, &e) < 0) f.template_id[0] = 0;
    cell_each(api_of(rq)->world, take, &f);
    query_free(&f.metadata);
    e2b_reply_page(rq, f.list, "startedAt", "sandboxID", !order || strcmp(order, "asc") != 0);
}

/* The older call knows no pages and no paused ones. */
void e2b_list_running(struct request *rq) {
    struct err e;
    struct filter f = {.rq = rq, .state = "running", .owner = api_owner(rq)};
    if (query_parse(&f.metadata, request_query(rq, "metadata"), &e) < 0) {
        query_free(&f.metadata);
        reply_err(rq, &e);
        return;
    }
    f.list = json_object_new_array();
    cell_each(api_of(rq)->world, take, &f);
    query_free(&f.metadata);
    reply_json(rq, 200, f.list);
}

void e2b_get(struct request *rq) { reply_json(rq, 200, e2b_info_json(rq, rq->cell, true)); }
