/* Branches: fork, tree, promote, merge, and what is left of each after a crash in its middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cell/branch.h"
#include "answer.h"

static int setup(void **state) { return answer_setup(state, 6); }
#define FIXTURE struct fake *f = *state

static size_t count(struct json_object *o, const char *path) { return json_object_array_length(field(o, path)); }

static void ask_fork(struct cell *c, const char *body, bool tree, struct answer *a) {
    struct json_object *o = body ? parse(body) : NULL;
    cell_fork(c, o, tree, on_json, a);
    json_object_put(o);
    assert_false(a->done);
}
static struct answer fork_cell(struct fake *f, struct cell *c, const char *body) {
    struct answer a = {0};
    ask_fork(c, body, false, &a);
    run_until(f, a.done);
    return a;
}
static struct answer merge(struct fake *f, struct cell *into, struct cell *from) {
    struct answer a = {0};
    cell_merge(into, from, on_done, &a);
    assert_false(a.done);
    run_until(f, a.done);
    return a;
}
static struct driver_cell *peer_of(struct fake *f, const char *id) {
    for (int i = 0; i < f->cell_count; i++)
        if (f->cells[i].alive && strcmp(f->cells[i].id, id) == 0) return &f->cells[i];
    fail_msg("no living cell %s", id);
    return NULL;
}
static struct cell *child(struct fake *f, struct answer *a, int i, struct driver_cell **dc) {
    struct err err;
    const char *id = json_object_get_string(json_object_array_get_idx(field(a->json, "/children"), (size_t)i));
    struct cell *c = cell_find(f->world, id, &err);
    assert_non_null(c);
    *dc = peer_of(f, id);
    peer_frame((*dc)->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
    return c;
}
/* What a copied context is told first; then it answers that its newest execution is `last`. */
static void copy_hears(struct fake *f, struct driver_cell *dc, int slot, bool settings) {
    struct received *r = peer_receive(f, dc->slots[slot].control);
    assert_int_equal(r->type, CONTEXT_FORKED);
    assert_non_null(strstr(r->payload, dc->id));
    r = peer_receive(f, dc->slots[slot].control);
    if (settings) {
        assert_int_equal(r->type, CONTEXT_SETENV);
        r = peer_receive(f, dc->slots[slot].control);
    }
    assert_int_equal(r->type, CONTEXT_HELLO);
}
static void status(struct driver_cell *dc, int slot, uint32_t last) {
    char said[32];
    (void)snprintf(said, sizeof said, "{\"last\":%u}", last);
    peer_frame(dc->slots[slot].control, CONTEXT_STATUS, 0, 0, said);
}
static void run_one(struct fake *f, struct cell *c, struct driver_cell *dc, const char *code) {
    struct heard h;
    char body[200];
    (void)snprintf(body, sizeof body, "{\"code\":\"%s\"}", code);
    fake_execute(c, body, true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, code);
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    json_object_put(h.end);
}
static struct json_object *record(struct cell *c, const char *id) {
    struct err err;
    struct json_object *o = execution_get(c, id, &err);
    if (!o) fail_msg("no record of %s: %s", id, err.text);
    return o;
}
static bool ended(struct cell *c, const char *id) {
    struct json_object *o = record(c, id);
    bool over = json_object_object_get_ex(o, "exit", NULL);
    json_object_put(o);
    return over;
}
static const char *only_execution(struct cell *c, char out[64]) {
    struct json_object *list = execution_list(c);
    assert_int_equal(json_object_array_length(list), 1);
    (void)snprintf(out, 64, "%s", text(list, "/0/id"));
    json_object_put(list);
    return out;
}

/* ---- fork ---- */

