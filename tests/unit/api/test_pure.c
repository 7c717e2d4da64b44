/* The pure parts of the API floor: UTF-8, queries, routes, JSON, hosts, files, keys. Hostile input included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/files_json.h"
#include "api/host_name.h"
#include "api/json_text.h"
#include "api/query.h"
#include "api/range.h"
#include "api/router.h"
#include "api/utf8.h"
#include "base/id.h"

static void utf8_knows_its_forms(void **state) {
    (void)state;
    assert_true(utf8_valid("plain ascii, longer than eight bytes", 36));
    assert_true(utf8_valid("\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x8d", 9));
    assert_true(utf8_valid("", 0));
    assert_false(utf8_valid("\xc0\xaf", 2));         /* overlong */
    assert_false(utf8_valid("\xed\xa0\x80", 3));     /* surrogate */
    assert_false(utf8_valid("\xf4\x90\x80\x80", 4)); /* above the last */
    assert_false(utf8_valid("\xe2\x82", 2));         /* cut */
    assert_false(utf8_valid("abcdefgh\x80", 9));
}

static void utf8_clean_joins_cut_characters(void **state) {
    (void)state;
    static const char text[] = "a\xc3\xa9z\xe2\x82\xac\xf0\x9f\x90\x8d!";
    for (size_t step = 1; step < sizeof text; step++) {
        struct utf8_tail tail = {0};
        struct buf out = {0};
        for (size_t at = 0; at < sizeof text - 1; at += step) {
            size_t n = sizeof text - 1 - at < step ? sizeof text - 1 - at : step;
            utf8_clean(&tail, text + at, n, false, &out);
        }
        utf8_clean(&tail, NULL, 0, true, &out);
        assert_int_equal(out.len, sizeof text - 1);
        assert_memory_equal(out.data, text, sizeof text - 1);
        buf_free(&out);
    }
}

static void utf8_clean_replaces_what_is_none(void **state) {
    (void)state;
    struct utf8_tail tail = {0};
    struct buf out = {0};
    utf8_clean(&tail, "a\xff\xe2\x82", 4, false, &out);
    utf8_clean(&tail, "b\xc3", 2, false, &out);
    utf8_clean(&tail, NULL, 0, true, &out);
    assert_string_equal(out.data, "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                  "b\xef\xbf\xbd");
    buf_free(&out);
}

static void utf8_clean_of_garbage_is_utf8(void **state) {
    (void)state;
    for (int round = 0; round < 3000; round++) {
        uint8_t bytes[40];
        struct utf8_tail tail = {0};
        struct buf out = {0};
        random_fill(bytes, sizeof bytes);
        if (round & 1)
            for (size_t i = 0; i < sizeof bytes; i++) bytes[i] |= 0x80;
        size_t cut = bytes[0] % sizeof bytes;
        utf8_clean(&tail, bytes, cut, false, &out);
        utf8_clean(&tail, bytes + cut, sizeof bytes - cut, true, &out);
        assert_true(utf8_valid(out.data, out.len));
        buf_free(&out);
    }
}

static void query_decodes(void **state) {
    (void)state;
    struct query q;
    struct err e;
    bool bad = false;
    long long n;
    assert_int_equal(query_parse(&q, "path=%2Ftmp%2Fa+b%C3%A9&recursive&x=0&n=12&empty=&path=second&", &e), 0);
    assert_string_equal(query_get(&q, "path"), "/tmp/a b\xc3\xa9");
    assert_string_equal(query_get(&q, "empty"), "");
    assert_null(query_get(&q, "missing"));
    assert_true(query_flag(&q, "recursive", &bad));
    assert_false(query_flag(&q, "x", &bad));
    assert_false(bad);
    (void)query_flag(&q, "n", &bad);
    assert_true(bad);
    assert_int_equal(query_number(&q, "n", 1, 20, 5, &n, &e), 0);
    assert_int_equal(n, 12);
    assert_int_equal(query_number(&q, "n", 1, 11, 5, &n, &e), -1);
    assert_int_equal(query_number(&q, "missing", 1, 11, 5, &n, &e), 0);
    assert_int_equal(n, 5);
    query_free(&q);
}

static void query_refuses(void **state) {
    (void)state;
    static const char *const wrong[] = {"a=%", "a=%4", "a=%zz", "a=%00", "a=%ff", "%c3=1", "a=\xff"};
    struct query q;
    struct err e;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(query_parse(&q, wrong[i], &e), -1);
        assert_string_equal(e.code, ERR_INVALID);
        query_free(&q);
    }
    char many[512] = "";
    for (int i = 0; i < QUERY_FIELDS_MAX + 1; i++) strcat(many, "a=1&");
    assert_int_equal(query_parse(&q, many, &e), -1);
    query_free(&q);
}

