/* Executions against a scripted context: order, queue, output, timeouts, interrupts, deaths, garbage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"

#define BODY(code) "{\"code\":\"" code "\"}"

struct fixture {
    struct fake *f;
    struct cell *c;
    struct driver_cell *dc;
    struct heard h;
};

static int setup_with(void **state, void (*change)(struct world_config *)) {
    struct fixture *x = calloc(1, sizeof *x);
    x->f = fake_open();
    if (change) change(&x->f->config);
    fake_start(x->f);
    x->c = fake_cell(x->f, "{}", &x->dc);
    *state = x;
    return 0;
}
static int setup(void **state) { return setup_with(state, NULL); }
static void quick(struct world_config *c) {
    c->timeout_grace_ms = 30;
    c->interrupt_grace_ms = 30;
}
static int setup_quick(void **state) { return setup_with(state, quick); }
static void small(struct world_config *c) { c->output_bytes_max = 10; }
static int setup_small(void **state) { return setup_with(state, small); }
static int teardown(void **state) {
    struct fixture *x = *state;
    json_object_put(x->h.end);
    fake_close(x->f);
    free(x);
    return 0;
}
#define FIXTURE struct fixture *x = *state

static bool restarted(struct heard *h) {
    struct json_object *v;
    return json_object_object_get_ex(h->end, "context_restarted", &v) && json_object_get_boolean(v);
}

static void result_comes_back(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("1+1"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "1+1");
    print_to(x->dc->slots[0].out, "printed\n");
    print_to(x->dc->slots[0].err, "warned\n");
    peer_frame(x->dc->slots[0].control, CONTEXT_DISPLAY, 0, n, "{\"data\":{\"image/png\":\"UE5H\"},\"metadata\":{}}");
    peer_frame(x->dc->slots[0].control, CONTEXT_RESULT, 0, n,
               "{\"data\":{\"text/plain\":\"2\",\"text/html\":\"<b>2</b>\"},\"metadata\":{}}");
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_string_equal(x->h.order, "SoeDR.");
    assert_string_equal(end_text(&x->h, "exit"), "ok");
    assert_string_equal(end_text(&x->h, "stdout"), "printed\n");
    assert_string_equal(end_text(&x->h, "stderr"), "warned\n");
    assert_string_equal(end_text(&x->h, "text"), "2");
    assert_string_equal(end_text(&x->h, "png"), "UE5H");
    assert_string_equal(json_object_get_string(field(x->h.end, "/results/1/html")), "<b>2</b>");
    assert_string_equal(json_object_get_string(field(x->h.end, "/results/1/data/text~1plain")), "2");
    assert_true(json_object_get_boolean(field(x->h.end, "/results/1/is_main_result")));
    assert_null(field(x->h.end, "/error"));
    assert_null(field(x->h.end, "/truncated"));
    assert_false(restarted(&x->h));
}

/* DONE and output are waiting together: the output counts all the same, however the loop finds them. */
static void output_before_done_is_kept(void **state) {
    FIXTURE;
    for (int round = 0; round < 50; round++) {
        fake_execute(x->c, BODY("p"), true, &x->h, NULL);
        uint32_t n = peer_executes(x->f, x->dc, 0, "p");
        for (int i = 0; i < 5; i++) print_to(x->dc->slots[0].out, "0123456789");
        peer_done(x->dc, 0, n, "ok");
        run_until(x->f, x->h.end);
        assert_int_equal(strlen(end_text(&x->h, "stdout")), 50);
        json_object_put(x->h.end);
        x->h.end = NULL;
    }
}

static void invalid_bytes_become_replacement_characters(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("p"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "p");
    print_to(x->dc->slots[0].out, "a\xff"
                                  "b\xe2\x82");
    fake_turns(x->f, 3); /* the character is cut by two reads */
    print_to(x->dc->slots[0].out, "\xac\xc3");
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "stdout"), "a\xef\xbf\xbd"
                                                   "b\xe2\x82\xac\xef\xbf\xbd");
}