static void children_are_like_their_parent(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one, *two;
    struct cell *c = fake_cell(f, "{\"metadata\":{\"a\":\"1\",\"b\":\"2\"},\"idle_timeout_seconds\":50,\"ttl_seconds\":100,\"limits\":{\"memory_mb\":128}}", &dc);
    run_one(f, c, dc, "x = 1");
    struct answer a = fork_cell(f, c, "{\"n\":2,\"metadata\":{\"b\":\"3\"}}");
    assert_string_equal(a.code, "");
    assert_int_equal(count(a.json, "/children"), 2);
    assert_int_equal(count(a.json, "/errors"), 0);
    assert_string_equal(text(a.json, "/parent_id"), cell_id(c));
    assert_true(json_object_get_double(field(a.json, "/frozen_ms")) == 1.5);
    for (int i = 0; i < 2; i++) {
        struct json_object *o = json_object_array_get_idx(field(a.json, "/sandboxes"), (size_t)i);
        assert_string_equal(text(o, "/boot_mode"), "fork");
        assert_string_equal(text(o, "/parent_id"), cell_id(c));
        assert_string_equal(text(o, "/metadata/a"), "1");
        assert_string_equal(text(o, "/metadata/b"), "3");
        assert_int_equal(json_object_get_int(field(o, "/memory_mb")), 128);
        assert_true(json_object_get_double(field(o, "/idle_timeout_seconds")) == 50);
        assert_true(json_object_get_double(field(o, "/remaining_seconds")) > 45);
    }
    struct cell *first = child(f, &a, 0, &one), *second = child(f, &a, 1, &two);
    copy_hears(f, one, 0, false);
    copy_hears(f, two, 0, false);
    status(one, 0, 1);
    run_one(f, first, one, "x"); /* the number goes on where the parent's was */
    struct json_object *contexts = context_list(second);
    assert_string_equal(text(contexts, "/0/id"), "default");
    assert_string_equal(text(contexts, "/0/state"), "busy"); /* until it has said what it is at */
    assert_int_equal(json_object_get_int(field(contexts, "/0/execution_count")), 1);
    json_object_put(contexts);
    run_one(f, c, dc, "x + 1"); /* the parent is unharmed */
    answer_put(&a);
}

static void a_context_that_never_ran_gets_its_settings_again(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct cell *c = fake_cell(f, "{\"env\":{\"E\":\"v\"}}", &dc);
    struct answer a = fork_cell(f, c, NULL);
    assert_int_equal(count(a.json, "/children"), 1); /* without a body: one */
    (void)child(f, &a, 0, &one);
    copy_hears(f, one, 0, true);
    answer_put(&a);
}

static void what_runs_goes_on_in_both(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct heard h;
    char id[64];
    struct cell *c = fake_cell(f, "{}", &dc);
    struct execution *x = fake_execute(c, "{\"code\":\"long\",\"timeout_seconds\":60}", true, &h, NULL);
    char parent_execution[64];
    (void)snprintf(parent_execution, sizeof parent_execution, "%s", execution_id(x));
    uint32_t n = peer_executes(f, dc, 0, "long");
    peer_frame(dc->slots[0].control, CONTEXT_DISPLAY, 0, n, "{\"data\":{\"text/plain\":\"before\"},\"metadata\":{}}");
    print_to(dc->slots[0].out, "before\n");
    run_until(f, strchr(h.order, 'D'));
    struct answer a = fork_cell(f, c, NULL);
    struct cell *k = child(f, &a, 0, &one);
    struct json_object *o = record(k, only_execution(k, id));
    assert_string_not_equal(id, parent_execution);
    assert_string_equal(text(o, "/status"), "running");
    assert_string_equal(text(o, "/forked_from"), parent_execution);
    json_object_put(o);
    copy_hears(f, one, 0, false);
    print_to(one->slots[0].out, "after\n");
    /* the child's live frames are dropped, the replay brings them, in order and once */
    peer_frame(one->slots[0].control, CONTEXT_DISPLAY, 0, n, "{\"data\":{\"text/plain\":\"after\"},\"metadata\":{}}");
    peer_frame(one->slots[0].control, CONTEXT_DONE, 0, n, "{\"status\":\"ok\",\"execution_count\":1}");
    peer_frame(one->slots[0].control, CONTEXT_DISPLAY, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"before\"},\"metadata\":{}}");
    peer_frame(one->slots[0].control, CONTEXT_DISPLAY, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"after\"},\"metadata\":{}}");
    peer_frame(one->slots[0].control, CONTEXT_RESULT, FRAME_REPLAY, n, "{\"data\":{\"text/plain\":\"'child'\"},\"metadata\":{}}");
    peer_frame(one->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    status(one, 0, n);
    run_until(f, ended(k, id));
    o = record(k, id);
    assert_string_equal(text(o, "/exit"), "ok");
    assert_string_equal(text(o, "/stdout"), "after\n");
    assert_int_equal(count(o, "/results"), 2);
    assert_string_equal(text(o, "/results/0/data/text~1plain"), "after");
    assert_string_equal(text(o, "/text"), "'child'");
    json_object_put(o);
    assert_null(h.end);
    peer_frame(dc->slots[0].control, CONTEXT_RESULT, 0, n, "{\"data\":{\"text/plain\":\"'parent'\"},\"metadata\":{}}");
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_string_equal(end_text(&h, "text"), "'parent'");
    assert_string_equal(end_text(&h, "stdout"), "before\n");
    json_object_put(h.end);
    answer_put(&a);
}

static void the_queue_stays_and_waits_for_the_copy(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct heard h, queued;
    struct answer a = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"one\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "one");
    fake_execute(c, "{\"code\":\"two\"}", true, &queued, NULL);
    f->hold_forks = true;
    ask_fork(c, NULL, false, &a);
    run_until(f, f->forks == 1);
    peer_done(dc, 0, n, "ok");
    run_until(f, h.end);
    assert_true(peer_silent(f, dc->slots[0].control)); /* the copy may not be made yet: nothing begins */
    f->hold_forks = false;
    run_until(f, a.done);
    uint32_t second = peer_executes(f, dc, 0, "two");
    struct cell *k = child(f, &a, 0, &one);
    struct json_object *list = execution_list(k);
    assert_int_equal(json_object_array_length(list), 1); /* the one that ran, not the one that waited */
    json_object_put(list);
    peer_done(dc, 0, second, "ok");
    run_until(f, queued.end);
    json_object_put(h.end);
    json_object_put(queued.end);
    answer_put(&a);
}

static void code_that_was_not_read_is_sent_again(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct heard h;
    char id[64];
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"unread\"}", true, &h, NULL);
    struct answer a = fork_cell(f, c, NULL);
    struct cell *k = child(f, &a, 0, &one);
    only_execution(k, id);
    copy_hears(f, one, 0, false);
    status(one, 0, 0);
    uint32_t n = peer_executes(f, one, 0, "unread");
    assert_int_equal(n, 1);
    peer_done(one, 0, n, "ok");
    run_until(f, ended(k, id));
    struct json_object *o = record(k, id);
    assert_string_equal(text(o, "/exit"), "ok");
    json_object_put(o);
    peer_done(dc, 0, peer_executes(f, dc, 0, "unread"), "ok");
    run_until(f, h.end);
    json_object_put(h.end);
    answer_put(&a);
}

