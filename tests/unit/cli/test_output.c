/* Tables, sizes, ages, and text of cells on a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/output.h"

static void columns_are_as_wide_as_needed(void **state) {
    (void)state;
    static const char *const heading[] = {"ID", "NAME"};
    struct table t;
    struct buf out = {0};
    table_open(&t, 2, heading);
    table_add(&t, "long-identifier");
    table_add(&t, "a");
    table_add(&t, "x");
    table_add(&t, NULL);
    table_render(&t, &out);
    assert_string_equal(out.data, "ID               NAME\nlong-identifier  a\nx                -\n");
    buf_free(&out);
    table_free(&t);
}

static void characters_not_bytes(void **state) {
    (void)state;
    static const char *const heading[] = {"A", "B"};
    struct table t;
    struct buf out = {0};
    table_open(&t, 2, heading);
    table_add(&t, "\xc3\xa4\xc3\xb6");
    table_add(&t, "1");
    table_render(&t, &out);
    assert_string_equal(out.data, "A   B\n\xc3\xa4\xc3\xb6  1\n");
    buf_free(&out);
    table_free(&t);
}

static void nobody_writes_on_the_screen_through_a_table(void **state) {
    (void)state;
    static const char *const heading[] = {"A"};
    struct table t;
    struct buf out = {0};
    table_open(&t, 1, heading);
    table_add(&t, "a\x1b]0;owned\x07\n\x7f\xc2\x9bz");
    table_render(&t, &out);
    assert_string_equal(out.data, "A\na?]0;owned?????z\n");
    buf_free(&out);
    table_free(&t);
}

static void sizes(void **state) {
    (void)state;
    char text[16];
    assert_string_equal(size_text(text, 0), "0 B");
    assert_string_equal(size_text(text, 999), "999 B");
    assert_string_equal(size_text(text, 1000), "1.0 kB");
    assert_string_equal(size_text(text, 732377088), "732 MB");
    assert_string_equal(size_text(text, 1400000000), "1.4 GB");
    assert_string_equal(size_text(text, INT64_MAX), "9223 PB");
}

static void times(void **state) {
    (void)state;
    char text[16];
    assert_int_equal(rfc3339_seconds("1970-01-02T00:00:00Z"), 86400);
    assert_int_equal(rfc3339_seconds("1970-01-01T00:00:10.250Z"), 10);
    assert_int_equal(rfc3339_seconds("1970-01-01T02:00:00+02:00"), 0);
    assert_int_equal(rfc3339_seconds("yesterday"), -1);
    assert_int_equal(rfc3339_seconds("1970-01-01T00:00:00"), -1);
    assert_int_equal(rfc3339_seconds(NULL), -1);
    assert_string_equal(age_text(text, "1970-01-01T00:00:00Z", 0), "0 s");
    assert_string_equal(age_text(text, "1970-01-01T00:00:00Z", 119), "119 s");
    assert_string_equal(age_text(text, "1970-01-01T00:00:00Z", 120), "2 min");
    assert_string_equal(age_text(text, "1970-01-01T00:00:00Z", 7200), "2 h");
    assert_string_equal(age_text(text, "1970-01-01T00:00:00Z", 864000), "10 d");
    assert_string_equal(age_text(text, "1970-01-01T01:00:00Z", 0), "0 s"); /* a clock that differs */
    assert_string_equal(age_text(text, "never", 0), "-");
}

/* Filter `text` whole and cut at every place: the result must be the same. */
static void filters_to(const char *text, const char *expected) {
    size_t n = strlen(text);
    for (size_t cut = 0; cut <= n; cut++) {
        struct terminal_filter f = {0};
        struct buf out = {0};
        buf_str(&out, "");
        terminal_filter(&f, text, cut, &out);
        terminal_filter(&f, text + cut, n - cut, &out);
        assert_string_equal(out.data, expected);
        buf_free(&out);
    }
}

static void a_program_cannot_drive_the_terminal(void **state) {
    (void)state;
    filters_to("plain \xc3\xa4 text\n\ttab\r", "plain \xc3\xa4 text\n\ttab\r");
    filters_to("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"); /* colours pass */
    filters_to("\x1b]0;title\x07x", "?]0;title?x");             /* title */
    filters_to("\x1b[2Jx", "?[2Jx");                            /* clear */
    filters_to("\x1b[6nx", "?[6nx");                            /* makes the terminal type */
    filters_to("\x1b[?1049hx", "?[?1049hx");
    filters_to("\x1b\x1b[2J", "??[2J");
    filters_to("a\xc2\x9b"
               "2Jb\xc2\xa0",
               "a?2Jb\xc2\xa0"); /* the 8-bit form; a no-break space stays */
    filters_to("\x1b[1\x1b[2J", "?[1?[2J");
    filters_to("\x08\x0b\x7f", "???");
    filters_to("\x1b[1;2;3;4;5;6;7;8;9;10;11;12;13;14mz",
               "?[1;2;3;4;5;6;7;8;9;10;11;12;13;14mz"); /* longer than any colour */
}

static void garbage_never_lets_an_escape_through(void **state) {
    (void)state;
    unsigned seed = 12345;
    for (int round = 0; round < 2000; round++) {
        char text[64];
        struct terminal_filter f = {0};
        struct buf out = {0};
        buf_str(&out, "");
        for (size_t i = 0; i < sizeof text; i++) {
            static const char alphabet[] = "\x1b\x1b[[]m;0J?\xc2\x9b\x90\x07z";
            seed = seed * 1103515245u + 12345u;
            text[i] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        terminal_filter(&f, text, sizeof text, &out);
        for (char *p = out.data; (p = strchr(p, 0x1b)); p++) {
            assert_int_equal(p[1], '[');
            assert_int_equal(p[2 + strspn(p + 2, "0123456789;:")], 'm');
        }
        buf_free(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(columns_are_as_wide_as_needed),
                                       cmocka_unit_test(characters_not_bytes),
                                       cmocka_unit_test(nobody_writes_on_the_screen_through_a_table),
                                       cmocka_unit_test(sizes),
                                       cmocka_unit_test(times),
                                       cmocka_unit_test(a_program_cannot_drive_the_terminal),
                                       cmocka_unit_test(garbage_never_lets_an_escape_through)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
