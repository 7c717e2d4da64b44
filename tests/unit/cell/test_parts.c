/* The small parts of the domain: text, deadlines, defers, tails, history, bodies, manifests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "cell/deadline.h"
#include "cell/defer.h"
#include "cell/domain.h"
#include "cell/manifest.h"
#include "cell/tail.h"
#include "cell/text.h"

static void utf8(void **state) {
    (void)state;
    static const struct {
        const char *in;
        size_t n;
        const char *out;
    } cases[] = {
        {"plain text of some length", 25, "plain text of some length"},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82", 9, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x99\x82"},
        {"a\x80z", 3, "a\xef\xbf\xbdz"},
        {"\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd"},                                 /* overlong */
        {"\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},                 /* surrogate */
        {"\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* above U+10FFFF */
        {"x\xe2\x82", 3, "x\xef\xbf\xbd\xef\xbf\xbd"},                               /* cut short */
        {"12345678\xff", 9, "12345678\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0};
        text_append_utf8(&out, cases[i].in, cases[i].n);
        assert_string_equal(out.data, cases[i].out);
        struct json_object *o = text_json(cases[i].in, cases[i].n);
        assert_string_equal(json_object_get_string(o), cases[i].out);
        json_object_put(o);
        buf_free(&out);
    }
}

static void partial_tails(void **state) {
    (void)state;
    assert_int_equal(text_partial_tail("abc", 3), 0);
    assert_int_equal(text_partial_tail("a\xc3", 2), 1);
    assert_int_equal(text_partial_tail("a\xc3\xa9", 3), 0);
    assert_int_equal(text_partial_tail("\xe2\x82", 2), 2);
    assert_int_equal(text_partial_tail("\xf0\x9f\x99", 3), 3);
    assert_int_equal(text_partial_tail("\xf0\x9f\x99\x82", 4), 0);
    assert_int_equal(text_partial_tail("\x80\x80\x80", 3), 0);
    assert_int_equal(text_partial_tail("", 0), 0);
}

static bool parses(const char *s, size_t max) {
    struct json_object *o = text_parse_object(s, strlen(s), max);
    json_object_put(o);
    return o != NULL;
}
static void hostile_json(void **state) {
    (void)state;
    assert_true(parses("{\"a\":[1,2,3],\"b\":\"x\\\"y,,,,,,\\\\\"}", 20));
    assert_false(parses("{\"a\":[1,2,3]}", 12));
    assert_true(parses("{\"a\":\"[[[[[[,,,,,,{{{{{{\"}", 8)); /* inside a string they cost nothing */
    assert_false(parses("[1]", 100));
    assert_false(parses("5", 100));
    assert_false(parses("", 100));
    assert_false(parses("{} x", 100));
    assert_false(parses("{}{}", 100));
    assert_false(parses("{\"a\":\"\xff\"}", 100));
    assert_false(parses("{\"a\":\"unfinished", 100));
    assert_false(parses("{'a':1}", 100));
    assert_false(parses("{'\"':[{},{},{},{}],'\"':1}", 10)); /* would hide the middle from the count */
    assert_false(parses("{/*\"*/ \"a\":1}", 100));
    assert_false(parses("{\"a\":nope}", 100));
    char deep[200];
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    deep[sizeof deep - 1] = 0;
    assert_false(parses(deep, 100000));
    /* escapes without end must not take quadratic time: this one is done in well under a second or never */
    size_t n = 8u << 20;
    char *escapes = malloc(n);
    memset(escapes, '\\', n);
    memcpy(escapes, "{\"a\":\"", 6);
    assert_null(text_parse_object(escapes, n, 100));
    free(escapes);
}

static void numbers(void **state) {
    (void)state;
    static const struct {
        double v;
        const char *s;
    } cases[] = {{0, "0"}, {1, "1"}, {0.5, "0.5"}, {1.9459999, "1.946"}, {100, "100"}, {1200.25, "1200.25"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_object *o = text_number(cases[i].v);
        assert_string_equal(json_object_to_json_string(o), cases[i].s);
        json_object_put(o);
    }
}

/* ---- deadlines ---- */
struct timed {
    struct deadline d;
    int64_t wanted;
};
static int64_t last_fired;
static int fired;
static void on_fire(struct deadline *d) {
    struct timed *t = container_of(d, struct timed, d);
    assert_true(t->wanted >= last_fired); /* in order */
    assert_true(monotonic_ms() >= t->wanted);
    last_fired = t->wanted;
    fired++;
}
static void deadlines_fire_in_order(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct deadlines *all = deadlines_open(&loop);
    static struct timed t[500];
    int64_t now = monotonic_ms();
    int unset = 0;
    for (int i = 0; i < 500; i++) {
        t[i].wanted = now + 1 + (i * 7919) % 40;
        deadline_set(all, &t[i].d, t[i].wanted, on_fire);
    }
    for (int i = 0; i < 500; i += 7) deadline_unset(all, &t[i].d), unset++;
    for (int i = 1; i < 500; i += 70) { /* moved */
        t[i].wanted = now + 50;
        if (t[i].d.pos) deadline_set(all, &t[i].d, t[i].wanted, on_fire);
    }
    while (fired < 500 - unset) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(fired, 500 - unset);
    deadlines_close(all);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* ---- defers ---- */
static char order[16];
static struct defer_queue *queue;
static struct deferred one, two, three;
static void on_three(struct deferred *d) {
    (void)d;
    strcat(order, "3");
}
static void on_one(struct deferred *d) {
    (void)d;
    strcat(order, "1");
    defer(queue, &three, on_three); /* waits for the next turn */
    defer_cancel(queue, &two);
}
static void on_two(struct deferred *d) {
    (void)d;
    strcat(order, "2");
}
static void defers_run_later(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    queue = defer_open(&loop);
    defer(queue, &one, on_one);
    defer(queue, &two, on_two);
    assert_string_equal(order, "");
    uv_run(&loop, UV_RUN_ONCE);
    assert_string_equal(order, "1");
    uv_run(&loop, UV_RUN_ONCE);
    assert_string_equal(order, "13");
    defer_close(queue);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void tails_keep_the_newest(void **state) {
    (void)state;
    struct tail t = {0};
    struct buf out = {0};
    char block[1000];
    uint64_t put = 0;
    for (int i = 0; i < 2000; i++) {
        memset(block, 'a' + i % 26, sizeof block);
        tail_append(&t, i & 1, block, sizeof block);
        put += sizeof block;
    }
    tail_copy(&t, -1, &out);
    assert_true(out.len >= TAIL_MAX && out.len <= TAIL_MAX + TAIL_MAX / 8);
    assert_int_equal(out.len + t.dropped, put);
    assert_int_equal(out.data[out.len - 1], 'a' + 1999 % 26);
    buf_clear(&out);
    tail_copy(&t, 0, &out);
    for (size_t i = 0; i < out.len; i++) assert_int_equal((out.data[i] - 'a') & 1, 0); /* even blocks only */
    buf_free(&out);
    tail_free(&t);
}

static void history_is_bounded(void **state) {
    (void)state;
    struct history all = {0};
    struct history_cell a = {0}, b = {0};
    char id[40];
    for (int i = 0; i < 150; i++) {
        struct json_object *o = json_object_new_int(i);
        (void)snprintf(id, sizeof id, "a%d", i);
        history_add(&all, &a, id, o, 1000);
        json_object_put(o);
    }
    assert_int_equal(a.count, HISTORY_PER_CELL);
    assert_null(history_find(&a, "a49"));
    assert_int_equal(json_object_get_int(history_find(&a, "a50")->execution), 50);
    for (int i = 0; i < 20; i++) { /* a big neighbour pushes the oldest out, whoever's they are */
        struct json_object *o = json_object_new_int(i);
        (void)snprintf(id, sizeof id, "b%d", i);
        history_add(&all, &b, id, o, 1u << 20);
        json_object_put(o);
    }
    assert_true(all.size <= HISTORY_BYTES);
    assert_int_equal(a.count, 0);
    struct json_object *big = json_object_new_int(1);
    history_add(&all, &b, "big", big, HISTORY_ONE + 1);
    json_object_put(big);
    assert_non_null(history_find(&b, "big"));
    assert_null(history_find(&b, "big")->execution);
    history_forget_cell(&all, &a);
    history_forget_cell(&all, &b);
    assert_int_equal(all.size, 0);
    assert_null(all.oldest);
}

static void seconds(void **state) {
    (void)state;
    struct err err;
    int64_t ms = 7;
    struct json_object *o =
        json_tokener_parse("{\"a\":1.5,\"b\":0.0001,\"c\":-1,\"d\":1e12,\"e\":null,\"f\":true,\"g\":3}");
    assert_int_equal(body_seconds(o, "a", &ms, &err), 0);
    assert_int_equal(ms, 1500);
    assert_int_equal(body_seconds(o, "b", &ms, &err), 0);
    assert_int_equal(ms, 1);
    assert_int_equal(body_seconds(o, "e", &ms, &err), 0);
    assert_int_equal(body_seconds(o, "missing", &ms, &err), 0);
    assert_int_equal(ms, 1);
    assert_int_equal(body_seconds(o, "g", &ms, &err), 0);
    assert_int_equal(ms, 3000);
    static const char *const bad[] = {"c", "d", "f"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(body_seconds(o, bad[i], &ms, &err), -1);
        assert_string_equal(err.code, ERR_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
    json_object_put(o);
    char time[32];
    format_time(time, 1767225600123);
    assert_string_equal(time, "2026-01-01T00:00:00.123Z");
}

#define ID "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
static void manifests(void **state) {
    (void)state;
    static const char good[] = "{\"id\":\"" ID "\",\"name\":\"python\",\"packages\":[\"a\"],\"limits\":{}}";
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"id\":\"" ID "\"}",
        "{\"id\":\"short\",\"name\":\"python\"}",
        "{\"id\":\"" ID "\",\"name\":\"../x\"}",
        "{\"id\":\"" ID "\",\"name\":\"python\",\"packages\":{}}",
        "{\"id\":\"" ID "\",\"name\":\"python\",\"limits\":[]}",
        "{\"id\":\"" ID "\",\"name\":5}",
        "{\"id\":\"" ID "\",\"name\":\"pyt",
    };
    struct json_object *o = manifest_parse(good, sizeof good - 1, ID);
    assert_non_null(o);
    json_object_put(o);
    assert_null(manifest_parse(good, sizeof good - 1, "b" ID));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (manifest_parse(bad[i], strlen(bad[i]), NULL)) fail_msg("accepted %s", bad[i]);
    char garbage[200];
    for (int i = 0; i < 5000; i++) {
        random_fill(garbage, sizeof garbage);
        garbage[0] = '{';
        assert_null(manifest_parse(garbage, sizeof garbage, NULL));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8),
        cmocka_unit_test(partial_tails),
        cmocka_unit_test(hostile_json),
        cmocka_unit_test(numbers),
        cmocka_unit_test(deadlines_fire_in_order),
        cmocka_unit_test(defers_run_later),
        cmocka_unit_test(tails_keep_the_newest),
        cmocka_unit_test(history_is_bounded),
        cmocka_unit_test(seconds),
        cmocka_unit_test(manifests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