static void a_context_that_the_copy_lacks_is_lost_and_made_again(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct heard h;
    char id[64];
    struct cell *c = fake_cell(f, "{}", &dc);
    fake_execute(c, "{\"code\":\"dies\"}", true, &h, NULL);
    peer_executes(f, dc, 0, "dies");
    f->lose_contexts = true;
    struct answer a = fork_cell(f, c, NULL);
    struct cell *k = child(f, &a, 0, &one);
    struct json_object *o = record(k, only_execution(k, id));
    assert_string_equal(text(o, "/exit"), "lost");
    json_object_put(o);
    answer_put(&a);
}

static void some_children_fail(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct cell *c = fake_cell(f, "{}", &dc);
    f->fail_children = 1u << 1;
    struct answer a = fork_cell(f, c, "{\"count\":3}");
    assert_string_equal(a.code, "");
    assert_int_equal(count(a.json, "/children"), 2);
    assert_int_equal(count(a.json, "/errors"), 1);
    assert_int_equal(json_object_get_int(field(a.json, "/errors/0/index")), 1);
    assert_string_equal(text(a.json, "/errors/0/code"), ERR_NO_SPACE);
    answer_put(&a);
    f->fail_children = ~0u;
    a = fork_cell(f, c, "{\"n\":2}");
    assert_string_equal(a.code, ERR_NO_SPACE);
    assert_non_null(strstr(a.error, "child 0"));
    f->fail_children = 0;
    f->fail_fork = true;
    answer_put(&a);
    a = fork_cell(f, c, "{\"n\":2}");
    assert_string_equal(a.code, ERR_CONFLICT);
    answer_put(&a);
    struct json_object *m = world_metrics(f->world);
    assert_int_equal(json_object_get_int(field(m, "/cells/creating")), 0);
    json_object_put(m);
    run_one(f, c, dc, "goes on");
}

static void as_many_as_there_is_room_for(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct cell *c = fake_cell(f, "{}", &dc);
    struct answer a = fork_cell(f, c, "{\"n\":7}"); /* six cells may live */
    assert_int_equal(count(a.json, "/children"), 5);
    assert_int_equal(count(a.json, "/errors"), 2);
    assert_int_equal(json_object_get_int(field(a.json, "/errors/0/index")), 5);
    assert_string_equal(text(a.json, "/errors/1/code"), ERR_LIMIT);
    answer_put(&a);
    a = fork_cell(f, c, NULL);
    assert_string_equal(a.code, ERR_LIMIT);
    assert_int_equal(f->forks, 1); /* the driver was not even asked */
    answer_put(&a);
}

