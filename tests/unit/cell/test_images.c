/* Hibernate, wake, snapshots, Spaces: what a cell is while only its image exists, and what every failure leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cell/snapshot.h"
#include "answer.h"

static int setup(void **state) { return answer_setup(state, 0); }
#define FIXTURE struct fake *f = *state


static void hibernate(struct fake *f, struct cell *c) {
    struct answer a = {0};
    cell_hibernate(c, on_json, &a);
    run_until(f, a.done);
    if (a.code[0]) fail_msg("%s", a.error);
    assert_string_equal(text(a.json, "/status"), "hibernated");
    json_object_put(a.json);
}
static struct driver_cell *wake(struct fake *f, struct cell *c) {
    struct answer a = {0};
    cell_wake(c, on_done, &a);
    run_until(f, a.done);
    if (a.code[0]) fail_msg("%s", a.error);
    return fake_newest(f);
}
static void has_status(struct cell *c, const char *word) { assert_string_equal(cell_status_word(c), word); }
static struct cell *find(struct fake *f, const char *id) {
    struct err err;
    struct cell *c = cell_find(f->world, id, &err);
    if (!c) fail_msg("%s", err.text);
    return c;
}
static bool event_told(struct fake *f, const char *id, const char *type) {
    bool found = false;
    struct json_object *list = world_events(f->world, id, 100);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        found |= strcmp(text(json_object_array_get_idx(list, i), "/type"), type) == 0;
    json_object_put(list);
    return found;
}
static int directories(struct fake *f) {
    char command[160];
    int n = -1;
    (void)snprintf(command, sizeof command, "ls %s/images 2>/dev/null | wc -l", f->state_dir);
    FILE *p = popen(command, "r");
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}
static int kept_by_driver(struct fake *f) {
    int n = 0;
    for (int i = 0; i < FAKE_IMAGES; i++) n += f->images[i][0] != 0;
    return n;
}
/* What a copied context is told first, and its answer: it is idle. */
static void expect_copy(struct fake *f, struct driver_cell *dc, int slot) {
    struct received *r = peer_receive(f, dc->slots[slot].control);
    char id[CELL_ID_MAX + 20];
    assert_int_equal(r->type, CONTEXT_FORKED);
    (void)snprintf(id, sizeof id, "\"sandbox_id\":\"%s\"", dc->id);
    assert_non_null(strstr(r->payload, id));
    while ((r = peer_receive(f, dc->slots[slot].control))->type == CONTEXT_SETENV || r->type == CONTEXT_CWD)
        ;
    assert_int_equal(r->type, CONTEXT_HELLO);
}
static void status(struct driver_cell *dc, int slot, uint32_t last) {
    char json[32];
    (void)snprintf(json, sizeof json, "{\"last\":%u}", last);
    peer_frame(dc->slots[slot].control, CONTEXT_STATUS, 0, 0, json);
}
static void run_one(struct fake *f, struct cell *c, struct driver_cell *dc) {
    struct heard h;
    fake_execute(c, "{\"code\":\"one\"}", true, &h, NULL);
    peer_done(dc, 0, peer_executes(f, dc, 0, "one"), "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "ok");
    json_object_put(h.end);
}

/* ---- away and back ---- */

static void a_cell_goes_and_comes_back(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct err err;
    struct cell *c = fake_cell(f, "{\"persistent\":true,\"metadata\":{\"k\":\"v\"}}", &dc);
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", dc->id);
    run_one(f, c, dc);
    hibernate(f, c);
    assert_false(dc->alive);
    assert_int_equal(directories(f), 1);
    struct json_object *o = cell_describe(c);
    assert_string_equal(text(o, "/status"), "hibernated");
    assert_string_equal(text(o, "/on_timeout"), "freeze");
    assert_int_equal(strncmp(text(o, "/space_id"), "space_", 6), 0);
    assert_null(field(o, "/remaining_seconds"));
    assert_true(json_object_get_double(field(o, "/idle_timeout_seconds")) == 300);
    json_object_put(o);
    struct heard h;
    const char *code;
    assert_null(fake_execute(c, "{\"code\":\"x\"}", true, &h, &code));
    assert_string_equal(code, ERR_CONFLICT);
    hibernate(f, c); /* it is already */
    assert_int_equal(f->freezes, 1);
    dc = wake(f, c);
    assert_string_equal(dc->id, id);
    has_status(c, "running");
    expect_copy(f, dc, 0);
    status(dc, 0, 1);
    peer_frame(dc->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
    fake_turns(f, 3);
    run_one(f, c, dc);
    o = context_describe(c, "default", &err);
    assert_int_equal(json_object_get_int(field(o, "/execution_count")), 2); /* it counts on */
    json_object_put(o);
    assert_int_equal(directories(f), 1); /* the fallback */
    hibernate(f, c);
    run_until(f, directories(f) == 1 && kept_by_driver(f) == 1); /* the old one went */
    assert_true(event_told(f, id, "sandbox.hibernated"));
    assert_true(event_told(f, id, "sandbox.woken"));
}

static void what_runs_goes_on_after_the_wake(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\",\"timeout_seconds\":0.3}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    peer_frame(dc->slots[0].control, CONTEXT_DISPLAY, 0, n, "{\"data\":{\"text/plain\":\"first\"}}");
    run_until(f, strchr(h.order, 'D'));
    print_to(dc->slots[0].out, "before "); /* not read when the freeze begins */
    hibernate(f, c);
    assert_string_equal(h.out, "before ");
    fake_turns(f, 500); /* longer than its timeout: its clock stands still */
    dc = wake(f, c);
    assert_null(h.end);
    expect_copy(f, dc, 0);
    print_to(dc->slots[0].out, "after");
    peer_frame(dc->slots[0].control, CONTEXT_DISPLAY, 0, n, "{\"data\":{\"text/plain\":\"second\"}}");
    peer_frame(dc->slots[0].control, CONTEXT_DONE, 0, n, "{\"status\":\"ok\",\"execution_count\":1}");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "ok");
    assert_string_equal(end_text(&h, "stdout"), "before after");
    assert_int_equal(json_object_array_length(field(h.end, "/results")), 2);
    assert_true(json_object_get_double(field(h.end, "/duration_ms")) < 450);
    json_object_put(h.end);
    assert_int_equal(dc->signals[0][SIGINT], 0);
    /* what it sends again is not news */
    peer_frame(dc->slots[0].control, CONTEXT_DISPLAY, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"first\"}}");
    peer_frame(dc->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    status(dc, 0, n);
    peer_frame(dc->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
    run_one(f, c, dc);
}

static void the_end_is_found_in_what_comes_again(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    peer_frame(dc->slots[0].control, CONTEXT_DISPLAY, 0, n, "{\"data\":{\"text/plain\":\"first\"}}");
    run_until(f, strchr(h.order, 'D'));
    hibernate(f, c);
    dc = wake(f, c);
    expect_copy(f, dc, 0);
    peer_frame(dc->slots[0].control, CONTEXT_DISPLAY, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"first\"}}");
    peer_frame(dc->slots[0].control, CONTEXT_RESULT, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"last\"}}");
    peer_frame(dc->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    status(dc, 0, n);
    run_until(f, h.end);
    assert_int_equal(json_object_array_length(field(h.end, "/results")), 2); /* the first one once */
    assert_string_equal(end_text(&h, "text"), "last");
    json_object_put(h.end);
}

static void half_a_message_is_completed(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    peer_frame(dc->slots[0].control, CONTEXT_RESULT, FRAME_MORE, n, "{\"data\":{\"text/plain\":");
    fake_turns(f, 3);
    hibernate(f, c);
    dc = wake(f, c);
    expect_copy(f, dc, 0);
    peer_frame(dc->slots[0].control, CONTEXT_RESULT, 0, n, "\"whole\"}}");
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "text"), "whole");
    json_object_put(h.end);
}

static void code_that_was_not_read_is_sent_again(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct cell *c = fake_cell(f, "{\"env\":{\"X\":\"1\"}}", &dc);
    fake_execute(c, "{\"code\":\"lost on its way\"}", true, &h, NULL);
    hibernate(f, c); /* the packet was in the socket of a cell that stood still */
    dc = wake(f, c);
    expect_copy(f, dc, 0);
    status(dc, 0, 0);
    struct received *r = peer_receive(f, dc->slots[0].control);
    assert_int_equal(r->type, CONTEXT_SETENV);
    uint32_t n = peer_executes(f, dc, 0, "lost on its way");
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "ok");
    json_object_put(h.end);
}

static void an_interrupt_of_a_frozen_one_comes_with_the_wake(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct err err;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    hibernate(f, c);
    assert_int_equal(execution_interrupt(h.x, &err), 0);
    fake_turns(f, 5);
    assert_null(h.end);
    dc = wake(f, c);
    assert_int_equal(dc->signals[0][SIGINT], 1);
    peer_done(dc, 0, n, "interrupted");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "interrupted");
    json_object_put(h.end);
}

