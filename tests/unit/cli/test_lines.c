/* Event streams: NDJSON and SSE, cut anywhere, and garbage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "cli/lines.h"

struct heard {
    struct buf text;
    int stop_after;
};

static bool hear(void *arg, const char *event, struct json_object *json) {
    struct heard *h = arg;
    buf_printf(&h->text, "%s%s%s;", event, *event ? ":" : "",
               json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
    return --h->stop_after != 0;
}

static void hears(bool sse, const char *stream, const char *expected, bool broken) {
    size_t n = strlen(stream);
    for (size_t cut = 0; cut <= n; cut++) {
        struct heard h = {0};
        struct lines l = {.sse = sse, .on_event = hear, .arg = &h};
        buf_str(&h.text, "");
        if (lines_feed(&l, stream, cut)) (void)lines_feed(&l, stream + cut, n - cut);
        assert_string_equal(h.text.data, expected);
        assert_int_equal(l.broken, broken);
        lines_free(&l);
        buf_free(&h.text);
    }
}

static void ndjson(void **state) {
    (void)state;
    hears(false, "{\"a\":1}\n\n{\"b\":\"x\\ny\"}\r\n[3]\n", "{\"a\":1};{\"b\":\"x\\ny\"};[3];", false);
    hears(false, "{\"a\":1}\n{\"cut\":", "{\"a\":1};", false); /* an unfinished line is no event */
    hears(false, "{\"a\":1}\n{\"a\":}\n{\"b\":1}\n", "{\"a\":1};", true);
}

static void sse(void **state) {
    (void)state;
    hears(true,
          ": hello\n\nevent: stdout\ndata: {\"chunk\":\"a\"}\n\nid: 7\nevent:exit\ndata:{\ndata: \"exit_code\":0}\n\n",
          "stdout:{\"chunk\":\"a\"};exit:{\"exit_code\":0};", false);
    hears(true, "event: a\n\ndata: 1\n\n", "1;", false); /* an event without data is none, and its name goes with it */
    hears(true, "event: a\ndata: {\n\n", "", true);
    hears(true, "nonsense\ndata: 1\n\n", "1;", false);
    hears(true, "event: 0123456789012345678901234567890123456789\ndata: 1\n\n", "0123456789012345678901234567890:1;",
          false);
}

static void the_handler_can_stop(void **state) {
    (void)state;
    struct heard h = {.stop_after = 1};
    struct lines l = {.on_event = hear, .arg = &h};
    assert_false(lines_feed(&l, "1\n2\n", 4));
    assert_string_equal(h.text.data, "1;");
    assert_false(l.broken);
    lines_free(&l);
    buf_free(&h.text);
}

static void too_long_is_broken(void **state) {
    (void)state;
    struct heard h = {0};
    struct lines l = {.on_event = hear, .arg = &h};
    size_t n = 1u << 20;
    char *block = malloc(n);
    assert_non_null(block);
    memset(block, 'x', n);
    bool go_on = true;
    for (size_t fed = 0; go_on && fed <= LINES_MAX; fed += n) go_on = lines_feed(&l, block, n);
    assert_false(go_on);
    assert_true(l.broken);
    free(block);
    lines_free(&l);
}

static void garbage(void **state) {
    (void)state;
    unsigned seed = 99;
    for (int round = 0; round < 3000; round++) {
        struct heard h = {0};
        struct lines l = {.sse = round % 2, .on_event = hear, .arg = &h};
        char text[80];
        for (size_t i = 0; i < sizeof text; i++) {
            static const char alphabet[] = "{}[]\":,01\n\n\r data:event\0\xff";
            seed = seed * 1103515245u + 12345u;
            text[i] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        (void)lines_feed(&l, text, sizeof text);
        lines_free(&l);
        buf_free(&h.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ndjson), cmocka_unit_test(sse),
                                       cmocka_unit_test(the_handler_can_stop), cmocka_unit_test(too_long_is_broken),
                                       cmocka_unit_test(garbage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
