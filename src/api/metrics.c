#include "api/metrics.h"

#include <json-c/json.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "api/http_server.h"
#include "api/json_text.h"
#include "api/trace/exporter.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "cell/world.h"

#define EXITS 8
static const char *const exit_words[EXITS] = {"ok",  "error",  "timeout", "interrupted",
                                              "oom", "killed", "lost",    "other"};

/* Upper bounds in microseconds: from a hot execute (0.3 ms) to a long analysis. */
static const int64_t bounds[] = {100,   250,    500,    1000,   2500,    5000,    10000,    25000,
                                 50000, 100000, 250000, 500000, 1000000, 2500000, 10000000, 60000000};
#define BOUNDS (sizeof bounds / sizeof *bounds)

struct histogram {
    uint64_t below[BOUNDS], count;
    int64_t sum_us;
};

struct route_numbers {
    uint64_t by_class[6]; /* status / 100 */
    struct histogram time;
};

struct api_metrics {
    uint64_t unrouted[6], total;
    uint64_t exits[EXITS];
    struct histogram execution;
    struct route_numbers routes[]; /* of every row of every table, table after table */
};

static size_t rows_in_all(void) {
    size_t n = 0;
    for (size_t t = 0; t < route_tables_count; t++) n += route_tables[t]->count;
    return n;
}

static size_t row_place(const struct route *route) {
    size_t before = 0;
    for (size_t t = 0; t < route_tables_count; before += route_tables[t++]->count)
        if (route >= route_tables[t]->rows && route < route_tables[t]->rows + route_tables[t]->count)
            return before + (size_t)(route - route_tables[t]->rows);
    abort(); /* every route is of a table */
}

/* Row i of all, and the name of its table. */
static const struct route *row_at(size_t i, const char **table) {
    size_t t = 0;
    while (i >= route_tables[t]->count) i -= route_tables[t++]->count;
    *table = route_tables[t]->name;
    return &route_tables[t]->rows[i];
}

struct api_metrics *metrics_open(void) {
    struct api_metrics *m = calloc(1, sizeof *m + rows_in_all() * sizeof m->routes[0]);
    if (!m) abort();
    return m;
}
void metrics_close(struct api_metrics *m) { free(m); }

static void observe(struct histogram *h, int64_t us) {
    h->count++;
    h->sum_us += us;
    for (size_t i = BOUNDS; i-- && us <= bounds[i];) h->below[i]++;
}

void metrics_request(struct api_metrics *m, const struct route *route, unsigned status, int64_t us) {
    unsigned class = status / 100 < 6 ? status / 100 : 5;
    m->total++;
    if (!route) {
        m->unrouted[class]++;
        return;
    }
    struct route_numbers *r = &m->routes[row_place(route)];
    r->by_class[class]++;
    observe(&r->time, us);
}

void metrics_execution(struct api_metrics *m, const char *exit, int64_t ms) {
    size_t i = 0;
    while (i < EXITS - 1 && (!exit || strcmp(exit, exit_words[i]) != 0)) i++;
    m->exits[i]++;
    observe(&m->execution, ms * 1000);
}

static void put_histogram(struct buf *out, const char *name, const char *labels, const struct histogram *h) {
    const char *comma = *labels ? "," : "";
    for (size_t i = 0; i < BOUNDS; i++)
        buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %lu\n", name, labels, comma, (double)bounds[i] / 1e6, h->below[i]);
    buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %lu\n", name, labels, comma, h->count);
    buf_printf(out, "%s_sum{%s} %g\n%s_count{%s} %lu\n", name, labels, (double)h->sum_us / 1e6, name, labels, h->count);
}