static void processes_are_not_carried(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer run = {0}, a = {0};
    f->not_carried = parse("[{\"kind\":\"socket\",\"context_slot\":0,\"fd\":5,\"pid\":null,\"text\":\"TCP\"}]");
    struct cell *c = fake_cell(f, "{}", &dc);
    struct json_object *body = parse("{\"cmd\":\"sleep 9\"}");
    process_run(c, body, on_json, &run);
    json_object_put(body);
    struct received *r = peer_receive(f, dc->guest);
    peer_frame(dc->guest, GUEST_REPLY, 0, r->channel, "{\"pid\":77}");
    fake_turns(f, 5);
    cell_hibernate(c, on_json, &a);
    run_until(f, a.done && run.done);
    assert_string_equal(text(run.json, "/exit"), "killed");
    assert_string_equal(text(run.json, "/reason"), "hibernated");
    assert_string_equal(text(a.json, "/not_carried/0/context_id"), "default");
    assert_string_equal(text(a.json, "/not_carried/1/kind"), "process");
    assert_int_equal(json_object_get_int(field(a.json, "/not_carried/1/pid")), 77);
    json_object_put(a.json), json_object_put(run.json);
}

/* ---- at once ---- */

static void many_waiters_and_one_wake(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a[5] = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    hibernate(f, c);
    for (int i = 0; i < 5; i++) cell_wake(c, on_done, &a[i]);
    for (int i = 0; i < 5; i++) {
        run_until(f, a[i].done);
        assert_string_equal(a[i].code, "");
    }
    assert_int_equal(f->thaws, 1);
}

