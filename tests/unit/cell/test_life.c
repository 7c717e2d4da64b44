/* Life of cells: create, limits, ttl, idle, pause, delete, contexts, events, and being taken over by the next daemon.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cell/template.h"
#include "answer.h"

static int setup(void **state) { return answer_setup(state, 3); }
#define FIXTURE struct fake *f = *state

static struct answer create(struct fake *f, const char *body) {
    struct answer a = {0};
    struct json_object *o = parse(body);
    cell_create(f->world, o, "", on_cell, &a);
    json_object_put(o);
    assert_false(a.done);
    run_until(f, a.done);
    return a;
}

static void bad_bodies_are_refused(void **state) {
    FIXTURE;
    static const struct {
        const char *body, *code, *names;
    } bad[] = {
        {"{\"template\":5}", ERR_INVALID, "template"},
        {"{\"template\":\"nothing\"}", ERR_NOT_FOUND, "nothing"},
        {"{\"template\":\"../../etc\"}", ERR_NOT_FOUND, "template"},
        {"{\"env\":[]}", ERR_INVALID, "env"},
        {"{\"env\":{\"\":\"x\"}}", ERR_INVALID, "env"},
        {"{\"metadata\":{\"a\":1}}", ERR_INVALID, "metadata"},
        {"{\"ttl_seconds\":0}", ERR_INVALID, "ttl_seconds"},
        {"{\"ttl_seconds\":1e300}", ERR_INVALID, "ttl_seconds"},
        {"{\"idle_timeout_seconds\":\"5\"}", ERR_INVALID, "idle_timeout_seconds"},
        {"{\"limits\":{\"memory_mb\":1}}", ERR_INVALID, "memory_mb"},
        {"{\"limits\":{\"cpus\":100000}}", ERR_INVALID, "cpus"},
        {"{\"limits\":{\"pids\":\"many\"}}", ERR_INVALID, "pids"},
        {"{\"network\":{\"mode\":\"sideways\"}}", ERR_INVALID, "network.mode"},
        {"{\"network\":{\"mode\":\"open\"}}", ERR_UNSUPPORTED, "network.mode"},
        {"{\"persistent\":1}", ERR_INVALID, "persistent"},
        {"{\"from_snapshot\":\"snap_1\"}", ERR_NOT_FOUND, "snap_1"},
        {"{\"on_timeout\":\"pause\"}", ERR_INVALID, "on_timeout"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct answer a = create(f, bad[i].body);
        assert_string_equal(a.code, bad[i].code);
        if (!strstr(a.error, bad[i].names)) fail_msg("\"%s\" does not name %s", a.error, bad[i].names);
    }
    assert_int_equal(f->cell_count, 0);
}

static void describe_says_what_was_asked(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct cell *c = fake_cell(
        f,
        "{\"template\":\"python\",\"env\":{\"SECRET\":\"x\"},\"metadata\":{\"user\":\"7\"},\"ttl_seconds\":60,"
        "\"limits\":{\"memory_mb\":128,\"cpus\":0.5,\"pids\":50}}",
        &dc);
    struct json_object *o = cell_describe(c);
    assert_string_equal(json_object_get_string(field(o, "/id")), dc->id);
    assert_string_equal(json_object_get_string(field(o, "/template")), "python");
    assert_string_equal(json_object_get_string(field(o, "/status")), "running");
    assert_string_equal(json_object_get_string(field(o, "/boot_mode")), "filled");
    assert_int_equal(json_object_get_int(field(o, "/limits/memory_mb")), 128);
    assert_true(json_object_get_double(field(o, "/limits/cpus")) == 0.5);
    assert_string_equal(json_object_get_string(field(o, "/env/0")), "SECRET");
    assert_null(strstr(json_object_to_json_string(o), "\"x\"")); /* names only */
    assert_true(json_object_get_double(field(o, "/remaining_seconds")) > 50);
    json_object_put(o);
    struct json_object *yes = parse("{\"user\":\"7\"}"), *no = parse("{\"user\":\"8\"}");
    struct json_object *list = cell_list(f->world, yes, NULL, NULL);
    assert_int_equal(json_object_array_length(list), 1);
    json_object_put(list);
    list = cell_list(f->world, no, NULL, NULL);
    assert_int_equal(json_object_array_length(list), 0);
    json_object_put(list);
    list = cell_list(f->world, NULL, NULL, "somebody");
    assert_int_equal(json_object_array_length(list), 0);
    json_object_put(list);
    json_object_put(yes);
    json_object_put(no);
}