static void nothing(struct request *rq) { (void)rq; }
static const struct route table[] = {
    {"GET", "/v1/a", nothing, BODY_NONE, AUTH_KEY, SCOPE_HOST, ""},
    {"POST", "/v1/a", nothing, BODY_JSON, AUTH_KEY, SCOPE_HOST, ""},
    {"GET", "/v1/a/{id}", nothing, BODY_NONE, AUTH_KEY, SCOPE_CELL, ""},
    {"GET", "/v1/a/{id}/b/{other}", nothing, BODY_NONE, AUTH_KEY, SCOPE_CELL, ""},
    {"*", "/v1/p/{id}/{rest...}", nothing, BODY_NONE, AUTH_KEY, SCOPE_HOST, ""},
};

static const struct route *route_of(const char *method, const char *path, struct route_match *m, struct err *e,
                                    char *allow) {
    static char text[256];
    (void)snprintf(text, sizeof text, "%s", path);
    return route_find(table, sizeof table / sizeof *table, method, text, m, allow, e) == 0 ? m->route : NULL;
}

static void routes_match(void **state) {
    (void)state;
    struct route_match m;
    struct err e;
    char allow[64];
    assert_ptr_equal(route_of("GET", "/v1/a", &m, &e, allow), &table[0]);
    assert_ptr_equal(route_of("HEAD", "/v1/a", &m, &e, allow), &table[0]);
    assert_ptr_equal(route_of("POST", "/v1/a", &m, &e, allow), &table[1]);
    assert_ptr_equal(route_of("GET", "/v1/a/", &m, &e, allow), &table[0]);
    assert_ptr_equal(route_of("GET", "/v1/a/x%20y/b/%C3%A9", &m, &e, allow), &table[3]);
    assert_string_equal(m.params[0], "x y");
    assert_string_equal(m.params[1], "\xc3\xa9");
    assert_ptr_equal(route_of("DELETE", "/v1/p/1/a/b//c", &m, &e, allow), &table[4]);
    assert_string_equal(m.params[1], "a/b//c");
}

static void routes_refuse(void **state) {
    (void)state;
    struct route_match m;
    struct err e;
    char allow[64];
    assert_null(route_of("PUT", "/v1/a", &m, &e, allow));
    assert_string_equal(e.code, ERR_METHOD);
    assert_string_equal(allow, "GET, POST");
    static const char *const unknown[] = {"",      "/",         "//",         "/v1",  "/v1/a//", "/v1//a",
                                          "/v1/b", "/v1/a/x/b", "/v1/a//b/c", "v1/a", "/V1/a"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_null(route_of("GET", unknown[i], &m, &e, allow));
        assert_string_equal(e.code, ERR_NOT_FOUND);
    }
    assert_null(route_of("GET", "/v1/a/%00", &m, &e, allow));
    assert_string_equal(e.code, ERR_INVALID);
    assert_null(route_of("GET", "/v1/a/%ff", &m, &e, allow));
    assert_string_equal(e.code, ERR_INVALID);
}

static int parse(const char *text, struct json_object **out, struct err *e) {
    return json_parse_object(text, strlen(text), out, e);
}

