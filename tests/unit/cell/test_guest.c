/* Processes, files and the guest stream against a scripted guest: flow control, verdicts, violations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <endian.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

struct fixture {
    struct fake *f;
    struct cell *c;
    struct driver_cell *dc;
};
/* What a call or a process said. */
struct answer {
    bool done;
    const char *code; /* word of the error */
    char error[384];
    struct json_object *json;
    size_t out, err, starts, drained;
    char order[64];
};

static int setup(void **state) {
    struct fixture *x = calloc(1, sizeof *x);
    x->f = fake_open();
    fake_start(x->f);
    x->c = fake_cell(x->f, "{\"env\":{\"CELL\":\"1\"}}", &x->dc);
    struct received *r = peer_receive(x->f, x->dc->guest);
    assert_int_equal(r->type, GUEST_OPEN);
    assert_int_equal(r->channel, 0);
    assert_string_equal(r->payload, "{\"op\":\"environment\",\"env\":{\"CELL\":\"1\"}}");
    assert_int_equal(peer_receive(x->f, x->dc->slots[0].control)->type, CONTEXT_SETENV);
    *state = x;
    return 0;
}
static int teardown(void **state) {
    struct fixture *x = *state;
    fake_close(x->f);
    free(x);
    return 0;
}
#define FIXTURE struct fixture *x = *state

static void on_json(void *arg, struct err *err, struct json_object *o) {
    struct answer *a = arg;
    assert_false(a->done);
    a->done = true;
    a->code = err ? err->code : NULL;
    if (err) (void)snprintf(a->error, sizeof a->error, "%s", err->text);
    a->json = json_object_get(o);
}
static void on_done(void *arg, struct err *err) { on_json(arg, err, NULL); }
static void on_process(void *arg, struct process *p, enum process_event e, struct json_object *json, const void *bytes,
                       size_t n, struct err *err) {
    struct answer *a = arg;
    static const char letters[] = "Soed.";
    (void)p, (void)bytes;
    size_t at = strlen(a->order);
    if (at < sizeof a->order - 1) a->order[at] = letters[e];
    if (e == PROCESS_STDOUT) a->out += n;
    if (e == PROCESS_STDERR) a->err += n;
    if (e == PROCESS_STDIN_DRAINED) a->drained++;
    if (e == PROCESS_END) on_json(a, err, json);
}

static const char *text(struct answer *a, const char *key) {
    struct json_object *v = NULL;
    assert_non_null(a->json);
    json_object_object_get_ex(a->json, key, &v);
    return v ? json_object_get_string(v) : "(null)";
}

/* Receive OPEN with this op; returns its channel. */
static uint32_t opened(struct fixture *x, const char *op) {
    struct received *r = peer_receive(x->f, x->dc->guest);
    char want[64];
    (void)snprintf(want, sizeof want, "\"op\":\"%s\"", op);
    assert_int_equal(r->type, GUEST_OPEN);
    assert_non_null(strstr(r->payload, want));
    return r->channel;
}
static void guest(struct fixture *x, uint16_t type, uint32_t channel, const char *payload) {
    peer_frame(x->dc->guest, type, 0, channel, payload);
}

static void run(struct fixture *x, const char *body, struct answer *a) {
    struct json_object *o = parse(body);
    *a = (struct answer){0};
    process_run(x->c, o, on_json, a);
    json_object_put(o);
    assert_false(a->done); /* never from inside the call */
}