static void too_many_cells(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    for (int i = 0; i < 3; i++) fake_cell(f, "{}", &dc);
    assert_string_equal(create(f, "{}").code, ERR_LIMIT);
}

static void failed_create_is_an_error(void **state) {
    FIXTURE;
    f->fail_create = true;
    struct answer a = create(f, "{}");
    assert_string_equal(a.code, ERR_UNAVAILABLE);
    f->fail_create = false;
    struct driver_cell *dc;
    assert_non_null(fake_cell(f, "{}", &dc));
}

static void ended_as(struct fake *f, struct driver_cell *dc, const char *why) {
    struct err err;
    run_until(f, f->destroyed == 1 && !cell_find(f->world, dc->id, &err));
    fake_turns(f, 3);
    assert_null(cell_find(f->world, dc->id, &err));
    assert_string_equal(err.code, ERR_GONE);
    if (!strstr(err.text, why)) fail_msg("\"%s\" does not say %s", err.text, why);
}
static void ttl_ends_a_cell(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    fake_cell(f, "{\"ttl_seconds\":0.05}", &dc);
    ended_as(f, dc, "time to live");
}
static void idle_ends_a_cell(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    fake_cell(f, "{\"idle_timeout_seconds\":0.05}", &dc);
    ended_as(f, dc, "idle");
}
static void work_is_activity(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct cell *c = fake_cell(f, "{\"idle_timeout_seconds\":0.05}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    fake_turns(f, 150); /* three timeouts */
    assert_int_equal(f->destroyed, 0);
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    json_object_put(h.end);
    ended_as(f, dc, "idle");
}
static void lifecycle_can_be_changed(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct err err;
    struct cell *c = fake_cell(f, "{\"ttl_seconds\":0.1}", &dc);
    struct json_object *never = parse("{\"ttl_seconds\":null,\"metadata\":{\"k\":\"v\"}}"),
                       *soon = parse("{\"ttl_seconds\":0.03}"), *bad = parse("{\"ttl_seconds\":-1}");
    assert_int_equal(cell_set_lifecycle(c, never, &err), 0);
    assert_int_equal(cell_set_lifecycle(c, bad, &err), -1);
    fake_turns(f, 150);
    assert_int_equal(f->destroyed, 0);
    struct json_object *o = cell_describe(c);
    assert_null(field(o, "/expires_at"));
    assert_string_equal(json_object_get_string(field(o, "/metadata/k")), "v");
    json_object_put(o);
    assert_int_equal(cell_set_lifecycle(c, soon, &err), 0);
    ended_as(f, dc, "time to live");
    json_object_put(never), json_object_put(soon), json_object_put(bad);
}

static void delete_ends_what_runs(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0};
    struct heard h[2];
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h[0], NULL);
    fake_execute(c, "{\"code\":\"d\"}", true, &h[1], NULL);
    peer_executes(f, dc, 0, "c");
    cell_delete(c, "deleted by its owner", on_done, &a);
    assert_null(h[0].end);
    run_until(f, a.done);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(end_text(&h[i], "exit"), "killed");
        json_object_put(h[i].end);
    }
    ended_as(f, dc, "deleted by its owner");
}

static void a_cell_that_dies_is_gone_with_its_reason(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    peer_executes(f, dc, 0, "c");
    shutdown(dc->guest, SHUT_RDWR); /* PID 1 is gone; the driver's word comes later */
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "lost");
    json_object_put(h.end);
    ended_as(f, dc, "lost");
}

static void pause_stops_the_clocks(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0}, b = {0};
    struct heard h;
    const char *code;
    struct cell *c = fake_cell(f, "{\"idle_timeout_seconds\":0.2}", &dc);
    fake_execute(c, "{\"code\":\"c\",\"timeout_seconds\":0.1}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    cell_pause(c, on_done, &a);
    run_until(f, a.done);
    assert_string_equal(a.code, "");
    struct heard refused;
    assert_null(fake_execute(c, "{\"code\":\"d\"}", true, &refused, &code));
    assert_string_equal(code, ERR_CONFLICT);
    fake_turns(f, 400); /* two timeouts and two idle timeouts of a cell that did not stand still */
    assert_int_equal(dc->signals[0][SIGINT], 0);
    assert_int_equal(f->destroyed, 0);
    cell_resume(c, on_done, &b);
    run_until(f, b.done);
    run_until(f, dc->signals[0][SIGINT] == 1); /* the rest of the timeout */
    peer_done(dc, 0, n, "interrupted");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "timeout");
    json_object_put(h.end);
}