static void bad_forks_are_refused(void **state) {
    FIXTURE;
    static const struct {
        const char *body, *names;
    } bad[] = {{"{\"n\":0}", "n must"},           {"{\"n\":101}", "n must"},        {"{\"n\":\"2\"}", "n must"},        {"{\"count\":1.5}", "count"},
               {"{\"n\":1,\"count\":2}", "n and"}, {"{\"metadata\":[]}", "metadata"}, {"{\"ttl_seconds\":-1}", "ttl_seconds"}};
    struct driver_cell *dc;
    struct cell *c = fake_cell(f, "{}", &dc);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct answer a = fork_cell(f, c, bad[i].body);
        assert_string_equal(a.code, ERR_INVALID);
        if (!strstr(a.error, bad[i].names)) fail_msg("%s: %s", bad[i].body, a.error);
        answer_put(&a);
    }
    struct answer paused = {0};
    cell_pause(c, on_done, &paused);
    run_until(f, paused.done);
    struct answer a = fork_cell(f, c, NULL);
    assert_string_equal(a.code, ERR_CONFLICT);
    answer_put(&a);
    assert_int_equal(f->forks, 0);
}

static void a_parent_deleted_meanwhile_has_its_children(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct answer a = {0}, gone = {0};
    struct err err;
    struct cell *c = fake_cell(f, "{}", &dc);
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", cell_id(c));
    f->hold_forks = true;
    ask_fork(c, "{\"n\":2}", false, &a);
    run_until(f, f->forks == 1);
    cell_delete(c, "deleted by request", on_done, &gone);
    fake_turns(f, 5);
    assert_false(gone.done);
    f->hold_forks = false;
    run_until(f, a.done && gone.done);
    assert_int_equal(count(a.json, "/children"), 2);
    assert_string_equal(gone.code, "");
    assert_null(cell_find(f->world, id, &err));
    assert_string_equal(err.code, ERR_GONE);
    struct cell *k = child(f, &a, 0, &one);
    struct json_object *tree = cell_tree(k, &err);
    assert_string_equal(text(tree, "/tree/id"), id);
    assert_string_equal(text(tree, "/tree/state"), "ended");
    assert_string_equal(text(tree, "/tree/reason"), "deleted by request");
    assert_int_equal(count(tree, "/tree/children"), 2);
    json_object_put(tree);
    answer_put(&a);
}

static void forks_of_one_cell_take_turns(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0}, b = {0};
    struct cell *c = fake_cell(f, "{}", &dc);
    f->hold_forks = true;
    ask_fork(c, "{\"n\":2}", false, &a);
    ask_fork(c, "{\"n\":2}", false, &b);
    fake_turns(f, 5);
    assert_int_equal(f->forks, 1);
    f->hold_forks = false;
    run_until(f, a.done && b.done);
    assert_int_equal(f->forks, 2);
    assert_int_equal(count(a.json, "/children") + count(b.json, "/children"), 4);
    answer_put(&a);
    answer_put(&b);
}

static void what_is_not_carried_is_told_once(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct cell *c = fake_cell(f, "{}", &dc);
    f->not_carried = parse("[{\"kind\":\"socket\",\"context_slot\":0,\"fd\":5,\"pid\":null,\"text\":\"tcp\"},"
                           "{\"kind\":\"process\",\"context_slot\":null,\"fd\":null,\"pid\":7,\"text\":\"sleep\"}]");
    struct answer a = fork_cell(f, c, "{\"n\":3}");
    assert_int_equal(count(a.json, "/not_carried"), 2);
    assert_string_equal(text(a.json, "/not_carried/0/context_id"), "default");
    assert_int_equal(json_object_get_int(field(a.json, "/not_carried/0/fd")), 5);
    assert_null(field(a.json, "/not_carried/1/context_id"));
    assert_false(json_object_object_get_ex(field(a.json, "/not_carried/0"), "sandbox_id", NULL));
    answer_put(&a);
}