static void process_answers(void **state) {
    FIXTURE;
    struct answer a;
    run(x, "{\"cmd\":[\"ls\",\"-l\"],\"cwd\":\"/tmp\",\"env\":{\"A\":\"b\"}}", &a);
    struct received *r = peer_receive(x->f, x->dc->guest);
    struct json_object
        *op = parse(r->payload),
        *want =
            parse("{\"op\":\"exec\",\"argv\":[\"ls\",\"-l\"],\"stdin\":false,\"cwd\":\"/tmp\",\"env\":{\"A\":\"b\"}}");
    assert_true(json_object_equal(op, want));
    json_object_put(op);
    json_object_put(want);
    uint32_t n = r->channel;
    guest(x, GUEST_REPLY, n, "{\"pid\":17}");
    guest(x, GUEST_DATA, n, "out");
    guest(x, GUEST_DATA_ERR, n, "err");
    guest(x, GUEST_END, n, "{\"exit_code\":2}");
    run_until(x->f, a.done);
    assert_string_equal(text(&a, "stdout"), "out");
    assert_string_equal(text(&a, "stderr"), "err");
    assert_string_equal(text(&a, "exit_code"), "2");
    assert_string_equal(text(&a, "exit"), "error");
    assert_string_equal(text(&a, "pid"), "17");
    json_object_put(a.json);
}

static void process_that_cannot_start(void **state) {
    FIXTURE;
    struct answer a;
    run(x, "{\"cmd\":\"x\",\"cwd\":\"/none\"}", &a);
    guest(x, GUEST_END, opened(x, "exec"), "{\"error\":\"no such directory\",\"code\":\"not_found\"}");
    run_until(x->f, a.done);
    assert_string_equal(a.code, ERR_NOT_FOUND);
    assert_string_equal(a.error, "no such directory");
}

static void process_requests_are_checked(void **state) {
    FIXTURE;
    static const char *const bad[] = {"{}",
                                      "{\"cmd\":\"\"}",
                                      "{\"cmd\":[]}",
                                      "{\"cmd\":[1]}",
                                      "{\"cmd\":[\"\"]}",
                                      "{\"cmd\":\"x\",\"user\":\"admin\"}",
                                      "{\"cmd\":\"x\",\"pty\":5}",
                                      "{\"cmd\":\"x\",\"pty\":{\"rows\":0}}",
                                      "{\"cmd\":\"x\",\"stdin\":5}",
                                      "{\"cmd\":\"x\",\"timeout_seconds\":-1}",
                                      "{\"cmd\":\"x\\u0000y\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct answer a;
        run(x, bad[i], &a);
        run_until(x->f, a.done);
        assert_string_equal(a.code, ERR_INVALID);
    }
    assert_true(peer_silent(x->f, x->dc->guest));
}

static void verdict(struct fixture *x, const char *end, uint64_t ooms, const char *word) {
    struct answer a;
    run(x, "{\"cmd\":\"x\"}", &a);
    uint32_t n = opened(x, "exec");
    guest(x, GUEST_REPLY, n, "{\"pid\":17}");
    fake_turns(x->f, 5);
    x->dc->stats.oom_kills += ooms;
    guest(x, GUEST_END, n, end);
    run_until(x->f, a.done);
    assert_string_equal(text(&a, "exit"), word);
    json_object_put(a.json);
}
static void sigkill_is_killed_or_oom(void **state) {
    verdict(*state, "{\"signal\":9}", 0, "killed");
    verdict(*state, "{\"signal\":9}", 1, "oom");
    verdict(*state, "{\"signal\":9}", 0, "killed"); /* the old kill is not this one's */
    verdict(*state, "{\"exit_code\":137}", 1, "oom");
    verdict(*state, "{\"exit_code\":137}", 0, "error");
    verdict(*state, "{\"signal\":11}", 1, "killed");
    verdict(*state, "{\"exit_code\":0}", 0, "ok");
    verdict(*state, "{}", 0, "lost"); /* the guest does not say how: nothing is invented */
}

static void timeout_kills_the_group(void **state) {
    FIXTURE;
    struct answer a;
    run(x, "{\"cmd\":\"x\",\"timeout_seconds\":0.03}", &a);
    uint32_t n = opened(x, "exec");
    guest(x, GUEST_REPLY, n, "{\"pid\":17}");
    struct received *r = peer_receive(x->f, x->dc->guest);
    assert_int_equal(r->type, GUEST_CONTROL);
    assert_string_equal(r->payload, "{\"signal\":9,\"group\":true}");
    guest(x, GUEST_END, n, "{\"signal\":9}");
    run_until(x->f, a.done);
    assert_string_equal(text(&a, "exit"), "timeout");
    json_object_put(a.json);
}