static void json_takes_objects_only(void **state) {
    (void)state;
    struct json_object *o;
    struct err e;
    assert_int_equal(parse(" \r\n", &o, &e), 0);
    assert_null(o);
    assert_int_equal(parse("{\"a\xc1\xa9\": 1}", &o, &e), -1); /* overlong, which json-c takes */
    assert_non_null(strstr(e.text, "column 4: not UTF-8"));
    assert_int_equal(parse(" {\"a\": [1, 2.5, null, \"\xc3\xa9\"]} \n", &o, &e), 0);
    assert_non_null(o);
    json_object_put(o);
    assert_int_equal(parse("{\"code\":\"a\\u0000b\"}", &o, &e), 0); /* code may hold anything */
    json_object_put(o);
    assert_int_equal(parse("{\"a\":\"\\ud83d\\udc0d N'I\\\\ \\\" \"}", &o, &e), 0);
    assert_string_equal(json_object_get_string(json_field(o, "a")), "\xf0\x9f\x90\x8d N'I\\ \" ");
    json_object_put(o);
    static const char *const wrong[] = {"[]",
                                        "1",
                                        "\"x\"",
                                        "{",
                                        "{\"a\":}",
                                        "{\"a\":1,}",
                                        "{'a':1}",
                                        "{\"a\":1}x",
                                        "{\"a\":1}{}",
                                        "{\"a\":\"\xff\"}",
                                        "{\"a\":\"x\\u0000\"}",
                                        "{\"a\":[\"\\u0000\"]}",
                                        "{\"a\":{\"code\":\"\\u0000\"}}",
                                        "nul",
                                        "/* */{}",
                                        "{\"a\":NaN}",
                                        "{\"a\":-Infinity}",
                                        "{\"a\":\"\\ud800\"}",
                                        "{\"a\":\"\\udc00x\"}",
                                        "{\"a\\u0000b\":1}",
                                        "{\"a\":{\"b\\u0000\" :1}}",
                                        "{\"a\":\"\\ud83d\\u0041\"}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(parse(wrong[i], &o, &e), -1);
        assert_string_equal(e.code, ERR_INVALID);
        assert_null(o);
    }
    char deep[400] = "{\"a\":";
    memset(deep + 5, '[', 300);
    assert_int_equal(parse(deep, &o, &e), -1);
}

static void json_says_where(void **state) {
    (void)state;
    struct json_object *o;
    struct err e;
    assert_int_equal(parse("{\n  \"a\": 1,\n  \"b\": nope\n}", &o, &e), -1);
    assert_non_null(strstr(e.text, "line 3, column"));
}

static void json_text_comes_back(void **state) {
    (void)state;
    static const char text[] = "quote \" back \\ tab \t nl \n bell \a del \x7f \xe2\x82\xac \xf0\x9f\x90\x8d";
    struct buf b = {0};
    json_put_text(&b, text, sizeof text - 1);
    struct json_object *o = json_tokener_parse(b.data);
    assert_non_null(o);
    assert_string_equal(json_object_get_string(o), text);
    json_object_put(o);
    buf_clear(&b);
    struct utf8_tail tail = {0};
    assert_false(json_put_bytes(&b, &tail, "\xe2\x82", 2, false));
    assert_true(json_put_bytes(&b, &tail, "\xac!", 2, false));
    assert_string_equal(b.data, "\"\xe2\x82\xac!\"");
    buf_free(&b);
}

static void file_entries_get_our_words(void **state) {
    (void)state;
    struct json_object *guest =
        json_tokener_parse("{\"name\":\"d\",\"path\":\"/workspace/"
                           "d\",\"type\":\"directory\",\"size\":4096,\"mode\":493,\"mtime_ms\":1767225600000}");
    struct json_object *entry = files_entry(guest);
    assert_true(json_object_get_boolean(json_field(entry, "is_dir")));
    assert_string_equal(json_object_get_string(json_field(entry, "mode")), "drwxr-xr-x");
    assert_string_equal(json_object_get_string(json_field(entry, "permissions")), "0755");
    assert_string_equal(json_object_get_string(json_field(entry, "mtime")), "2026-01-01T00:00:00Z");
    json_object_put(entry);
    json_object_put(guest);
    int mode = -1;
    struct err e;
    assert_int_equal(files_mode_text("0644", &mode, &e), 0);
    assert_int_equal(mode, 0644);
    assert_int_equal(files_mode_text("9", &mode, &e), -1);
    assert_int_equal(files_mode_text("77777", &mode, &e), -1);
    assert_int_equal(files_mode_text("", &mode, &e), -1);
    entry = files_listing(NULL); /* a guest that answers nonsense */
    assert_int_equal(json_object_array_length(json_field(entry, "entries")), 0);
    json_object_put(entry);
}

