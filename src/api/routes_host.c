/* The daemon itself: health, version, numbers, templates. */
#include <string.h>

#include "api/handlers.h"
#include "api/metrics.h"
#include "base/clock.h"
#include "cell/template.h"
#include "cell/world.h"
#include "driver/driver.h"

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

void handle_usage(struct request *rq) {
    struct api *api = api_of(rq);
    struct json_object *out = metrics_usage(api->metrics), *world = world_metrics(api->world);
    struct json_object *driver = json_field(world, "driver");
    json_set_int(out, "since_seconds", (monotonic_ms() - api->started_ms) / 1000);
    if (driver) json_object_object_del(world, "driver");
    json_set(out, "domain", world);
    reply_json(rq, 200, out);
}

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