static void hibernate_during_a_wake_and_wake_during_a_hibernate(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer away = {0}, back = {0}, again = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    cell_hibernate(c, on_json, &away);
    cell_wake(c, on_done, &back);
    cell_hibernate(c, on_json, &again);
    run_until(f, away.done && back.done && again.done);
    assert_string_equal(back.code, "");
    assert_string_equal(again.code, "");
    has_status(c, "hibernated");
    assert_int_equal(f->freezes, 2);
    assert_int_equal(f->thaws, 1);
    json_object_put(away.json), json_object_put(again.json);
}

static void delete_in_every_state(void **state) {
    FIXTURE;
    for (int when = 0; when < 3; when++) {
        struct driver_cell *dc;
        struct answer a = {0}, b = {0}, gone = {0};
        struct err err;
        struct cell *c = fake_cell(f, "{}", &dc);
        char id[CELL_ID_MAX];
        (void)snprintf(id, sizeof id, "%s", dc->id);
        f->hold_images = when == 0;
        if (when == 0)
            cell_hibernate(c, on_json, &a);
        else
            hibernate(f, c);
        f->hold_images = when == 2 || when == 0;
        if (when == 2) cell_wake(c, on_done, &a);
        fake_turns(f, 5);
        has_status(c, when == 0 ? "hibernating" : when == 1 ? "hibernated" : "waking");
        cell_delete(c, "deleted by request", on_done, &gone);
        cell_wake(c, on_done, &b);
        fake_turns(f, 5);
        f->hold_images = false;
        run_until(f, gone.done && b.done && (when == 1 || a.done));
        assert_string_equal(gone.code, "");
        assert_string_equal(b.code, ERR_GONE);
        if (when != 1) assert_string_equal(a.code, ERR_GONE);
        assert_null(cell_find(f->world, id, &err));
        assert_string_equal(err.code, ERR_GONE);
        for (int i = 0; i < f->cell_count; i++) assert_false(f->cells[i].alive);
        run_until(f, directories(f) == 0 && kept_by_driver(f) == 0);
    }
}