static void hosts_are_split(void **state) {
    (void)state;
    char host[256];
    int port;
    assert_true(host_split("LocalHost:7070", host, &port));
    assert_string_equal(host, "localhost");
    assert_int_equal(port, 7070);
    assert_true(host_split("[::1]:80", host, &port));
    assert_string_equal(host, "::1");
    assert_true(host_split("example.com.", host, &port)); /* the same name, written in full */
    assert_string_equal(host, "example.com");
    assert_int_equal(port, -1);
    static const char *const wrong[] = {"",       ":80",     "a b",  "a/b",  "a@b",     "[::1",
                                        "[::1]x", "a:99999", "a:-1", "a:1x", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_false(host_split(wrong[i], host, &port));
    char longest[300];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_false(host_split(longest, host, &port));
}

static void loopback_and_origins(void **state) {
    (void)state;
    assert_true(host_is_loopback("127.0.0.1") && host_is_loopback("127.9.9.9") && host_is_loopback("::1"));
    assert_true(host_is_loopback("localhost") && host_is_loopback("a.localhost"));
    assert_false(host_is_loopback("localhost.evil.com") || host_is_loopback("evil-localhost") ||
                 host_is_loopback("128.0.0.1"));
    assert_false(host_is_loopback("0.0.0.0") || host_is_loopback("127.1") || host_is_loopback(".localhost.x"));
    assert_true(host_is_origin("http://localhost:7070", "localhost", 7070));
    assert_true(host_is_origin("https://example.com", "example.com", -1));
    assert_true(host_is_origin("http://EXAMPLE.com:80", "example.com", -1));
    assert_false(host_is_origin("http://localhost:3000", "localhost", 7070)); /* another local page */
    assert_false(host_is_origin("null", "localhost", 7070) || host_is_origin("file://", "localhost", -1));
    assert_false(host_is_origin("http://evil.com@localhost:7070", "localhost", 7070));
    assert_false(host_is_origin("chrome-extension://localhost", "localhost", -1));
    assert_false(host_is_origin("http://localhost:7070/", "localhost", 7070));
}

static void check_range(const char *header, uint64_t size, enum range_kind kind, uint64_t from, uint64_t length) {
    uint64_t got_from = 0, got_length = 0;
    assert_int_equal(range_of(header, size, &got_from, &got_length), kind);
    if (kind != RANGE_PART) return;
    assert_int_equal(got_from, from);
    assert_int_equal(got_length, length);
}

static void ranges_are_read(void **state) {
    (void)state;
    check_range("bytes=0-0", 10, RANGE_PART, 0, 1);
    check_range("Bytes=3-", 10, RANGE_PART, 3, 7);
    check_range("bytes=3-6 ", 10, RANGE_PART, 3, 4);
    check_range("bytes=3-600", 10, RANGE_PART, 3, 7);
    check_range("bytes=-4", 10, RANGE_PART, 6, 4);
    check_range("bytes=-400", 10, RANGE_PART, 0, 10);
    check_range("bytes=9-99999999999999999999999999", 10, RANGE_PART, 9, 1);
    check_range("bytes=0-18446744073709551615", UINT64_MAX, RANGE_PART, 0, UINT64_MAX);
    check_range("bytes=10-", 10, RANGE_OUTSIDE, 0, 0);
    check_range("bytes=99999999999999999999999999-", 10, RANGE_OUTSIDE, 0, 0);
    check_range("bytes=-0", 10, RANGE_OUTSIDE, 0, 0);
    check_range("bytes=-1", 0, RANGE_OUTSIDE, 0, 0);
}

static void ranges_that_are_none_mean_the_whole(void **state) {
    static const char *const none[] = {"", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-3", "bytes=1-2,4-5", "bytes=1", "bytes=--1", "lines=1-2", "bytes=1-2x", "bytes=+1-2"};
    (void)state;
    check_range(NULL, 10, RANGE_WHOLE, 0, 0);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) check_range(none[i], 10, RANGE_WHOLE, 0, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_knows_its_forms),
        cmocka_unit_test(utf8_clean_joins_cut_characters),
        cmocka_unit_test(utf8_clean_replaces_what_is_none),
        cmocka_unit_test(utf8_clean_of_garbage_is_utf8),
        cmocka_unit_test(query_decodes),
        cmocka_unit_test(query_refuses),
        cmocka_unit_test(routes_match),
        cmocka_unit_test(routes_refuse),
        cmocka_unit_test(json_takes_objects_only),
        cmocka_unit_test(json_says_where),
        cmocka_unit_test(json_text_comes_back),
        cmocka_unit_test(file_entries_get_our_words),
        cmocka_unit_test(hosts_are_split),
        cmocka_unit_test(loopback_and_origins),
        cmocka_unit_test(ranges_are_read),
        cmocka_unit_test(ranges_that_are_none_mean_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
