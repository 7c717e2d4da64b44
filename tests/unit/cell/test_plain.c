/* The domain with the real cella-guest and the real kernels, on the driver without isolation: that the two sides of
 * both protocols mean the same. Edge cases are in the scripted tests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "cell/execution.h"
#include "cell/files.h"
#include "cell/process.h"
#include "plain_driver.h"
#include "plain_spawn.h"
#include "store/store.h"

static uv_loop_t loop;
static struct world_config config;
static struct world *world;
static char state_dir[64], cell[CELL_ID_MAX];

struct answer {
    bool done;
    struct json_object *json;
    char error[384];
    const char *code;
};
#define wait_for(condition)                                                                                            \
    do {                                                                                                               \
        int64_t until_ = monotonic_ms() + 30000;                                                                       \
        while (!(condition)) {                                                                                         \
            uv_run(&loop, UV_RUN_ONCE);                                                                                \
            if (monotonic_ms() > until_) fail_msg("never happened: %s", #condition);                                   \
        }                                                                                                              \
    } while (0)

static void on_beat(uv_timer_t *t) { (void)t; }
static void on_json(void *arg, struct err *err, struct json_object *o) {
    struct answer *a = arg;
    a->done = true;
    if (err) (void)snprintf(a->error, sizeof a->error, "%s", err->text);
    a->code = err ? err->code : NULL;
    a->json = json_object_get(o);
}
static void on_done(void *arg, struct err *err) { on_json(arg, err, NULL); }
static void on_cell(void *arg, struct err *err, struct cell *c) {
    if (c) (void)snprintf(cell, sizeof cell, "%s", cell_id(c));
    on_json(arg, err, NULL);
}
static void on_event(void *arg, struct execution *x, enum execution_event e, struct json_object *json,
                     const void *bytes, size_t n) {
    struct answer *a = arg;
    (void)x, (void)bytes, (void)n;
    if (e == EXECUTION_END) on_json(a, NULL, json);
}
static struct cell *the_cell(void) {
    struct err err;
    struct cell *c = cell_find(world, cell, &err);
    if (!c) fail_msg("%s", err.text);
    return c;
}
static const char *text(struct json_object *o, const char *path) {
    struct json_object *v = NULL;
    if (json_pointer_get(o, path, &v) != 0) fail_msg("no %s in %s", path, json_object_to_json_string(o));
    return v ? json_object_get_string(v) : "(null)";
}

static void begin(const char *code, const char *language, double timeout, struct answer *a, char id[64]) {
    struct err err;
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "code", json_object_new_string(code));
    json_object_object_add(body, "language", json_object_new_string(language));
    json_object_object_add(body, "timeout_seconds", json_object_new_double(timeout));
    *a = (struct answer){0};
    struct execution *x = execution_start(the_cell(), body, true, true, on_event, a, &err);
    json_object_put(body);
    if (!x) fail_msg("%s", err.text);
    if (id) (void)snprintf(id, 64, "%s", execution_id(x));
}
static struct json_object *run(const char *code, const char *language, double timeout) {
    struct answer a;
    begin(code, language, timeout, &a, NULL);
    wait_for(a.done);
    return a.json;
}
static void expect(const char *code, const char *language, const char *path, const char *value) {
    struct json_object *o = run(code, language, 20);
    assert_string_equal(text(o, path), value);
    json_object_put(o);
}

static void on_started(void *arg, struct err *err) {
    assert_null(err);
    *(bool *)arg = true;
}
static void start(void) {
    struct err err;
    bool started = false;
    if (!(config.driver = plain_driver_open(&loop, &err))) fail_msg("%s", err.text);
    world = world_open(&config, &err);
    world_start(world, on_started, &started);
    wait_for(started);
}
static int setup(void **state) {
    struct err err;
    static uv_timer_t beat;
    (void)state;
    uv_loop_init(&loop);
    uv_timer_init(&loop, &beat);
    uv_timer_start(&beat, on_beat, 100, 100);
    (void)snprintf(state_dir, sizeof state_dir, "/tmp/cella-unit-XXXXXX");
    if (!mkdtemp(state_dir) || plain_state_make(state_dir, &err) < 0) return -1;
    world_config_defaults(&config);
    config.loop = &loop;
    config.state_dir = state_dir;
    if (!(config.store = store_open(":memory:", &err))) return -1;
    start();
    struct answer a = {0};
    struct json_object *body = json_object_new_object();
    cell_create(world, body, "", on_cell, &a);
    json_object_put(body);
    wait_for(a.done);
    if (a.error[0]) print_error("%s\n", a.error);
    return a.error[0] ? -1 : 0;
}
static int teardown(void **state) {
    struct answer a = {0};
    (void)state;
    cell_delete(the_cell(), "deleted", on_done, &a);
    wait_for(a.done);
    world_close(world);
    uv_run(&loop, UV_RUN_NOWAIT);
    store_close(config.store);
    plain_remove_tree(state_dir);
    return a.error[0] ? -1 : 0;
}

static void python(void **state) {
    (void)state;
    expect("x = 20\nx + 1", "python", "/text", "21");
    expect("print('out'); import sys; print('err', file=sys.stderr); x", "python", "/stdout", "out\n");
    expect("x * 2", "py", "/results/0/data/text~1plain", "40");
    expect("import os; os.system('echo child')", "python", "/stdout", "child\n");
    expect("1/0", "python", "/error/name", "ZeroDivisionError");
    expect("raise SystemExit(4)", "python", "/exit_code", "4");
    expect("input()", "python", "/error/name", "EOFError");
    expect("x", "python", "/text", "20");
}
static void python_timeout_keeps_the_state(void **state) {
    (void)state;
    struct json_object *o = run("y = 7\nwhile True: pass", "python", 0.3);
    assert_string_equal(text(o, "/exit"), "timeout");
    assert_string_equal(text(o, "/context_restarted"), "false");
    json_object_put(o);
    expect("y", "python", "/text", "7");
}
static void python_that_dies_is_started_again(void **state) {
    (void)state;
    struct json_object *o = run("import sys, os\nprint('last words'); sys.stdout.flush()\nos._exit(3)", "python", 20);
    assert_string_equal(text(o, "/exit"), "killed");
    assert_string_equal(text(o, "/stdout"), "last words\n");
    assert_string_equal(text(o, "/context_restarted"), "true");
    assert_non_null(strstr(text(o, "/error/value"), "exited with code 3"));
    json_object_put(o);
    expect("'y' in globals()", "python", "/text", "False");
}
static void shell(void **state) {
    (void)state;
    expect("cd /tmp; V=5; f() { echo \"f $V\"; }", "bash", "/exit", "ok");
    expect("pwd; f", "sh", "/stdout", "/tmp\nf 5\n");
    struct json_object *o = run("ls /does-not-exist", "bash", 20);
    assert_string_equal(text(o, "/exit"), "error");
    assert_string_equal(text(o, "/exit_code"), "2");
    json_object_put(o);
}
static void processes(void **state) {
    (void)state;
    struct answer a = {0};
    struct json_object *body =
        json_tokener_parse("{\"cmd\":\"cat; echo $X >&2; exit 6\",\"stdin\":\"through\",\"env\":{\"X\":\"side\"}}");
    process_run(the_cell(), body, on_json, &a);
    json_object_put(body);
    wait_for(a.done);
    assert_null(a.code);
    assert_string_equal(text(a.json, "/stdout"), "through");
    assert_string_equal(text(a.json, "/stderr"), "side\n");
    assert_string_equal(text(a.json, "/exit_code"), "6");
    json_object_put(a.json);
    a = (struct answer){0};
    body = json_tokener_parse("{\"cmd\":[\"sleep\",\"100\"],\"timeout_seconds\":0.2}");
    process_run(the_cell(), body, on_json, &a);
    json_object_put(body);
    wait_for(a.done);
    assert_string_equal(text(a.json, "/exit"), "timeout");
    json_object_put(a.json);
    a = (struct answer){0};
    process_signal_by_id(the_cell(), "999999", 15, on_done, &a);
    wait_for(a.done);
    assert_string_equal(a.code, ERR_NOT_FOUND);
}

static struct buf downloaded;
static void on_download(void *arg, struct transfer *t, enum transfer_event e, struct json_object *json,
                        const void *bytes, size_t n, struct err *err) {
    if (e == TRANSFER_DATA) {
        buf_append(&downloaded, bytes, n);
        transfer_consumed(t, n);
    } else if (e == TRANSFER_END)
        on_json(arg, err, json);
}
struct upload {
    struct answer a;
    const char *bytes;
    size_t left;
};
static void push(struct transfer *t, struct upload *u) {
    size_t n = transfer_write(t, u->bytes, u->left);
    u->bytes += n;
    u->left -= n;
    if (!u->left) transfer_finish(t);
}
static void on_upload(void *arg, struct transfer *t, enum transfer_event e, struct json_object *json, const void *bytes,
                      size_t n, struct err *err) {
    struct upload *u = arg;
    (void)bytes, (void)n;
    if (e == TRANSFER_DRAINED)
        push(t, u);
    else if (e == TRANSFER_END)
        on_json(&u->a, err, json);
}
static void files(void **state) {
    (void)state;
    enum { SIZE = 5 << 20 };
    struct err err;
    char *big = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) big[i] = (char)(i * 2654435761u >> 13);
    struct upload u = {.bytes = big, .left = SIZE};
    struct json_object *op = json_tokener_parse("{\"op\":\"write\",\"path\":\"deep/er/big.bin\"}");
    struct transfer *t = transfer_start(the_cell(), op, on_upload, &u, &err);
    json_object_put(op);
    if (!t) fail_msg("%s", err.text);
    push(t, &u);
    wait_for(u.a.done);
    assert_null(u.a.code);
    assert_int_equal(atoi(text(u.a.json, "/bytes")), SIZE);
    json_object_put(u.a.json);

    struct answer a = {0};
    op = json_tokener_parse("{\"op\":\"read\",\"path\":\"deep/er/big.bin\"}");
    assert_non_null(transfer_start(the_cell(), op, on_download, &a, &err));
    json_object_put(op);
    wait_for(a.done);
    assert_null(a.code);
    assert_int_equal(downloaded.len, SIZE);
    assert_memory_equal(downloaded.data, big, SIZE);
    json_object_put(a.json);
    buf_free(&downloaded);
    free(big);

    a = (struct answer){0};
    op = json_tokener_parse("{\"op\":\"list\",\"path\":\"deep\",\"depth\":2}");
    files_call(the_cell(), op, on_json, &a);
    json_object_put(op);
    wait_for(a.done);
    assert_int_equal(json_object_array_length(json_object_object_get(a.json, "entries")), 2);
    json_object_put(a.json);
    a = (struct answer){0};
    op = json_tokener_parse("{\"op\":\"stat\",\"path\":\"missing\"}");
    files_call(the_cell(), op, on_json, &a);
    json_object_put(op);
    wait_for(a.done);
    assert_string_equal(a.code, ERR_NOT_FOUND);
}

/* The daemon goes and another one comes while code runs: the cell, its variables and the result are there. */
static void takeover(void **state) {
    (void)state;
    struct answer a;
    struct err err;
    char id[64];
    begin("import time\nkept = 'yes'\ntime.sleep(1)\n'woke up'", "python", 20, &a, id);
    int64_t until = monotonic_ms() + 400;
    while (monotonic_ms() < until) uv_run(&loop, UV_RUN_ONCE);
    world_close(world);
    uv_run(&loop, UV_RUN_NOWAIT);
    start();
    struct json_object *o = NULL;
    for (int64_t end = monotonic_ms() + 20000; monotonic_ms() < end;) {
        uv_run(&loop, UV_RUN_ONCE);
        json_object_put(o);
        if (!(o = execution_get(the_cell(), id, &err))) fail_msg("%s", err.text);
        if (json_object_object_get(o, "exit")) break;
    }
    assert_string_equal(text(o, "/exit"), "ok");
    assert_string_equal(text(o, "/text"), "'woke up'");
    assert_string_equal(text(o, "/truncated/stdout/reason"), "daemon_restart");
    json_object_put(o);
    assert_false(a.done); /* the old daemon's client was not called after the close */
    expect("kept", "python", "/text", "'yes'");
    expect("f", "bash", "/stdout", "f 5\n");
    processes(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(python),
        cmocka_unit_test(python_timeout_keeps_the_state),
        cmocka_unit_test(python_that_dies_is_started_again),
        cmocka_unit_test(shell),
        cmocka_unit_test(processes),
        cmocka_unit_test(files),
        cmocka_unit_test(takeover),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
