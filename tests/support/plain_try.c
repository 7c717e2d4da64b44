/* plain_try.c: a tiny main for trying the domain by hand on the plain driver: plain_try 'python code' ['more code' ...] */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/execution.h"
#include "cell/process.h"
#include "plain_driver.h"
#include "store/store.h"

static char **args;
static struct world *world;
static struct cell *cell;
static int64_t t0;
static bool over;

static void next(void);
static void on_event(void *arg, struct execution *x, enum execution_event e, struct json_object *json, const void *bytes, size_t n) {
    (void)arg, (void)x;
    if (e == EXECUTION_STDOUT || e == EXECUTION_STDERR) printf("[%d] %.*s\n", e, (int)n, (const char *)bytes);
    else if (e != EXECUTION_END) printf("[%d] %s\n", e, json_object_to_json_string(json));
    if (e != EXECUTION_END) return;
    printf("%lld us %s\n", (long long)(monotonic_us() - t0), json_object_to_json_string_ext(json, JSON_C_TO_STRING_NOSLASHESCAPE));
    next();
}
static void on_deleted(void *arg, struct err *err) { (void)arg; printf("deleted %s\n", err ? err->text : "ok"); over = true; }
static void on_run(void *arg, struct err *err, struct json_object *o) {
    (void)arg;
    printf("exec %s\n", err ? err->text : json_object_to_json_string(o));
    next();
}
static void next(void) {
    struct err err;
    const char *code = *args ? *args++ : NULL;
    if (!code) { cell_delete(cell, "deleted", on_deleted, NULL); return; }
    struct json_object *body = json_object_new_object();
    t0 = monotonic_us();
    if (strncmp(code, "exec:", 5) == 0) {
        json_object_object_add(body, "cmd", json_object_new_string(code + 5));
        process_run(cell, body, on_run, NULL);
    } else {
        bool sh = strncmp(code, "sh:", 3) == 0;
        json_object_object_add(body, "code", json_object_new_string(code + (sh ? 3 : 0)));
        json_object_object_add(body, "timeout_seconds", json_object_new_double(5));
        if (sh) json_object_object_add(body, "language", json_object_new_string("sh"));
        if (!execution_start(cell, body, true, true, on_event, NULL, &err)) { printf("refused %s\n", err.text); next(); }
    }
    json_object_put(body);
}
static void on_cell(void *arg, struct err *err, struct cell *c) {
    (void)arg;
    if (err) { printf("create: %s\n", err->text); exit(1); }
    cell = c;
    printf("%s\n", json_object_to_json_string(cell_describe(c)));
    next();
}
static void on_started(void *arg, struct err *err) {
    (void)arg;
    if (err) exit(2);
    struct json_object *body = json_object_new_object();
    cell_create(world, body, "", on_cell, NULL);
    json_object_put(body);
}
int main(int argc, char **argv) {
    (void)argc;
    struct err err = {0};
    args = argv + 1;
    uv_loop_t loop;
    uv_loop_init(&loop);
    log_open("try", LOG_DEBUG);
    struct world_config config;
    world_config_defaults(&config);
    config.loop = &loop;
    config.state_dir = "/tmp/domain/state";
    if (plain_state_make(config.state_dir, &err) < 0 || !(config.store = store_open(":memory:", &err)) || !(config.driver = plain_driver_open(&loop, &err)) || !(world = world_open(&config, &err))) {
        printf("%s\n", err.text);
        return 1;
    }
    world_start(world, on_started, NULL);
    while (!over) uv_run(&loop, UV_RUN_ONCE);
    world_close(world);
    uv_run(&loop, UV_RUN_DEFAULT);
    store_close(config.store);
    return uv_loop_close(&loop);
}