static void output_over_the_limit_is_counted(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("p"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "p");
    print_to(x->dc->slots[0].out, "12345678\xc3\xa9\xc3\xa9zz"); /* the tenth byte is the end of a character: 10 fit */
    fake_turns(x->f, 3);
    print_to(x->dc->slots[0].out, "more");
    print_to(x->dc->slots[0].err, "123456789\xc3\xa9"); /* here it is the middle of one: 9 fit */
    fake_turns(x->f, 3);
    print_to(x->dc->slots[0].err, "z"); /* would fit, but behind a hole that nobody sees */
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "stdout"), "12345678\xc3\xa9");
    assert_string_equal(end_text(&x->h, "stderr"), "123456789");
    assert_int_equal(json_object_get_int(field(x->h.end, "/truncated/stdout/dropped_bytes")), 8);
    assert_int_equal(json_object_get_int(field(x->h.end, "/truncated/stderr/dropped_bytes")), 3);
}

static void queue_keeps_the_order(void **state) {
    FIXTURE;
    struct heard h[3];
    for (int i = 0; i < 3; i++) {
        char body[32];
        (void)snprintf(body, sizeof body, "{\"code\":\"c%d\"}", i);
        fake_execute(x->c, body, true, &h[i], NULL);
    }
    for (int i = 0; i < 3; i++) {
        char code[8];
        (void)snprintf(code, sizeof code, "c%d", i);
        uint32_t n = peer_executes(x->f, x->dc, 0, code);
        assert_true(peer_silent(x->f, x->dc->slots[0].control)); /* the next one waits for DONE */
        assert_string_equal(h[i].order, "S");
        peer_done(x->dc, 0, n, "ok");
        run_until(x->f, h[i].end);
        json_object_put(h[i].end);
    }
}

static void environment_goes_before_the_code(void **state) {
    FIXTURE;
    fake_execute(x->c, "{\"code\":\"c\",\"env\":{\"A\":\"1\",\"B\":\"x=y\"},\"svg\":true}", true, &x->h, NULL);
    struct received *r = peer_receive(x->f, x->dc->slots[0].control);
    assert_int_equal(r->type, CONTEXT_TEMPENV);
    assert_int_equal(r->length, 10);
    assert_memory_equal(r->payload, "A=1\0B=x=y\0", 10);
    r = peer_receive(x->f, x->dc->slots[0].control);
    assert_int_equal(r->type, CONTEXT_EXECUTE);
    assert_int_equal(r->flags, FRAME_SVG);
}

static void long_code_is_cut_and_complete(void **state) {
    FIXTURE;
    enum { N = 200000 };
    char *body = malloc(N + 64);
    int at = sprintf(body, "{\"code\":\"");
    for (int i = 0; i < N; i++) body[at++] = (char)('a' + i % 26);
    strcpy(body + at, "\"}");
    fake_execute(x->c, body, true, &x->h, NULL);
    free(body);
    size_t got = 0;
    for (bool more = true; more;) {
        struct received *r = peer_receive(x->f, x->dc->slots[0].control);
        assert_int_equal(r->type, CONTEXT_EXECUTE);
        for (size_t i = 0; i < r->length; i++, got++) assert_int_equal(r->payload[i], 'a' + (int)(got % 26));
        more = r->flags & FRAME_MORE;
    }
    assert_int_equal(got, N);
}