static void a_freeze_that_fails_changes_nothing(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    f->fail_freeze = ERR_NO_SPACE;
    cell_hibernate(c, on_json, &a);
    run_until(f, a.done);
    assert_string_equal(a.code, ERR_NO_SPACE);
    has_status(c, "running");
    assert_true(event_told(f, dc->id, "sandbox.hibernate_failed"));
    run_one(f, c, dc);
    run_until(f, directories(f) == 0);
}

static void a_wake_that_fails_says_why_and_can_be_tried_again(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    hibernate(f, c);
    f->fail_thaw = ERR_IMAGE;
    cell_wake(c, on_done, &a);
    run_until(f, a.done);
    assert_string_equal(a.code, ERR_IMAGE);
    has_status(c, "hibernated");
    f->fail_thaw = NULL;
    wake(f, c);
    has_status(c, "running");
}

/* ---- time ---- */

static void an_idle_space_freezes_by_itself(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct cell *c = fake_cell(f, "{\"persistent\":true,\"idle_timeout_seconds\":0.05}", &dc);
    double left;
    assert_string_equal(cell_time_left(c, &left), "freeze");
    assert_true(left >= 0 && left <= 0.05);
    run_until(f, strcmp(cell_status_word(c), "hibernated") == 0);
    fake_turns(f, 150);
    has_status(c, "hibernated");
    cell_time_left(c, &left);
    assert_true(left < 0);
    wake(f, c);
    run_until(f, strcmp(cell_status_word(c), "hibernated") == 0); /* and again */
}