static void a_crash_in_a_fork_leaves_no_child(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct answer a = {0};
    struct err err;
    struct cell *c = fake_cell(f, "{}", &dc);
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", cell_id(c));
    f->hold_forks = true;
    ask_fork(c, "{\"n\":2}", false, &a);
    run_until(f, f->forks == 1);
    fake_restart(f);
    run_until(f, f->destroyed == 2);
    assert_false(a.done);
    assert_false(f->cells[1].alive);
    assert_true(dc->alive);
    c = cell_find(f->world, id, &err);
    assert_non_null(c);
    struct json_object *tree = cell_tree(c, &err);
    assert_int_equal(count(tree, "/tree/children"), 0);
    json_object_put(tree);
}

static void children_live_through_a_crash(void **state) {
    FIXTURE;
    struct driver_cell *dc, *one;
    struct heard h;
    struct err err;
    char id[64];
    struct cell *c = fake_cell(f, "{\"metadata\":{\"m\":\"1\"}}", &dc);
    fake_execute(c, "{\"code\":\"long\"}", true, &h, NULL);
    uint32_t n = peer_executes(f, dc, 0, "long");
    struct answer a = fork_cell(f, c, NULL);
    struct cell *k = child(f, &a, 0, &one);
    only_execution(k, id);
    copy_hears(f, one, 0, false);
    char kid[CELL_ID_MAX];
    (void)snprintf(kid, sizeof kid, "%s", cell_id(k));
    fake_restart(f);
    json_object_put(h.end);
    k = cell_find(f->world, kid, &err);
    assert_non_null(k);
    assert_int_equal(peer_receive(f, one->slots[0].control)->type, CONTEXT_HELLO);
    peer_frame(one->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":1}");
    status(one, 0, n);
    run_until(f, ended(k, id));
    struct json_object *o = record(k, id);
    assert_string_equal(text(o, "/exit"), "ok");
    assert_true(json_object_object_get_ex(o, "forked_from", NULL));
    json_object_put(o);
    struct json_object *tree = cell_tree(k, &err);
    assert_string_equal(text(tree, "/tree/children/0/id"), kid);
    assert_string_equal(text(tree, "/tree/children/0/metadata/m"), "1");
    json_object_put(tree);
    answer_put(&a);
}

/* ---- tree, promote ---- */

static struct answer fork_tree(struct fake *f, struct cell *c, const char *body) {
    struct answer a = {0};
    ask_fork(c, body, true, &a);
    run_until(f, a.done);
    assert_string_equal(a.code, "");
    return a;
}
static struct answer promote(struct fake *f, struct cell *c, const char *body) {
    struct answer a = {0};
    struct json_object *o = body ? parse(body) : NULL;
    cell_promote(c, o, on_json, &a);
    json_object_put(o);
    run_until(f, a.done);
    return a;
}

static void a_tree_is_marked_and_cleaned_up(void **state) {
    FIXTURE;
    struct driver_cell *dc, *dk;
    struct err err;
    struct cell *c = fake_cell(f, "{}", &dc);
    struct answer other = fork_cell(f, c, NULL), a = fork_tree(f, c, NULL);
    assert_int_equal(count(a.json, "/children"), 2);
    const char *tree_id = text(a.json, "/tree_id");
    assert_string_equal(text(a.json, "/sandboxes/1/metadata/fork_tree_id"), tree_id);
    assert_string_equal(text(a.json, "/sandboxes/1/metadata/fork_tree_role"), "child");
    assert_string_equal(text(a.json, "/sandboxes/1/metadata/fork_parent_id"), cell_id(c));
    assert_string_equal(text(a.json, "/sandboxes/1/metadata/fork_index"), "1");
    struct cell *winner = child(f, &a, 1, &dk);
    char loser[CELL_ID_MAX];
    (void)snprintf(loser, sizeof loser, "%s", text(a.json, "/children/0"));

    struct answer p = promote(f, c, NULL);
    assert_string_equal(p.code, ERR_CONFLICT);
    answer_put(&p);
    p = promote(f, winner, "{\"tree_id\":\"tree_x\",\"cleanup_siblings\":true}");
    assert_string_equal(p.code, ERR_CONFLICT);
    answer_put(&p);
    p = promote(f, winner, NULL);
    assert_int_equal(count(p.json, "/deleted"), 0);
    answer_put(&p);
    p = promote(f, winner, "{\"cleanup_siblings\":true}");
    assert_string_equal(p.code, "");
    assert_string_equal(text(p.json, "/winner"), cell_id(winner));
    assert_string_equal(text(p.json, "/tree_id"), tree_id);
    assert_int_equal(count(p.json, "/deleted"), 1); /* the child of another fork stays */
    assert_string_equal(text(p.json, "/deleted/0"), loser);
    assert_null(cell_find(f->world, loser, &err));
    assert_non_null(strstr(err.text, "promoted"));
    struct json_object *tree = cell_tree(winner, &err);
    assert_int_equal(count(tree, "/tree/children"), 3);
    assert_string_equal(text(tree, "/tree/children/1/state"), "ended");
    assert_non_null(field(tree, "/tree/children/1/ended_at"));
    json_object_put(tree);
    answer_put(&p);
    answer_put(&a);
    answer_put(&other);
}