static void bad_requests_are_refused(void **state) {
    FIXTURE;
    static const struct {
        const char *body, *code;
    } bad[] = {
        {"{}", ERR_INVALID},
        {"{\"code\":5}", ERR_INVALID},
        {"{\"code\":\"1\",\"language\":\"cobol\"}", ERR_INVALID},
        {"{\"code\":\"1\",\"timeout_seconds\":0}", ERR_INVALID},
        {"{\"code\":\"1\",\"timeout_seconds\":\"x\"}", ERR_INVALID},
        {"{\"code\":\"1\",\"env\":{\"A=B\":\"1\"}}", ERR_INVALID},
        {"{\"code\":\"1\",\"env\":{\"A\":1}}", ERR_INVALID},
        {"{\"code\":\"1\",\"context_id\":\"nope\"}", ERR_NOT_FOUND},
        {"{\"code\":\"1\",\"context_id\":\"default\",\"language\":\"sh\"}", ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *code;
        assert_null(fake_execute(x->c, bad[i].body, true, &x->h, &code));
        assert_string_equal(code, bad[i].code);
    }
    assert_true(peer_silent(x->f, x->dc->slots[0].control));
}

static void timeout_interrupts_and_keeps_the_state(void **state) {
    FIXTURE;
    fake_execute(x->c, "{\"code\":\"c\",\"timeout_seconds\":0.03}", true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    run_until(x->f, x->dc->signals[0][SIGINT] == 1);
    assert_null(x->h.end);
    peer_frame(x->dc->slots[0].control, CONTEXT_ERROR, 0, n,
               "{\"name\":\"KeyboardInterrupt\",\"value\":\"\",\"traceback\":\"line 1\"}");
    peer_done(x->dc, 0, n, "interrupted");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "timeout");
    assert_string_equal(json_object_get_string(field(x->h.end, "/error/name")), "TimeoutError");
    assert_string_equal(json_object_get_string(field(x->h.end, "/error/traceback")), "line 1");
    assert_false(restarted(&x->h));
    assert_int_equal(x->dc->signals[0][SIGKILL], 0);
}

/* A context that was just made imports its libraries first: that is not the time of the code, and a SIGINT would end
 * it. */
static void time_counts_from_ready(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    fake_exit(x->dc, 0, FATE_EXITED, 1);
    run_until(x->f, x->h.end);
    json_object_put(x->h.end);
    fake_execute(x->c, "{\"code\":\"d\",\"timeout_seconds\":0.03}", true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "d");
    fake_turns(x->f, 100);
    assert_int_equal(x->dc->signals[0][SIGINT], 0);
    peer_frame(x->dc->slots[0].control, CONTEXT_READY, 0, 0, "{\"language\":\"python\",\"version\":\"3\",\"pid\":2}");
    run_until(x->f, x->dc->signals[0][SIGINT] == 1);
}

static void interrupt_waits_for_ready(void **state) {
    FIXTURE;
    struct err err;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    fake_exit(x->dc, 0, FATE_EXITED, 1);
    run_until(x->f, x->h.end);
    json_object_put(x->h.end);
    fake_execute(x->c, BODY("d"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "d");
    assert_int_equal(context_interrupt(x->c, "default", &err), 0);
    fake_turns(x->f, 5);
    assert_int_equal(x->dc->signals[0][SIGINT], 0);
    peer_frame(x->dc->slots[0].control, CONTEXT_READY, 0, 0, "{\"language\":\"python\",\"version\":\"3\",\"pid\":2}");
    run_until(x->f, x->dc->signals[0][SIGINT] == 1);
    peer_done(x->dc, 0, n, "interrupted");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "interrupted");
}

static void timeout_kills_what_ignores_it(void **state) {
    FIXTURE;
    fake_execute(x->c, "{\"code\":\"c\",\"timeout_seconds\":0.03}", true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    run_until(x->f, x->h.end);
    assert_int_equal(x->dc->signals[0][SIGINT], 1);
    assert_int_equal(x->dc->signals[0][SIGKILL], 1);
    assert_string_equal(end_text(&x->h, "exit"), "timeout");
    assert_true(restarted(&x->h));
    assert_int_equal(x->dc->slots[0].makes, 2);
    /* and the fresh one works */
    json_object_put(x->h.end);
    fake_execute(x->c, BODY("again"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "again");
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "ok");
    assert_false(restarted(&x->h));
}

static void interrupt_is_interrupted(void **state) {
    FIXTURE;
    struct err err;
    struct heard second;
    assert_int_equal(context_interrupt(x->c, "default", &err), -1);
    assert_string_equal(err.code, ERR_CONFLICT);
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    fake_execute(x->c, BODY("d"), true, &second, NULL);
    assert_int_equal(context_interrupt(x->c, "default", &err), 0);
    assert_int_equal(x->dc->signals[0][SIGINT], 1);
    peer_done(x->dc, 0, n, "interrupted");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "interrupted");
    n = peer_executes(x->f, x->dc, 0, "d"); /* what waited goes on */
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, second.end);
    assert_string_equal(end_text(&second, "exit"), "ok");
    json_object_put(second.end);
}

static void interrupt_escalates(void **state) {
    FIXTURE;
    struct err err;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    assert_int_equal(execution_interrupt(x->h.x, &err), 0);
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "killed");
    assert_true(restarted(&x->h));
}

static void interrupt_in_the_queue(void **state) {
    FIXTURE;
    struct err err;
    struct heard second;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    fake_execute(x->c, BODY("d"), true, &second, NULL);
    assert_int_equal(execution_interrupt(second.x, &err), 0);
    assert_null(second.end); /* not from inside the call */
    run_until(x->f, second.end);
    assert_string_equal(end_text(&second, "exit"), "interrupted");
    assert_int_equal(x->dc->signals[0][SIGINT], 0);
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_true(peer_silent(x->f, x->dc->slots[0].control));
    json_object_put(second.end);
}