/* A slow client: no credit is given back, the guest has to stop after its window; nothing is lost. */
static void pause_holds_the_credit(void **state) {
    FIXTURE;
    struct answer a = {0};
    struct err err;
    struct json_object *body = parse("{\"cmd\":\"flood\"}");
    struct process *p = process_start(x->c, body, on_process, &a, &err);
    json_object_put(body);
    assert_non_null(p);
    uint32_t n = opened(x, "exec");
    guest(x, GUEST_REPLY, n, "{\"pid\":17}");
    process_pause(p, true);
    char block[16385];
    memset(block, 'x', 16384);
    block[16384] = 0;
    for (int i = 0; i < 16; i++) {
        guest(x, GUEST_DATA, n, block); /* the whole window: 16 * 16 KiB */
        fake_turns(x->f, 2);
    }
    assert_int_equal(a.out, GUEST_WINDOW);
    assert_true(peer_silent(x->f, x->dc->guest));
    process_pause(p, false);
    struct received *r = peer_receive(x->f, x->dc->guest);
    uint32_t credit;
    assert_int_equal(r->type, GUEST_CREDIT);
    memcpy(&credit, r->payload, 4);
    assert_int_equal(le32toh(credit), GUEST_WINDOW);
    guest(x, GUEST_END, n, "{\"exit_code\":0}");
    run_until(x->f, a.done);
    json_object_put(a.json);
}

/* The other direction: no more than the window is sent before credit comes back. */
static void stdin_obeys_the_window(void **state) {
    FIXTURE;
    struct answer a = {0};
    struct err err;
    static char big[GUEST_WINDOW + 1000];
    struct json_object *body = parse("{\"cmd\":\"cat\",\"stdin\":true}");
    struct process *p = process_start(x->c, body, on_process, &a, &err);
    json_object_put(body);
    uint32_t n = opened(x, "exec");
    guest(x, GUEST_REPLY, n, "{\"pid\":17}");
    assert_int_equal(process_stdin(p, big, sizeof big), GUEST_WINDOW);
    size_t got = 0;
    while (got < GUEST_WINDOW) {
        struct received *r = peer_receive(x->f, x->dc->guest);
        assert_int_equal(r->type, GUEST_DATA);
        got += r->length;
    }
    assert_true(peer_silent(x->f, x->dc->guest));
    assert_int_equal(a.drained, 0);
    uint32_t credit = htole32(500);
    uint8_t packet[64];
    size_t len = 0;
    frame_put(packet, &len, GUEST_CREDIT, 0, n, &credit, 4);
    peer_bytes(x->dc->guest, packet, len);
    run_until(x->f, a.drained == 1);
    assert_int_equal(process_stdin(p, big, 1000), 500);
    process_stdin_close(p);
    assert_int_equal(peer_receive(x->f, x->dc->guest)->length, 500);
    assert_int_equal(peer_receive(x->f, x->dc->guest)->flags, FRAME_EOF);
    guest(x, GUEST_END, n, "{\"exit_code\":0}");
    run_until(x->f, a.done);
    json_object_put(a.json);
}