static void a_cell_alone_is_a_tree(void **state) {
    FIXTURE;
    struct driver_cell *dc;
    struct err err;
    struct cell *c = fake_cell(f, "{}", &dc);
    struct json_object *tree = cell_tree(c, &err);
    assert_string_equal(text(tree, "/tree/id"), cell_id(c));
    assert_string_equal(text(tree, "/tree/state"), "running");
    assert_null(field(tree, "/tree/parent_id"));
    assert_int_equal(count(tree, "/tree/children"), 0);
    json_object_put(tree);
}

/* ---- merge ---- */

struct family {
    struct cell *parent, *child;
    struct driver_cell *dp, *dc;
    char parent_id[CELL_ID_MAX], child_id[CELL_ID_MAX];
};
static struct family family(struct fake *f) {
    struct family m = {0};
    m.parent = fake_cell(f, "{\"metadata\":{\"who\":\"parent\"}}", &m.dp);
    run_one(f, m.parent, m.dp, "x = 1");
    struct answer a = fork_cell(f, m.parent, "{\"metadata\":{\"who\":\"child\"}}");
    m.child = child(f, &a, 0, &m.dc);
    copy_hears(f, m.dc, 0, false);
    status(m.dc, 0, 1);
    fake_turns(f, 3);
    (void)snprintf(m.parent_id, sizeof m.parent_id, "%s", cell_id(m.parent));
    (void)snprintf(m.child_id, sizeof m.child_id, "%s", cell_id(m.child));
    answer_put(&a);
    return m;
}
static int no_row(void *arg, const char *id, const char *json) {
    (void)arg;
    fail_msg("the journal still has %s: %s", id, json);
    return -1;
}
static void journal_is_empty(struct fake *f) {
    struct err err;
    assert_int_equal(store_journal_each(f->store, no_row, NULL, &err), 0);
}
/* The parent's id names the child's state, and the child's id nothing any more. */
static struct cell *is_merged(struct fake *f, struct family *m) {
    struct err err;
    assert_null(cell_find(f->world, m->child_id, &err));
    assert_string_equal(err.code, ERR_GONE);
    assert_non_null(strstr(err.text, "merged into"));
    assert_non_null(strstr(err.text, m->parent_id));
    struct cell *c = cell_find(f->world, m->parent_id, &err);
    assert_non_null(c);
    assert_false(m->dp->alive);
    assert_true(m->dc->alive);
    assert_string_equal(m->dc->id, m->parent_id);
    struct json_object *o = cell_describe(c);
    assert_string_equal(text(o, "/metadata/who"), "parent");
    assert_string_equal(text(o, "/status"), "running");
    json_object_put(o);
    struct json_object *tree = cell_tree(c, &err);
    assert_string_equal(text(tree, "/tree/id"), m->parent_id);
    assert_string_equal(text(tree, "/tree/state"), "running");
    assert_string_equal(text(tree, "/tree/children/0/state"), "ended");
    json_object_put(tree);
    journal_is_empty(f);
    return c;
}
static void is_unmerged(struct fake *f, struct family *m) {
    struct err err;
    struct cell *p = cell_find(f->world, m->parent_id, &err), *c = cell_find(f->world, m->child_id, &err);
    assert_true(p && c && m->dp->alive && m->dc->alive);
    assert_string_equal(m->dc->id, m->child_id);
    journal_is_empty(f);
}