static void dies_with(struct fixture *x, enum context_fate fate, int code, const char *word, const char *says) {
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    print_to(x->dc->slots[0].out, "last words");
    fake_exit(x->dc, 0, fate, code);
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), word);
    assert_string_equal(end_text(&x->h, "stdout"), "last words");
    assert_non_null(strstr(json_object_get_string(field(x->h.end, "/error/value")), says));
    assert_true(restarted(&x->h));
    assert_int_equal(x->dc->slots[0].makes, 2);
}
static void exit_is_killed_with_its_code(void **state) {
    dies_with(*state, FATE_EXITED, 3, "killed", "exited with code 3");
}
static void signal_is_killed_with_its_number(void **state) {
    dies_with(*state, FATE_KILLED, SIGSEGV, "killed", "signal 11");
}
static void out_of_memory_is_oom(void **state) { dies_with(*state, FATE_OOM, SIGKILL, "oom", "out of memory"); }

/* DONE was sent before the process went: the result counts, not the death. */
static void done_before_death_counts(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    peer_done(x->dc, 0, n, "ok");
    fake_exit(x->dc, 0, FATE_EXITED, 0);
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "ok");
    /* it is gone all the same, and the next execution says that the state is not what it was */
    json_object_put(x->h.end);
    fake_turns(x->f, 5);
    assert_int_equal(x->dc->slots[0].makes, 1);
    fake_execute(x->c, BODY("d"), true, &x->h, NULL);
    n = peer_executes(x->f, x->dc, 0, "d");
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_true(restarted(&x->h));
    assert_int_equal(x->dc->slots[0].makes, 2);
}

static void garbage_is_lost(struct fixture *x, const void *bytes, size_t n) {
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    peer_bytes(x->dc->slots[0].control, bytes, n);
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "lost");
    assert_true(restarted(&x->h));
    assert_int_equal(x->dc->signals[0][SIGKILL], 1);
    fake_turns(x->f, 3);
    assert_int_equal(x->f->destroyed, 0); /* the cell is not at fault */
}
static void garbage_packet(void **state) { garbage_is_lost(*state, "garbage", 7); }
static void garbage_json(void **state) {
    uint8_t packet[256];
    size_t len = 0;
    frame_put(packet, &len, CONTEXT_RESULT, 0, 1, "{\"data\":", 8);
    garbage_is_lost(*state, packet, len);
}
static void garbage_depth(void **state) {
    uint8_t packet[4096];
    char deep[600];
    size_t len = 0;
    memset(deep, '[', sizeof deep);
    memcpy(deep, "{\"data\":", 8);
    frame_put(packet, &len, CONTEXT_RESULT, 0, 1, deep, sizeof deep);
    garbage_is_lost(*state, packet, len);
}
static void garbage_type(void **state) {
    uint8_t packet[256];
    size_t len = 0;
    frame_put(packet, &len, 999, 0, 1, "{}", 2);
    garbage_is_lost(*state, packet, len);
}
static void garbage_bundle(void **state) {
    uint8_t packet[256];
    size_t len = 0;
    frame_put(packet, &len, CONTEXT_DISPLAY, 0, 1, "{\"data\":5}", 10);
    garbage_is_lost(*state, packet, len);
}

static void frames_of_another_execution_are_dropped(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    peer_done(x->dc, 0, n + 5, "ok");
    peer_frame(x->dc->slots[0].control, CONTEXT_RESULT, 0, n + 1, "{\"data\":{\"text/plain\":\"wrong\"}}");
    fake_turns(x->f, 5);
    assert_null(x->h.end);
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "text"), "");
}

static void joined_frames_make_one_result(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    peer_frame(x->dc->slots[0].control, CONTEXT_RESULT, FRAME_MORE, n, "{\"data\":{\"text/plain\":");
    peer_frame(x->dc->slots[0].control, CONTEXT_RESULT, FRAME_MORE, n, "\"in ");
    peer_frame(x->dc->slots[0].control, CONTEXT_RESULT, 0, n, "parts\"}}");
    peer_done(x->dc, 0, n, "ok");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "text"), "in parts");
}

static void input_without_anybody_gets_end_of_file(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    peer_frame(x->dc->slots[0].control, CONTEXT_INPUT_REQUEST, 0, n, "{\"prompt\":\"? \",\"password\":false}");
    struct received *r = peer_receive(x->f, x->dc->slots[0].control);
    assert_int_equal(r->type, CONTEXT_INPUT_REPLY);
    assert_int_equal(r->flags, FRAME_EOF);
}