static void contexts_are_made_restarted_and_deleted(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0}, b = {0}, d = {0};
    struct heard h;
    struct err err;
    char id[64];
    struct cell *c = fake_cell(f, "{\"env\":{\"X\":\"1\"}}", &dc);
    struct received *r = peer_receive(f, dc->slots[0].control);
    assert_int_equal(r->type, CONTEXT_SETENV);
    assert_memory_equal(r->payload, "X=1", 4);
    struct json_object *body = parse("{\"language\":\"python\",\"cwd\":\"/tmp\",\"env\":{\"Y\":\"2\"}}");
    context_create(c, body, on_json, &a);
    json_object_put(body);
    run_until(f, a.done);
    (void)snprintf(id, sizeof id, "%s", json_object_get_string(field(a.json, "/id")));
    json_object_put(a.json);
    for (int round = 0; round < 2; round++) { /* the second time after a restart */
        assert_memory_equal(peer_receive(f, dc->slots[1].control)->payload, "X=1", 4);
        assert_memory_equal(peer_receive(f, dc->slots[1].control)->payload, "Y=2", 4);
        r = peer_receive(f, dc->slots[1].control);
        assert_int_equal(r->type, CONTEXT_CWD);
        assert_string_equal(r->payload, "/tmp");
        if (round) break;
        char text[128];
        (void)snprintf(text, sizeof text, "{\"code\":\"c\",\"context_id\":\"%s\"}", id);
        fake_execute(c, text, true, &h, NULL);
        peer_executes(f, dc, 1, "c");
        context_restart(c, id, on_json, &b);
        run_until(f, b.done && h.end);
        assert_string_equal(end_text(&h, "exit"), "killed");
        assert_int_equal(json_object_get_int(field(b.json, "/restarts")), 1);
        json_object_put(b.json);
        json_object_put(h.end);
    }
    context_delete(c, id, on_done, &d);
    run_until(f, d.done);
    assert_string_equal(d.code, "");
    assert_null(context_describe(c, id, &err));
    assert_string_equal(err.code, ERR_NOT_FOUND);
    assert_false(dc->slots[1].alive);
}

struct events {
    int n;
    char last[64];
};
static void on_event(void *arg, struct json_object *e) {
    struct events *x = arg;
    x->n++;
    (void)snprintf(x->last, sizeof x->last, "%s", json_object_get_string(field(e, "/type")));
}
static void events_are_told_and_kept(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct events all = {0};
    struct answer a = {0};
    struct world_subscription *s = world_subscribe(f->world, NULL, on_event, &all);
    struct cell *c = fake_cell(f, "{}", &dc);
    run_until(f, all.n == 1);
    assert_string_equal(all.last, "sandbox.created");
    cell_delete(c, "deleted", on_done, &a);
    run_until(f, all.n == 2);
    assert_string_equal(all.last, "sandbox.deleted");
    world_unsubscribe(s);
    struct json_object *list = world_events(f->world, dc->id, 10);
    assert_int_equal(json_object_array_length(list), 2);
    assert_string_equal(json_object_get_string(field(list, "/0/type")), "sandbox.created");
    json_object_put(list);
}

/* ---- the next daemon ---- */