static void a_child_takes_its_parents_place(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct heard in_parent, waits, in_child;
    fake_execute(m.parent, "{\"code\":\"p\"}", true, &in_parent, NULL);
    peer_executes(f, m.dp, 0, "p");
    fake_execute(m.parent, "{\"code\":\"q\"}", true, &waits, NULL);
    fake_execute(m.child, "{\"code\":\"c\"}", true, &in_child, NULL);
    uint32_t n = peer_executes(f, m.dc, 0, "c");
    struct cell *held = cell_hold(m.parent);
    char execution[64];
    (void)snprintf(execution, sizeof execution, "%s", execution_id(in_child.x));

    struct answer a = merge(f, m.parent, m.child);
    assert_string_equal(a.code, "");
    struct cell *c = is_merged(f, &m);
    assert_string_equal(end_text(&in_parent, "exit"), "killed");
    assert_non_null(strstr(text(in_parent.end, "/error/value"), "merged"));
    assert_string_equal(end_text(&waits, "exit"), "killed");
    assert_null(in_child.end);
    peer_done(m.dc, 0, n, "ok");
    run_until(f, in_child.end);
    assert_string_equal(end_text(&in_child, "exit"), "ok");
    json_object_put(record(c, execution));
    json_object_put(record(c, end_text(&in_parent, "id"))); /* what the parent did is the id's past */
    run_one(f, c, m.dc, "next");
    struct heard late;
    const char *code;
    assert_null(fake_execute(held, "{\"code\":\"x\"}", true, &late, &code)); /* somebody who still has the old one */
    assert_string_equal(code, ERR_GONE);
    cell_release(held);
    json_object_put(in_parent.end);
    json_object_put(waits.end);
    json_object_put(in_child.end);

    fake_restart(f); /* and the next daemon knows it so */
    c = is_merged(f, &m);
    assert_int_equal(f->destroyed, 0);
}

static void strangers_are_not_merged(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct driver_cell *dx;
    struct cell *stranger = fake_cell(f, "{}", &dx);
    struct answer a = merge(f, m.parent, stranger);
    assert_string_equal(a.code, ERR_CONFLICT);
    answer_put(&a);
    a = merge(f, m.parent, m.parent);
    assert_string_equal(a.code, ERR_INVALID);
    answer_put(&a);
    a = merge(f, m.child, m.parent); /* an ancestor */
    assert_string_equal(a.code, ERR_CONFLICT);
    answer_put(&a);
    assert_int_equal(f->renames, 0);
    is_unmerged(f, &m);
}

static void siblings_and_grandchildren_are_merged(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct driver_cell *ds, *dg;
    struct answer a = fork_cell(f, m.parent, NULL);
    struct cell *sibling = child(f, &a, 0, &ds);
    answer_put(&a);
    a = fork_cell(f, m.child, NULL);
    struct cell *grandchild = child(f, &a, 0, &dg);
    answer_put(&a);
    a = merge(f, m.child, sibling);
    assert_string_equal(a.code, "");
    answer_put(&a);
    struct err err;
    struct cell *c = cell_find(f->world, m.child_id, &err);
    assert_ptr_equal(peer_of(f, m.child_id), ds);
    assert_non_null(c);
    a = merge(f, m.parent, grandchild); /* whose parent has another's state now */
    assert_string_equal(a.code, "");
    assert_ptr_equal(peer_of(f, m.parent_id), dg);
    answer_put(&a);
}

static void a_rename_that_fails_changes_nothing(void **state) {
    FIXTURE;
    struct family m = family(f);
    f->fail_rename = true;
    struct answer a = merge(f, m.parent, m.child);
    assert_string_equal(a.code, ERR_UNAVAILABLE);
    is_unmerged(f, &m);
    run_one(f, m.parent, m.dp, "p");
    run_one(f, m.child, m.dc, "c");
    f->fail_rename = false;
    answer_put(&a);
    a = merge(f, m.parent, m.child);
    assert_string_equal(a.code, "");
    is_merged(f, &m);
}

static void a_crash_before_the_rename_leaves_the_old_state(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct answer a = {0};
    f->drop_rename = true;
    cell_merge(m.parent, m.child, on_done, &a);
    fake_turns(f, 5);
    fake_restart(f);
    is_unmerged(f, &m);
    assert_int_equal(f->destroyed, 0);
}