static void background_is_kept_for_attach(void **state) {
    FIXTURE;
    struct answer a, b = {0};
    struct err err;
    char id[64];
    run(x, "{\"cmd\":\"server\",\"background\":true}", &a);
    uint32_t n = opened(x, "exec");
    guest(x, GUEST_REPLY, n, "{\"pid\":23}");
    run_until(x->f, a.done);
    assert_string_equal(text(&a, "background"), "true");
    (void)snprintf(id, sizeof id, "%s", text(&a, "id"));
    json_object_put(a.json);
    guest(x, GUEST_DATA, n, "early");
    fake_turns(x->f, 3);
    assert_non_null(process_attach(x->c, "23", on_process, &b, &err));
    assert_int_equal(b.out, 0);
    run_until(x->f, b.out == 5);
    guest(x, GUEST_DATA_ERR, n, "later");
    guest(x, GUEST_END, n, "{\"exit_code\":0}");
    run_until(x->f, b.done);
    assert_string_equal(b.order, "Soe.");
    json_object_put(b.json);
    struct json_object *o = process_get(x->c, id, &err);
    assert_non_null(
        strstr(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), "\"stdout\":\"early\",\"stderr\":\"later\""));
    json_object_put(o);
    b = (struct answer){0};
    assert_non_null(process_attach(x->c, id, on_process, &b, &err)); /* it has ended: all at once */
    run_until(x->f, b.done);
    assert_string_equal(b.order, "Soe.");
    json_object_put(b.json);
    assert_null(process_attach(x->c, "23", on_process, &b, &err)); /* the pid may be another's by now */
    assert_string_equal(err.code, ERR_NOT_FOUND);
}

static void list_gathers_lines(void **state) {
    FIXTURE;
    struct answer a = {0};
    struct json_object *op = parse("{\"op\":\"list\",\"path\":\"/d\",\"depth\":1}");
    files_call(x->c, op, on_json, &a);
    json_object_put(op);
    uint32_t n = opened(x, "list");
    guest(x, GUEST_DATA, n, "{\"name\":\"a\"}\n{\"na");
    guest(x, GUEST_DATA, n, "me\":\"b\"}\n");
    guest(x, GUEST_END, n, "{\"entries\":2}");
    run_until(x->f, a.done);
    assert_string_equal(json_object_to_json_string_ext(a.json, JSON_C_TO_STRING_PLAIN),
                        "{\"path\":\"\\/d\",\"entries\":[{\"name\":\"a\"},{\"name\":\"b\"}]}");
    json_object_put(a.json);
}

static void bad_lines_are_an_error_and_not_a_short_list(void **state) {
    FIXTURE;
    struct answer a = {0};
    struct json_object *op = parse("{\"op\":\"list\",\"path\":\"/d\"}");
    files_call(x->c, op, on_json, &a);
    json_object_put(op);
    uint32_t n = opened(x, "list");
    guest(x, GUEST_DATA, n, "{\"name\":\"a\"}\nnonsense\n");
    assert_int_equal(peer_receive(x->f, x->dc->guest)->type, GUEST_CLOSE);
    guest(x, GUEST_END, n, "{\"entries\":2}");
    run_until(x->f, a.done);
    assert_string_equal(a.code, ERR_LOST);
}

static void unknown_codes_become_internal(void **state) {
    FIXTURE;
    struct answer a = {0};
    struct json_object *op = parse("{\"op\":\"stat\",\"path\":\"/d\"}");
    files_call(x->c, op, on_json, &a);
    json_object_put(op);
    guest(x, GUEST_END, opened(x, "stat"), "{\"error\":\"boo\",\"code\":\"unauthorized\"}");
    run_until(x->f, a.done);
    assert_string_equal(a.code, ERR_INTERNAL);
}

struct heard_transfer {
    size_t bytes;
    bool opened, ended;
    const char *code;
};
static void on_transfer(void *arg, struct transfer *t, enum transfer_event e, struct json_object *json,
                        const void *bytes, size_t n, struct err *err) {
    struct heard_transfer *h = arg;
    (void)t, (void)json, (void)bytes;
    if (e == TRANSFER_OPEN) h->opened = true;
    if (e == TRANSFER_DATA) h->bytes += n;
    if (e == TRANSFER_END) h->ended = true, h->code = err ? err->code : NULL;
}