static struct cell *found(struct fake *f, struct driver_cell *dc) {
    struct err err;
    struct cell *c = cell_find(f->world, dc->id, &err);
    if (!c) fail_msg("%s", err.text);
    return c;
}
static void expect_takeover(struct fake *f, struct driver_cell *dc) {
    struct received *r = peer_receive(f, dc->guest);
    assert_int_equal(r->type, GUEST_OPEN);
    assert_string_equal(r->payload, "{\"op\":\"reset\"}");
    r = peer_receive(f, dc->slots[0].control);
    assert_int_equal(r->type, CONTEXT_HELLO);
    peer_frame(dc->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
}

static void cells_live_on(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    fake_cell(f, "{\"metadata\":{\"k\":\"v\"},\"idle_timeout_seconds\":600}", &dc);
    fake_restart(f);
    struct cell *c = found(f, dc);
    struct json_object *o = cell_describe(c);
    assert_string_equal(json_object_get_string(field(o, "/metadata/k")), "v");
    assert_string_equal(json_object_get_string(field(o, "/status")), "running");
    json_object_put(o);
    expect_takeover(f, dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    assert_true(peer_silent(f, dc->slots[0].control)); /* not before the context has said where it stands */
    peer_frame(dc->slots[0].control, CONTEXT_STATUS, 0, 0, "{\"last\":41}");
    uint32_t n = peer_executes(f, dc, 0, "c");
    assert_int_equal(n, 42);
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "ok");
    json_object_put(h.end);
}

/* One that ran when the daemon died. Returns its id; the fake context has received it under number *n. */
static void running_over_a_restart(struct fake *f, struct driver_cell **dc, char id[64], uint32_t *n) {
    struct heard h;
    struct cell *c = fake_cell(f, "{}", dc);
    fake_execute(c, "{\"code\":\"c\",\"timeout_seconds\":60}", true, &h, NULL);
    (void)snprintf(id, 64, "%s", execution_id(h.x));
    *n = peer_executes(f, *dc, 0, "c");
    fake_turns(f, 130); /* longer than a moment: it is written down */
    fake_restart(f);
    expect_takeover(f, *dc);
}
static const char *exit_of(struct fake *f, struct driver_cell *dc, const char *id, struct json_object **out) {
    struct err err;
    *out = execution_get(found(f, dc), id, &err);
    if (!*out) fail_msg("%s", err.text);
    struct json_object *v;
    return json_object_object_get_ex(*out, "exit", &v) ? json_object_get_string(v) : NULL;
}

static void a_running_execution_is_finished_from_its_replay(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    char id[64];
    uint32_t n;
    struct json_object *o;
    running_over_a_restart(f, &dc, id, &n);
    assert_null(exit_of(f, dc, id, &o));
    assert_string_equal(json_object_get_string(field(o, "/status")), "running");
    json_object_put(o);
    int control = dc->slots[0].control;
    peer_frame(control, CONTEXT_RESULT, 0, n,
               "{\"data\":{\"text/plain\":\"first time\"}}"); /* sent before HELLO was read: comes again */
    peer_frame(control, CONTEXT_DONE, 0, n, "{\"status\":\"ok\",\"execution_count\":1}");
    peer_frame(control, CONTEXT_RESULT, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"42\"}}");
    peer_frame(control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    peer_frame(control, CONTEXT_STATUS, 0, 0, "{\"last\":1}");
    fake_turns(f, 5);
    assert_string_equal(exit_of(f, dc, id, &o), "ok");
    assert_string_equal(json_object_get_string(field(o, "/text")), "42");
    assert_int_equal(json_object_array_length(field(o, "/results")), 1);
    assert_null(field(o, "/truncated/stdout/dropped_bytes"));
    assert_string_equal(json_object_get_string(field(o, "/truncated/stdout/reason")), "daemon_restart");
    json_object_put(o);
    /* and it is still there after another restart */
    fake_restart(f);
    assert_string_equal(exit_of(f, dc, id, &o), "ok");
    json_object_put(o);
}

/* A context that says nothing is given the default time and then made anew; one whose long execution is known is not.
 */
static void a_silent_context_is_made_again(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct err err;
    f->config.execute_timeout_default_ms = 60;
    fake_cell(f, "{}", &dc);
    fake_restart(f);
    expect_takeover(f, dc);
    assert_int_equal(context_interrupt(found(f, dc), "default", &err),
                     0); /* what runs has no name, but can be stopped */
    assert_int_equal(dc->signals[0][SIGINT], 1);
    fake_execute(found(f, dc), "{\"code\":\"c\"}", true, &h, NULL);
    run_until(f, dc->slots[0].makes == 2);
    uint32_t n = peer_executes(f, dc, 0, "c");
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "context_restarted"), "true");
    json_object_put(h.end);
}
static void a_long_execution_is_left_alone(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    char id[64];
    uint32_t n;
    f->config.execute_timeout_default_ms = 60;
    running_over_a_restart(f, &dc, id, &n);
    fake_turns(f, 200);
    assert_int_equal(dc->signals[0][SIGKILL], 0);
    assert_int_equal(dc->slots[0].makes, 1);
}