static void a_time_to_live_can_freeze_or_delete(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct err err;
    char id[CELL_ID_MAX];
    struct cell *c = fake_cell(f, "{\"on_timeout\":\"freeze\",\"ttl_seconds\":0.05}", &dc);
    run_until(f, strcmp(cell_status_word(c), "hibernated") == 0);
    wake(f, c);
    has_status(c, "running"); /* its time began anew */
    run_until(f, strcmp(cell_status_word(c), "hibernated") == 0);
    c = fake_cell(f, "{\"persistent\":true,\"on_timeout\":\"delete\",\"ttl_seconds\":0.2}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    hibernate(f, c);
    run_until(f, !cell_find(f->world, id, &err)); /* frozen or not, it ends */
    fake_turns(f, 5);
    assert_null(cell_find(f->world, id, &err));
    assert_string_equal(err.code, ERR_GONE);
    run_until(f, directories(f) == 1);
}

/* ---- what is left of a lost one ---- */

static void a_lost_cell_goes_back_to_its_image(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct err err;
    char id[CELL_ID_MAX];
    struct cell *c = fake_cell(f, "{\"persistent\":true}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    run_one(f, c, dc);
    hibernate(f, c);
    dc = wake(f, c);
    expect_copy(f, dc, 0);
    status(dc, 0, 1);
    peer_frame(dc->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    peer_executes(f, dc, 0, "c");
    fake_gone(dc, CELL_FATE_LOST);
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "exit"), "lost");
    json_object_put(h.end);
    run_until(f, strcmp(cell_status_word(c), "hibernated") == 0);
    assert_true(event_told(f, id, "sandbox.rolled_back"));
    dc = wake(f, c);
    expect_copy(f, dc, 0);
    status(dc, 0, 1);
    peer_frame(dc->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
    run_one(f, c, dc);
    /* and one without an image is lost, as ever */
    c = fake_cell(f, "{\"persistent\":true}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    fake_gone(dc, CELL_FATE_LOST);
    run_until(f, !cell_find(f->world, id, &err));
}

static void a_cell_lost_while_it_is_written(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    hibernate(f, c);
    dc = wake(f, c);
    f->hold_images = true;
    f->fail_freeze = ERR_LOST;
    cell_hibernate(c, on_json, &a);
    run_until(f, f->freezes == 2);
    fake_gone(dc, CELL_FATE_LOST);
    fake_turns(f, 5);
    f->hold_images = false;
    run_until(f, a.done && strcmp(cell_status_word(c), "hibernated") == 0);
    assert_string_equal(a.code, ERR_LOST);
    assert_true(event_told(f, cell_id(c), "sandbox.rolled_back"));
    f->fail_freeze = NULL;
    wake(f, c);
}

/* ---- the next daemon ---- */

static void the_next_daemon_knows_frozen_cells(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct err err;
    char id[CELL_ID_MAX], execution[64];
    struct cell *c = fake_cell(f, "{\"persistent\":true}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    fake_execute(c, "{\"code\":\"c\",\"timeout_seconds\":60}", true, &h, NULL);
    (void)snprintf(execution, sizeof execution, "%s", execution_id(h.x));
    uint32_t n = peer_executes(f, dc, 0, "c");
    hibernate(f, c);
    fake_restart(f);
    c = find(f, id);
    has_status(c, "hibernated");
    struct json_object *o = execution_get(c, execution, &err);
    assert_string_equal(text(o, "/status"), "running");
    json_object_put(o);
    dc = wake(f, c);
    expect_copy(f, dc, 0);
    peer_frame(dc->slots[0].control, CONTEXT_RESULT, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"42\"}}");
    peer_frame(dc->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    status(dc, 0, n);
    fake_turns(f, 5);
    o = execution_get(c, execution, &err);
    assert_string_equal(text(o, "/exit"), "ok");
    assert_string_equal(text(o, "/text"), "42");
    json_object_put(o);
    assert_int_equal(directories(f), 1);
}

static void a_cell_that_did_not_survive_is_rolled_back_at_the_start(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    char id[CELL_ID_MAX];
    struct cell *c = fake_cell(f, "{\"persistent\":true}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    hibernate(f, c);
    dc = wake(f, c);
    dc->alive = false; /* the keeper died with it, and nobody was there to hear of it */
    fake_restart(f);
    dc->alive = true; /* the fixture closes its descriptors */
    has_status(find(f, id), "hibernated");
    assert_true(event_told(f, id, "sandbox.rolled_back"));
    dc->alive = false;
    fake_restart(f);
    dc->alive = true;
    has_status(find(f, id), "hibernated"); /* it is told once */
}

static void leftovers_are_removed_at_the_start(void **state) {
    FIXTURE;
    struct driver_cell *dc, *left;
    struct answer a = {0};
    char path[160], id[CELL_ID_MAX];
    struct cell *c = fake_cell(f, "{}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    hibernate(f, c);
    f->hold_images = true; /* the daemon dies between the thaw and the row */
    cell_wake(c, on_done, &a);
    run_until(f, f->thaws == 1);
    left = fake_newest(f);
    f->hold_images = false;
    for (int i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/images/img_%032d%s", f->state_dir, i, i ? ".tmp" : "");
        assert_int_equal(mkdir(path, 0700), 0);
    }
    fake_restart(f);
    assert_false(left->alive);
    has_status(find(f, id), "hibernated");
    run_until(f, directories(f) == 1);
    wake(f, find(f, id));
}

static void a_missing_image_is_told_and_not_forgotten(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0};
    char id[CELL_ID_MAX], from[160], to[160];
    struct cell *c = fake_cell(f, "{}", &dc);
    (void)snprintf(id, sizeof id, "%s", dc->id);
    hibernate(f, c);
    (void)snprintf(from, sizeof from, "%s/images", f->state_dir);
    (void)snprintf(to, sizeof to, "%s/away", f->state_dir);
    assert_int_equal(rename(from, to), 0);
    fake_restart(f);
    c = find(f, id);
    has_status(c, "hibernated");
    assert_true(event_told(f, id, "sandbox.image_missing"));
    cell_wake(c, on_done, &a);
    run_until(f, a.done);
    assert_string_equal(a.code, ERR_IMAGE);
    (void)rmdir(from);
    assert_int_equal(rename(to, from), 0);
    wake(f, c);
}

/* ---- snapshots ---- */

static struct answer snapshot(struct fake *f, struct cell *c, const char *body) {
    struct answer a = {0};
    struct json_object *o = parse(body);
    snapshot_create(c, o, on_json, &a);
    json_object_put(o);
    run_until(f, a.done);
    return a;
}
static struct answer create(struct fake *f, const char *body) {
    struct answer a = {0};
    struct json_object *o = parse(body);
    cell_create(f->world, o, "", on_cell, &a);
    json_object_put(o);
    run_until(f, a.done);
    return a;
}

static void snapshots_are_made_listed_used_and_deleted(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct err err;
    struct answer gone = {0};
    struct cell *c = fake_cell(f, "{\"metadata\":{\"a\":\"1\"},\"limits\":{\"memory_mb\":128}}", &dc);
    run_one(f, c, dc);
    struct answer s = snapshot(f, c, "{\"name\":\"base\"}");
    if (s.code[0]) fail_msg("%s", s.error);
    assert_string_equal(text(s.json, "/name"), "base");
    assert_string_equal(text(s.json, "/sandbox_id"), dc->id);
    assert_int_equal(json_object_get_int(field(s.json, "/size_bytes")), 1500);
    assert_string_equal(text(s.json, "/contexts/0/id"), "default");
    has_status(c, "running");
    assert_false(dc->held);
    assert_string_equal(snapshot(f, c, "{\"name\":\"base\"}").code, ERR_EXISTS);
    assert_string_equal(snapshot(f, c, "{\"name\":\"a/b\"}").code, ERR_INVALID);
    struct json_object *list = snapshot_list(f->world, dc->id, NULL, NULL, &err);
    assert_int_equal(json_object_array_length(list), 1);
    json_object_put(list);
    list = snapshot_list(f->world, NULL, NULL, "somebody", &err);
    assert_int_equal(json_object_array_length(list), 0);
    json_object_put(list);
    cell_delete(c, "deleted", on_done, &gone); /* the source may be gone */
    run_until(f, gone.done);
    char body[160];
    (void)snprintf(body, sizeof body, "{\"from_snapshot\":\"%s\",\"metadata\":{\"b\":\"2\"}}", text(s.json, "/id"));
    for (int i = 0; i < 3; i++) {
        struct answer a = create(f, i ? body : "{\"from_snapshot\":\"base\",\"metadata\":{\"b\":\"2\"},\"env\":{\"E\":\"1\"}}");
        if (a.code[0]) fail_msg("%s", a.error);
        struct driver_cell *copy = fake_newest(f);
        struct json_object *o = cell_describe(a.cell);
        assert_string_equal(text(o, "/boot_mode"), "snapshot");
        assert_string_equal(text(o, "/metadata/a"), "1");
        assert_string_equal(text(o, "/metadata/b"), "2");
        assert_int_equal(json_object_get_int(field(o, "/limits/memory_mb")), 128);
        json_object_put(o);
        expect_copy(f, copy, 0);
        status(copy, 0, 1);
        if (!i) assert_memory_equal(peer_receive(f, copy->slots[0].control)->payload, "E=1", 4);
        peer_frame(copy->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
        run_one(f, a.cell, copy);
    }
    assert_int_equal(snapshot_delete(f->world, "base", "somebody", &err), -1);
    assert_int_equal(snapshot_delete(f->world, "base", NULL, &err), 0);
    run_until(f, directories(f) == 0 && kept_by_driver(f) == 0);
    assert_string_equal(create(f, body).code, ERR_NOT_FOUND);
    json_object_put(s.json);
}

static void what_ran_in_the_snapshot_is_a_new_execution(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct heard h;
    struct err err;
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"c\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "c");
    struct answer s = snapshot(f, c, "{\"name\":\"busy\"}");
    assert_string_equal(s.code, "");
    struct answer a = create(f, "{\"from_snapshot\":\"busy\"}");
    struct json_object *list = execution_list(a.cell);
    char id[64];
    (void)snprintf(id, sizeof id, "%s", text(list, "/0/id"));
    assert_string_not_equal(id, execution_id(h.x));
    assert_string_equal(text(list, "/0/forked_from"), execution_id(h.x));
    json_object_put(list);
    struct driver_cell *copy = fake_newest(f);
    expect_copy(f, copy, 0);
    peer_frame(copy->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    status(copy, 0, n);
    fake_turns(f, 5);
    struct json_object *o = execution_get(a.cell, id, &err);
    assert_string_equal(text(o, "/exit"), "ok");
    assert_string_equal(text(o, "/forked_from"), execution_id(h.x));
    json_object_put(o);
    assert_null(h.end); /* the original goes on */
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    json_object_put(h.end), json_object_put(s.json);
}

static void a_snapshot_that_fails_leaves_nothing(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct cell *c = fake_cell(f, "{}", &dc);
    f->fail_freeze = ERR_NO_SPACE;
    assert_string_equal(snapshot(f, c, "{}").code, ERR_NO_SPACE);
    run_until(f, directories(f) == 0);
    has_status(c, "running");
    run_one(f, c, dc);
}

static void spaces_are_listed_found_and_owned(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct err err;
    struct cell *c = fake_cell(f, "{\"persistent\":true}", &dc);
    fake_cell(f, "{}", &dc);
    hibernate(f, c);
    struct json_object *list = space_list(f->world, NULL);
    assert_int_equal(json_object_array_length(list), 1);
    assert_string_equal(text(list, "/0/state"), "frozen");
    assert_int_equal(json_object_get_int(field(list, "/0/size_bytes")), 1500);
    assert_ptr_equal(space_find(f->world, text(list, "/0/space_id"), NULL, &err), c);
    assert_null(space_find(f->world, text(list, "/0/space_id"), "somebody", &err));
    assert_string_equal(err.code, ERR_NOT_FOUND);
    json_object_put(list);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, answer_teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_cell_goes_and_comes_back),
        TEST(what_runs_goes_on_after_the_wake),
        TEST(the_end_is_found_in_what_comes_again),
        TEST(half_a_message_is_completed),
        TEST(code_that_was_not_read_is_sent_again),
        TEST(an_interrupt_of_a_frozen_one_comes_with_the_wake),
        TEST(processes_are_not_carried),
        TEST(many_waiters_and_one_wake),
        TEST(hibernate_during_a_wake_and_wake_during_a_hibernate),
        TEST(delete_in_every_state),
        TEST(a_freeze_that_fails_changes_nothing),
        TEST(a_wake_that_fails_says_why_and_can_be_tried_again),
        TEST(an_idle_space_freezes_by_itself),
        TEST(a_time_to_live_can_freeze_or_delete),
        TEST(a_lost_cell_goes_back_to_its_image),
        TEST(a_cell_lost_while_it_is_written),
        TEST(the_next_daemon_knows_frozen_cells),
        TEST(a_cell_that_did_not_survive_is_rolled_back_at_the_start),
        TEST(leftovers_are_removed_at_the_start),
        TEST(a_missing_image_is_told_and_not_forgotten),
        TEST(snapshots_are_made_listed_used_and_deleted),
        TEST(what_ran_in_the_snapshot_is_a_new_execution),
        TEST(a_snapshot_that_fails_leaves_nothing),
        TEST(spaces_are_listed_found_and_owned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