static void download_gets_credit_for_what_was_taken(void **state) {
    FIXTURE;
    struct heard_transfer h = {0};
    struct err err;
    struct json_object *op = parse("{\"op\":\"read\",\"path\":\"/f\"}");
    struct transfer *t = transfer_start(x->c, op, on_transfer, &h, &err);
    json_object_put(op);
    uint32_t n = opened(x, "read");
    guest(x, GUEST_REPLY, n, "{\"size\":70000}");
    char block[35001];
    memset(block, 'x', 35000);
    block[35000] = 0;
    guest(x, GUEST_DATA, n, block);
    guest(x, GUEST_DATA, n, block);
    run_until(x->f, h.bytes == 70000);
    assert_true(h.opened);
    transfer_consumed(t, 30000);
    assert_true(peer_silent(x->f, x->dc->guest));
    transfer_consumed(t, 40000);
    assert_int_equal(peer_receive(x->f, x->dc->guest)->type, GUEST_CREDIT);
    guest(x, GUEST_END, n, "{\"bytes\":70000}");
    run_until(x->f, h.ended);
    assert_null(h.code);
}

static void cancelled_transfer_is_undone_and_silent(void **state) {
    FIXTURE;
    struct heard_transfer h = {0};
    struct err err;
    struct json_object *op = parse("{\"op\":\"write\",\"path\":\"/f\"}");
    struct transfer *t = transfer_start(x->c, op, on_transfer, &h, &err);
    json_object_put(op);
    uint32_t n = opened(x, "write");
    assert_int_equal(transfer_write(t, "abc", 3), 3);
    transfer_cancel(t);
    assert_int_equal(peer_receive(x->f, x->dc->guest)->type, GUEST_DATA);
    assert_int_equal(peer_receive(x->f, x->dc->guest)->type, GUEST_CLOSE);
    guest(x, GUEST_END, n, "{\"error\":\"closed\",\"code\":\"internal\"}");
    fake_turns(x->f, 5);
    assert_false(h.ended);
}

/* ---- a guest that breaks the protocol: the cell is lost, everything in it says so, the daemon goes on ---- */

static void violation(struct fixture *x, const uint8_t *packet, size_t n) {
    struct answer a = {0};
    struct heard h;
    struct json_object *body = parse("{\"cmd\":\"x\"}");
    struct err err;
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", cell_id(x->c));
    process_run(x->c, body, on_json, &a);
    json_object_put(body);
    guest(x, GUEST_REPLY, opened(x, "exec"), "{\"pid\":17}");
    fake_turns(x->f, 3);
    fake_execute(x->c, "{\"code\":\"c\"}", true, &h, NULL);
    peer_executes(x->f, x->dc, 0, "c");
    peer_bytes(x->dc->guest, packet, n);
    run_until(x->f, a.done && h.end && x->f->destroyed == 1);
    assert_string_equal(text(&a, "exit"), "lost");
    assert_string_equal(text(&a, "exit_code"), "(null)");
    assert_string_equal(end_text(&h, "exit"), "lost");
    json_object_put(a.json);
    json_object_put(h.end);
    fake_turns(x->f, 3);
    assert_null(cell_find(x->f->world, id, &err));
    assert_string_equal(err.code, ERR_GONE);
    assert_non_null(strstr(err.text, "lost"));
}
#define VIOLATION(name, ...)                                                                                           \
    static void name(void **state) {                                                                                   \
        uint8_t packet[1024];                                                                                          \
        size_t len = 0;                                                                                                \
        __VA_ARGS__                                                                                                    \
        violation(*state, packet, len);                                                                                \
    }