static void pause_stops_reading(void **state) {
    FIXTURE;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    execution_pause(x->h.x, true);
    print_to(x->dc->slots[0].out, "waits");
    peer_done(x->dc, 0, n, "ok");
    fake_turns(x->f, 10);
    assert_string_equal(x->h.out, "");
    assert_null(x->h.end);
    execution_pause(x->h.x, false);
    run_until(x->f, x->h.end);
    assert_string_equal(x->h.out, "waits");
}

static void detach_is_silent_and_the_code_runs_on(void **state) {
    FIXTURE;
    struct err err;
    char id[64];
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    (void)snprintf(id, sizeof id, "%s", execution_id(x->h.x));
    uint32_t n = peer_executes(x->f, x->dc, 0, "c");
    execution_detach(x->h.x, false);
    struct json_object *o = execution_get(x->c, id, &err);
    assert_string_equal(json_object_get_string(field(o, "/status")), "running");
    json_object_put(o);
    print_to(x->dc->slots[0].out, "unheard");
    peer_done(x->dc, 0, n, "ok");
    fake_turns(x->f, 10);
    assert_null(x->h.end);
    o = execution_get(x->c, id, &err);
    assert_string_equal(json_object_get_string(field(o, "/stdout")), "unheard");
    json_object_put(o);
}

static void shell_is_made_on_first_use(void **state) {
    FIXTURE;
    fake_execute(x->c, "{\"code\":\"false\",\"language\":\"bash\"}", true, &x->h, NULL);
    run_until(x->f, x->dc->slots[1].alive);
    uint32_t n = peer_executes(x->f, x->dc, 1, "false");
    peer_frame(x->dc->slots[1].control, CONTEXT_DONE, 0, n,
               "{\"status\":\"ok\",\"exit_code\":1,\"execution_count\":1}");
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "error");
    assert_string_equal(end_text(&x->h, "exit_code"), "1");
    assert_string_equal(end_text(&x->h, "context_id"), "shell");
}

static void a_context_that_cannot_be_made_is_lost(void **state) {
    FIXTURE;
    x->f->fail_make = true;
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    fake_exit(x->dc, 0, FATE_EXITED, 1);
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "killed");
    assert_false(restarted(&x->h));
    assert_non_null(strstr(json_object_get_string(field(x->h.end, "/error/value")), "could not be started again"));
}

static void a_silent_driver_does_not_hang_a_kill(void **state) {
    FIXTURE;
    /* The stream ends, the process lives on: it is killed, and the end comes even though it still has its pipes. */
    fake_execute(x->c, BODY("c"), true, &x->h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    shutdown(x->dc->slots[0].control, SHUT_RDWR);
    run_until(x->f, x->h.end);
    assert_string_equal(end_text(&x->h, "exit"), "lost");
    assert_int_equal(x->dc->signals[0][SIGKILL], 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define QUICK(name) cmocka_unit_test_setup_teardown(name, setup_quick, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(result_comes_back),
        TEST(output_before_done_is_kept),
        TEST(invalid_bytes_become_replacement_characters),
        cmocka_unit_test_setup_teardown(output_over_the_limit_is_counted, setup_small, teardown),
        TEST(queue_keeps_the_order),
        TEST(environment_goes_before_the_code),
        TEST(long_code_is_cut_and_complete),
        TEST(bad_requests_are_refused),
        TEST(timeout_interrupts_and_keeps_the_state),
        TEST(time_counts_from_ready),
        TEST(interrupt_waits_for_ready),
        QUICK(timeout_kills_what_ignores_it),
        TEST(interrupt_is_interrupted),
        QUICK(interrupt_escalates),
        TEST(interrupt_in_the_queue),
        TEST(exit_is_killed_with_its_code),
        TEST(signal_is_killed_with_its_number),
        TEST(out_of_memory_is_oom),
        TEST(done_before_death_counts),
        TEST(garbage_packet),
        TEST(garbage_json),
        TEST(garbage_depth),
        TEST(garbage_type),
        TEST(garbage_bundle),
        TEST(frames_of_another_execution_are_dropped),
        TEST(joined_frames_make_one_result),
        TEST(input_without_anybody_gets_end_of_file),
        TEST(pause_stops_reading),
        TEST(detach_is_silent_and_the_code_runs_on),
        TEST(shell_is_made_on_first_use),
        TEST(a_context_that_cannot_be_made_is_lost),
        TEST(a_silent_driver_does_not_hang_a_kill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