static void a_result_that_is_not_there_is_lost(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    char id[64];
    uint32_t n;
    struct json_object *o;
    running_over_a_restart(f, &dc, id, &n);
    peer_frame(dc->slots[0].control, CONTEXT_STATUS, 0, 0, "{\"last\":9}");
    fake_turns(f, 5);
    assert_string_equal(exit_of(f, dc, id, &o), "lost");
    json_object_put(o);
}

static void a_context_that_died_meanwhile_is_lost(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    char id[64];
    struct json_object *o;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    (void)snprintf(id, sizeof id, "%s", execution_id(h.x));
    peer_executes(f, dc, 0, "c");
    fake_turns(f, 130);
    fake_exit(dc, 0, FATE_KILLED, 9); /* its streams are closed; the daemon dies before it hears of it */
    fake_restart(f);
    assert_string_equal(exit_of(f, dc, id, &o), "lost");
    json_object_put(o);
    /* the context is made again for the next one, which says so */
    c = found(f, dc);
    fake_execute(c, "{\"code\":\"d\"}", true, &h, NULL);
    run_until(f, dc->slots[0].alive);
    uint32_t n = peer_executes(f, dc, 0, "d");
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "context_restarted"), "true");
    json_object_put(h.end);
}

static void rows_without_a_cell_are_lost_and_unknown_cells_destroyed(void **state) {
    FIXTURE;
    struct driver_cell *one, *two;
    struct err err;
    fake_cell(f, "{}", &one);
    fake_cell(f, "{}", &two);
    one->alive = false;                                                         /* the host lost it */
    assert_int_equal(store_cell_delete(f->store, two->id, "deleted", &err), 0); /* the store does not know this one */
    fake_restart(f);
    assert_null(cell_find(f->world, one->id, &err));
    assert_string_equal(err.code, ERR_GONE);
    assert_non_null(strstr(err.text, "lost"));
    run_until(f, f->destroyed == 1);
    assert_false(two->alive);
    one->alive = true; /* for the clean-up */
}

static void templates_are_found(void **state) {
    FIXTURE;
    char id[TEMPLATE_ID_HEX + 1], again[TEMPLATE_ID_HEX + 1];
    struct err err;
    assert_int_equal(template_resolve(f->world, "", id, &err), 0);
    assert_int_equal(template_resolve(f->world, "base", again, &err), 0);
    assert_string_equal(id, again);
    assert_int_equal(template_resolve(f->world, id, again, &err), 0);
    static const char *const bad[] = {
        "..", "a/b", "Python", "names", "zz", "0000000000000000000000000000000000000000000000000000000000000000"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(template_resolve(f->world, bad[i], again, &err), -1);
        assert_string_equal(err.code, ERR_NOT_FOUND);
    }
    struct json_object *list = template_list(f->world);
    assert_int_equal(json_object_array_length(list), 1);
    assert_true(json_object_get_boolean(field(list, "/0/default")));
    json_object_put(list);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, answer_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(bad_bodies_are_refused),
        TEST(describe_says_what_was_asked),
        TEST(too_many_cells),
        TEST(failed_create_is_an_error),
        TEST(ttl_ends_a_cell),
        TEST(idle_ends_a_cell),
        TEST(work_is_activity),
        TEST(lifecycle_can_be_changed),
        TEST(delete_ends_what_runs),
        TEST(a_cell_that_dies_is_gone_with_its_reason),
        TEST(pause_stops_the_clocks),
        TEST(contexts_are_made_restarted_and_deleted),
        TEST(events_are_told_and_kept),
        TEST(cells_live_on),
        TEST(a_running_execution_is_finished_from_its_replay),
        TEST(a_silent_context_is_made_again),
        TEST(a_long_execution_is_left_alone),
        TEST(a_result_that_is_not_there_is_lost),
        TEST(a_context_that_died_meanwhile_is_lost),
        TEST(rows_without_a_cell_are_lost_and_unknown_cells_destroyed),
        TEST(templates_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
