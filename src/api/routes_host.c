/* The daemon itself: health, version, numbers, templates. */
#include <string.h>

#include "api/handlers.h"
#include "api/metrics.h"
#include "base/clock.h"
#include "cell/template.h"
#include "cell/world.h"
#include "driver/driver.h"
#include "tenant/keys.h"
#include "tenant/usage.h"

static const char *driver_name(struct request *rq) {
    struct driver *driver = api_of(rq)->driver;
    return driver ? driver->ops->name : "none";
}

void handle_health(struct request *rq) {
    struct api *api = api_of(rq);
    struct json_object *out = json_object_new_object();
    json_set_text(out, "status", api->ready ? "ok" : "starting");
    json_set_text(out, "version", CELLA_VERSION);
    json_set_text(out, "driver", driver_name(rq));
    json_set_text(out, "isolation", api->driver ? api->driver->ops->isolation : "");
    json_set_int(out, "uptime_seconds", (monotonic_ms() - api->started_ms) / 1000);
    reply_json(rq, api->ready ? 200 : 503, out);
}

void handle_health_text(struct request *rq) {
    bool ready = api_of(rq)->ready;
    reply_text(rq, ready ? 200 : 503, "text/plain; charset=utf-8", ready ? "ok" : "starting");
}

void handle_version(struct request *rq) {
    struct json_object *out = json_object_new_object();
    json_set_text(out, "name", "cella");
    json_set_text(out, "version", CELLA_VERSION);
    json_set_text(out, "api", "v1");
    reply_json(rq, 200, out);
}

void handle_metrics(struct request *rq) {
    struct buf b = {0};
    metrics_text(api_of(rq), &b);
    reply_buf(rq, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

/* ---- usage ---- */

struct living {
    const char *key_id;
    uint64_t us;
};
static bool add_living(void *arg, struct cell *cell) {
    struct living *l = arg;
    if (strcmp(cell_owner(cell), l->key_id) == 0) l->us += cell_cpu_us(cell);
    return true;
}
static uint64_t of_living(void *rq, const char *key_id, unsigned kind) {
    struct living l = {.key_id = key_id};
    if (kind == USE_CPU_US) cell_each(api_of(rq)->world, add_living, &l);
    return l.us;
}

/* The name of each key; null for requests without one and for a key that was deleted. */
static void name_rows(struct json_object *list, struct json_object *known) {
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *row = json_object_array_get_idx(list, i), *name = NULL;
        const char *id = json_object_get_string(json_field(row, "id"));
        for (size_t k = 0; id && known && k < json_object_array_length(known); k++) {
            struct json_object *key = json_object_array_get_idx(known, k);
            if (strcmp(json_object_get_string(json_field(key, "id")), id) == 0) name = json_field(key, "name");
        }
        json_set(row, "name", name ? json_object_get(name) : NULL);
    }
}

/* A key hears of itself; whoever needs none hears of all. */
static void add_keys(struct request *rq, struct json_object *out) {
    struct err e;
    struct api *api = api_of(rq);
    struct json_object *list = usage_list(api->usage, api_owner(rq), of_living, rq), *known = keys_list(api->keys, &e);
    name_rows(list, known);
    json_object_put(known);
    json_set(out, "total", usage_sum(list));
    json_set(out, "keys", list);
}

static void reply_usage(void *arg) {
    struct request *rq = arg;
    struct api *api = api_of(rq);
    struct json_object *out = metrics_usage(api->metrics), *world = world_metrics(api->world);
    struct json_object *driver = json_field(world, "driver");
    json_set_int(out, "since_seconds", (monotonic_ms() - api->started_ms) / 1000);
    if (driver) json_object_object_del(world, "driver");
    json_set(out, "domain", world);
    add_keys(rq, out);
    reply_json(rq, 200, out);
    request_release(rq);
}

void handle_usage(struct request *rq) { world_look_at_cpu(api_of(rq)->world, api_owner(rq), reply_usage, request_hold(rq)); }

void handle_doctor(struct request *rq) {
    struct driver *driver = api_of(rq)->driver;
    struct json_object *out = json_object_new_object();
    json_set_text(out, "driver", driver_name(rq));
    json_set_text(out, "isolation", driver ? driver->ops->isolation : "");
    json_set(out, "report", driver ? driver->ops->report(driver) : NULL);
    reply_json(rq, 200, out);
}

void handle_template_list(struct request *rq) { reply_json(rq, 200, template_list(api_of(rq)->world)); }

void handle_template_get(struct request *rq) {
    struct err e;
    struct json_object *manifest = template_get(api_of(rq)->world, request_param(rq, 0), &e);
    if (manifest)
        reply_json(rq, 200, manifest);
    else
        reply_err(rq, &e);
}