static void head(struct buf *out, const char *name, const char *type, const char *help) {
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_requests(const struct api_metrics *m, struct buf *out) {
    const char *table;
    head(out, "cella_http_requests_total", "counter", "Requests by route and class of status.");
    for (size_t i = 0; i < rows_in_all(); i++) {
        const struct route *row = row_at(i, &table);
        for (unsigned c = 0; c < 6; c++)
            if (m->routes[i].by_class[c])
                buf_printf(out, "cella_http_requests_total{method=\"%s\",route=\"%s%s\",status=\"%uxx\"} %lu\n",
                           row->method, table, row->pattern, c, m->routes[i].by_class[c]);
    }
    for (unsigned c = 0; c < 6; c++)
        if (m->unrouted[c])
            buf_printf(out, "cella_http_requests_total{method=\"\",route=\"\",status=\"%uxx\"} %lu\n", c,
                       m->unrouted[c]);
    head(out, "cella_http_request_seconds", "histogram", "Time from a request's first line to the end of its answer.");
    for (size_t i = 0; i < rows_in_all(); i++) {
        char labels[256];
        const struct route *row = row_at(i, &table);
        if (!m->routes[i].time.count) continue;
        (void)snprintf(labels, sizeof labels, "method=\"%s\",route=\"%s%s\"", row->method, table, row->pattern);
        put_histogram(out, "cella_http_request_seconds", labels, &m->routes[i].time);
    }
}

static void put_executions(const struct api_metrics *m, struct buf *out) {
    head(out, "cella_executions_total", "counter", "Executions that ended, by how they ended.");
    for (size_t i = 0; i < EXITS; i++)
        buf_printf(out, "cella_executions_total{exit=\"%s\"} %lu\n", exit_words[i], m->exits[i]);
    head(out, "cella_execution_seconds", "histogram", "Time that executions took in their context.");
    put_histogram(out, "cella_execution_seconds", "", &m->execution);
}

static const char *help_of(const char *name) {
    static const char *const texts[][2] = {
        {"cella_created_total", "Sandboxes made, children of forks among them."},
        {"cella_forked_total", "Sandboxes made as children of a fork."},
        {"cella_merged_total", "Merges: a branch took another one's place."},
        {"cella_snapshots_total", "Snapshots written."},
        {"cella_paused_total", "Pauses in memory."},
        {"cella_resumed_total", "Ends of pauses in memory."},
        {"cella_hibernated_total", "Sandboxes frozen to the disk."},
        {"cella_woken_total", "Sandboxes resumed from the disk."},
        {"cella_rolled_back_total", "Lost sandboxes that went back to their image."},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(texts[i][0], name) == 0) return texts[i][1];
    return NULL;
}

/* Numbers of the domain and the driver, each as a gauge named by its place: {"cells":{"running":3}} becomes
 * cella_cells_running 3. */
static void put_numbers(struct buf *out, const char *prefix, struct json_object *value, int depth) {
    if (json_object_is_type(value, json_type_object) && depth < 6) {
        json_object_object_foreach(value, key, field) {
            char name[160];
            if (!depth && !strcmp(key, "executions_total")) continue; /* counted above, by how they ended */
            size_t n = (size_t)snprintf(name, sizeof name, "%s_%.60s", prefix, key);
            for (size_t i = 0; i < n && i < sizeof name - 1; i++)
                if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", name[i])) name[i] = '_';
            put_numbers(out, name, field, depth + 1);
        }
    } else if (json_object_is_type(value, json_type_int)) {
        size_t n = strlen(prefix);
        bool counter = n > 6 && strcmp(prefix + n - 6, "_total") == 0;
        if (help_of(prefix)) buf_printf(out, "# HELP %s %s\n", prefix, help_of(prefix));
        buf_printf(out, "# TYPE %s %s\n%s %ld\n", prefix, counter ? "counter" : "gauge", prefix,
                   json_object_get_int64(value));
    } else if (json_object_is_type(value, json_type_double)) {
        buf_printf(out, "# TYPE %s gauge\n%s %g\n", prefix, prefix, json_object_get_double(value));
    } else if (json_object_is_type(value, json_type_boolean)) {
        buf_printf(out, "# TYPE %s gauge\n%s %d\n", prefix, prefix, json_object_get_boolean(value));
    }
}

static void put_process(struct api *api, struct buf *out) {
    long pages = 0;
    cleanup_file FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%*d %ld", &pages) == 1) {
        head(out, "cella_daemon_resident_bytes", "gauge", "Memory of the daemon.");
        buf_printf(out, "cella_daemon_resident_bytes %ld\n", pages * sysconf(_SC_PAGESIZE));
    }
    head(out, "cella_daemon_uptime_seconds", "gauge", "Since the daemon started.");
    buf_printf(out, "cella_daemon_uptime_seconds %g\n", (double)(monotonic_ms() - api->started_ms) / 1000.0);
    head(out, "cella_http_connections", "gauge", "Open connections, WebSockets included.");
    buf_printf(out, "cella_http_connections %u\n", http_server_connections(api->http));
}

static void put_tracing(struct exporter *x, struct buf *out) {
    if (!x) return;
    struct exporter_numbers n = exporter_count(x);
    head(out, "cella_trace_spans_total", "counter", "Spans by what became of them: sent, dropped (the queue was full), failed (the collector did not take them).");
    buf_printf(out, "cella_trace_spans_total{result=\"sent\"} %lu\n", n.sent);
    buf_printf(out, "cella_trace_spans_total{result=\"dropped\"} %lu\n", n.dropped);
    buf_printf(out, "cella_trace_spans_total{result=\"failed\"} %lu\n", n.failed);
}

void metrics_text(struct api *api, struct buf *out) {
    head(out, "cella_build_info", "gauge", "Always 1; the version is a label.");
    buf_printf(out, "cella_build_info{version=\"%s\"} 1\n", CELLA_VERSION);
    put_process(api, out);
    put_requests(api->metrics, out);
    put_executions(api->metrics, out);
    put_tracing(api->exporter, out);
    struct json_object *numbers = world_metrics(api->world);
    put_numbers(out, "cella", numbers, 0);
    json_object_put(numbers);
}

struct json_object *metrics_usage(struct api_metrics *m) {
    struct json_object *usage = json_object_new_object(), *exits = json_object_new_object();
    for (size_t i = 0; i < EXITS; i++) json_set_int(exits, exit_words[i], (long long)m->exits[i]);
    json_set_int(usage, "requests", (long long)m->total);
    json_set_int(usage, "executions_total", (long long)m->execution.count);
    json_set(usage, "executions", exits);
    json_set_int(usage, "execution_ms", m->execution.sum_us / 1000);
    return usage;
}