static void a_crash_after_the_rename_leaves_the_new_state(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct answer a = {0};
    struct heard in_parent, in_child;
    fake_execute(m.parent, "{\"code\":\"p\"}", true, &in_parent, NULL);
    peer_executes(f, m.dp, 0, "p");
    fake_execute(m.child, "{\"code\":\"c\"}", true, &in_child, NULL);
    uint32_t n = peer_executes(f, m.dc, 0, "c");
    char of_child[64], of_parent[64];
    (void)snprintf(of_child, sizeof of_child, "%s", execution_id(in_child.x));
    (void)snprintf(of_parent, sizeof of_parent, "%s", execution_id(in_parent.x));
    for (int i = 0; i < 300; i++) fake_turn(f); /* both are written down */
    cell_merge(m.parent, m.child, on_done, &a);
    for (int i = 0; i < 100 && !f->renames; i++) uv_run(&f->loop, UV_RUN_ONCE); /* the driver's answer stays under way */
    assert_int_equal(f->renames, 1);
    assert_false(a.done);
    fake_restart(f);
    struct cell *c = is_merged(f, &m);
    assert_int_equal(f->destroyed, 0);
    assert_int_equal(peer_receive(f, m.dc->slots[0].control)->type, CONTEXT_HELLO);
    peer_frame(m.dc->slots[0].control, CONTEXT_DONE, FRAME_REPLAY, n, "{\"status\":\"ok\",\"execution_count\":2}");
    status(m.dc, 0, n);
    run_until(f, ended(c, of_child));
    struct json_object *o = record(c, of_child);
    assert_string_equal(text(o, "/exit"), "ok");
    json_object_put(o);
    o = record(c, of_parent);
    assert_string_equal(text(o, "/exit"), "killed");
    json_object_put(o);
    run_one(f, c, m.dc, "next");
}

static void the_id_is_deleted_during_a_merge(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct answer a = {0}, gone = {0};
    struct err err;
    cell_merge(m.parent, m.child, on_done, &a);
    for (int i = 0; i < 100 && !f->renames; i++) uv_run(&f->loop, UV_RUN_ONCE);
    cell_delete(m.parent, "deleted by request", on_done, &gone);
    run_until(f, a.done && gone.done);
    assert_string_equal(a.code, "");
    assert_string_equal(gone.code, "");
    assert_null(cell_find(f->world, m.parent_id, &err));
    assert_non_null(strstr(err.text, "deleted by request"));
    assert_null(cell_find(f->world, m.child_id, &err));
    assert_false(m.dc->alive || m.dp->alive);
    journal_is_empty(f);
}

static void the_child_is_deleted_during_a_merge(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct answer a = {0}, gone = {0};
    cell_merge(m.parent, m.child, on_done, &a);
    for (int i = 0; i < 100 && !f->renames; i++) uv_run(&f->loop, UV_RUN_ONCE);
    cell_delete(m.child, "deleted by request", on_done, &gone); /* its id is gone after the merge anyway */
    run_until(f, a.done && gone.done);
    assert_string_equal(a.code, "");
    run_one(f, is_merged(f, &m), m.dc, "lives");
}

static void opposite_merges_do_not_wait_for_each_other(void **state) {
    FIXTURE;
    struct family m = family(f);
    struct driver_cell *ds;
    struct answer made = fork_cell(f, m.parent, NULL), a = {0}, b = {0};
    struct cell *sibling = child(f, &made, 0, &ds);
    cell_merge(m.child, sibling, on_done, &a);
    cell_merge(sibling, m.child, on_done, &b);
    run_until(f, a.done && b.done);
    assert_string_equal(a.code, ""); /* one is first; the other finds an id that is gone */
    assert_string_equal(b.code, ERR_GONE);
    answer_put(&made);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, answer_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(children_are_like_their_parent),
        TEST(a_context_that_never_ran_gets_its_settings_again),
        TEST(what_runs_goes_on_in_both),
        TEST(the_queue_stays_and_waits_for_the_copy),
        TEST(code_that_was_not_read_is_sent_again),
        TEST(a_context_that_the_copy_lacks_is_lost_and_made_again),
        TEST(some_children_fail),
        TEST(as_many_as_there_is_room_for),
        TEST(bad_forks_are_refused),
        TEST(a_parent_deleted_meanwhile_has_its_children),
        TEST(forks_of_one_cell_take_turns),
        TEST(what_is_not_carried_is_told_once),
        TEST(a_crash_in_a_fork_leaves_no_child),
        TEST(children_live_through_a_crash),
        TEST(a_tree_is_marked_and_cleaned_up),
        TEST(a_cell_alone_is_a_tree),
        TEST(a_child_takes_its_parents_place),
        TEST(strangers_are_not_merged),
        TEST(siblings_and_grandchildren_are_merged),
        TEST(a_rename_that_fails_changes_nothing),
        TEST(a_crash_before_the_rename_leaves_the_old_state),
        TEST(a_crash_after_the_rename_leaves_the_new_state),
        TEST(the_id_is_deleted_during_a_merge),
        TEST(the_child_is_deleted_during_a_merge),
        TEST(opposite_merges_do_not_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