static const uint32_t huge_credit = 0xffffffff;
VIOLATION(violation_garbage, memcpy(packet, "this is no frame", len = 16);)
VIOLATION(violation_unknown_channel, frame_put(packet, &len, GUEST_DATA, 0, 4711, "x", 1);)
VIOLATION(violation_unknown_type, frame_put(packet, &len, 77, 0, 1, "x", 1);)
VIOLATION(violation_bad_json, frame_put(packet, &len, GUEST_END, 0, 1, "{]", 2);)
VIOLATION(violation_array, frame_put(packet, &len, GUEST_END, 0, 1, "[]", 2);)
VIOLATION(violation_credit, frame_put(packet, &len, GUEST_CREDIT, 0, 1, &huge_credit, 4);)
VIOLATION(violation_short_credit, frame_put(packet, &len, GUEST_CREDIT, 0, 1, "x", 1);)
VIOLATION(violation_mixed, frame_put(packet, &len, GUEST_END, FRAME_MORE, 1, "{", 1);
          frame_put(packet, &len, GUEST_REPLY, 0, 1, "}", 1);)

static void violation_overrun(void **state) {
    FIXTURE;
    char block[60001];
    memset(block, 'x', 60000);
    block[60000] = 0;
    struct heard_transfer h = {0};
    struct err err;
    struct json_object *op = parse("{\"op\":\"read\",\"path\":\"/f\"}");
    transfer_start(x->c, op, on_transfer, &h, &err); /* nobody takes: no credit */
    json_object_put(op);
    uint32_t n = opened(x, "read");
    for (int i = 0; i < 5; i++) {
        guest(x, GUEST_DATA, n, block); /* 300,000 bytes, the window is 262,144 */
        fake_turns(x->f, 3);
    }
    run_until(x->f, h.ended);
    assert_string_equal(h.code, ERR_LOST);
    assert_true(h.bytes <= GUEST_WINDOW);
}

static void violation_joined_too_long(void **state) {
    FIXTURE;
    struct answer a;
    char block[60001];
    memset(block, ' ', 60000);
    block[60000] = 0;
    run(x, "{\"cmd\":\"x\"}", &a);
    uint32_t n = opened(x, "exec");
    for (int i = 0; i < 80 && !a.done; i++) {
        uint8_t packet[WIRE_PACKET_MAX];
        size_t len = 0;
        frame_put(packet, &len, GUEST_REPLY, FRAME_MORE, n, block, 60000);
        if (send(x->dc->guest, packet, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
        fake_turns(x->f, 2);
    }
    run_until(x->f, a.done);
    assert_string_equal(a.code, ERR_LOST);
}

static void requests_to_a_dead_cell_say_gone(void **state) {
    FIXTURE;
    struct answer a = {0}, b = {0};
    struct err err;
    struct cell *held = cell_hold(x->c);
    cell_delete(x->c, "deleted", on_done, &a);
    run_until(x->f, a.done);
    assert_null(a.code);
    struct json_object *body = parse("{\"cmd\":\"x\"}");
    process_run(held, body, on_json, &b);
    json_object_put(body);
    run_until(x->f, b.done);
    assert_string_equal(b.code, ERR_GONE);
    struct heard h;
    const char *code;
    assert_null(fake_execute(held, "{\"code\":\"1\"}", true, &h, &code));
    assert_string_equal(code, ERR_GONE);
    assert_int_equal(cell_set_lifecycle(held, NULL, &err), -1);
    cell_release(held);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(process_answers),
        TEST(process_that_cannot_start),
        TEST(process_requests_are_checked),
        TEST(sigkill_is_killed_or_oom),
        TEST(timeout_kills_the_group),
        TEST(pause_holds_the_credit),
        TEST(stdin_obeys_the_window),
        TEST(background_is_kept_for_attach),
        TEST(list_gathers_lines),
        TEST(bad_lines_are_an_error_and_not_a_short_list),
        TEST(unknown_codes_become_internal),
        TEST(download_gets_credit_for_what_was_taken),
        TEST(cancelled_transfer_is_undone_and_silent),
        TEST(violation_garbage),
        TEST(violation_unknown_channel),
        TEST(violation_unknown_type),
        TEST(violation_bad_json),
        TEST(violation_array),
        TEST(violation_credit),
        TEST(violation_short_credit),
        TEST(violation_mixed),
        TEST(violation_overrun),
        TEST(violation_joined_too_long),
        TEST(requests_to_a_dead_cell_say_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
