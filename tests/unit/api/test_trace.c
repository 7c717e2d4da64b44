/* The header of W3C Trace Context, and hosts that name a port of a sandbox: pure, hostile input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/host_name.h"
#include "api/trace/traceparent.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static void a_header_there_and_back(void **state) {
    (void)state;
    struct traceparent t;
    char text[TRACEPARENT_SIZE];
    assert_true(traceparent_parse("00-" TRACE "-" SPAN "-01", &t)); /* the example of the standard */
    assert_string_equal(t.trace, TRACE);
    assert_string_equal(t.span, SPAN);
    assert_true(t.sampled);
    traceparent_write(&t, text);
    assert_string_equal(text, "00-" TRACE "-" SPAN "-01");
    assert_true(traceparent_parse("00-" TRACE "-" SPAN "-00", &t));
    assert_false(t.sampled);
    traceparent_write(&t, text);
    assert_string_equal(text, "00-" TRACE "-" SPAN "-00");
}

/* Of the flags only the first is known; the others are not passed on. */
static void flags(void **state) {
    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        struct traceparent t;
        char text[64];
        (void)snprintf(text, sizeof text, "00-" TRACE "-" SPAN "-%02x", i);
        assert_true(traceparent_parse(text, &t));
        assert_int_equal(t.sampled, i & 1);
        char out[TRACEPARENT_SIZE];
        traceparent_write(&t, out);
        assert_string_equal(out + 53, i & 1 ? "01" : "00");
    }
}

static void later_versions(void **state) {
    (void)state;
    struct traceparent t;
    char text[TRACEPARENT_SIZE];
    assert_true(traceparent_parse("01-" TRACE "-" SPAN "-01", &t));
    assert_true(traceparent_parse("cc-" TRACE "-" SPAN "-01-what the future brings", &t));
    traceparent_write(&t, text);
    assert_string_equal(text, "00-" TRACE "-" SPAN "-01"); /* as much as is known of it */
    assert_false(traceparent_parse("cc-" TRACE "-" SPAN "-01.what", &t));
    assert_false(traceparent_parse("00-" TRACE "-" SPAN "-01-more", &t)); /* this version has no more */
    assert_false(traceparent_parse("ff-" TRACE "-" SPAN "-01", &t));
}

static void what_counts_as_none(void **state) {
    (void)state;
    static const char *const wrong[] = {
        NULL,
        "",
        "00",
        "00-" TRACE "-" SPAN,
        "00-" TRACE "-" SPAN "-",
        "00-" TRACE "-" SPAN "-0",
        "00-" TRACE "-" SPAN "-1 ",
        "00-" TRACE "-" SPAN "-0G",
        " 00-" TRACE "-" SPAN "-01",
        "00-" TRACE "-" SPAN "-01 ",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" TRACE "-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",
        "00-" TRACE "-00F067AA0BA902B7-01",
        "0G-" TRACE "-" SPAN "-01",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "_" SPAN "-01",
        "00-" TRACE "-" SPAN "_01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-" SPAN "x-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473\xc3-" SPAN "-01",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct traceparent t = {.trace = "kept"};
        if (traceparent_parse(wrong[i], &t)) fail_msg("taken: %s", wrong[i]);
        assert_string_equal(t.trace, "kept");
    }
}

/* Every header that differs from a good one in one byte: taken only when the byte is a digit in the place of a digit. */
static void one_byte_off(void **state) {
    (void)state;
    static const char good[] = "00-" TRACE "-" SPAN "-01";
    for (size_t at = 0; at < sizeof good - 1; at++)
        for (int c = 1; c < 256; c++) {
            char text[sizeof good];
            struct traceparent t;
            memcpy(text, good, sizeof good);
            text[at] = (char)c;
            bool dash = at == 2 || at == 35 || at == 52, digit = strchr("0123456789abcdef", c) != NULL;
            bool expected = dash ? c == '-' : digit; /* no two bytes of the version can become "ff" at once */
            if (traceparent_parse(text, &t) != expected) fail_msg("byte %zu is %d: %s", at, c, text);
        }
}

static void behind_a_sandbox(void **state) {
    (void)state;
#define ID "sbx_0123456789abcdef0123456789abcdef"
    static const struct {
        const char *host, *name;
    } cases[] = {
        {"49983-" ID ".example.com", "example.com"},
        {"8-" ID ".localhost", "localhost"},
        {"49983-sbx_1.a", "a"},
        {"49983-sbx_.a", "a"},           /* whose it is, is not asked here */
        {"8080-" ID ".8-" ID ".x", NULL}, /* only the first part is taken away */
        {"example.com", "example.com"},
        {"", ""},
        {"49983", "49983"},
        {"49983-", "49983-"},
        {"49983-" ID, "49983-" ID},
        {"49983-" ID ".", "49983-" ID "."},
        {"499830-" ID ".example.com", "499830-" ID ".example.com"},
        {"-" ID ".example.com", "-" ID ".example.com"},
        {"x49983-" ID ".example.com", "x49983-" ID ".example.com"},
        {"49983_" ID ".example.com", "49983_" ID ".example.com"},
        {"49983-cell_01.example.com", "49983-cell_01.example.com"},
        {"49983-sbx_01g.example.com", "49983-sbx_01g.example.com"},
        {"49983-sbx_01-evil.example.com", "49983-sbx_01-evil.example.com"},
        {"49983.sbx_01.example.com", "49983.sbx_01.example.com"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(host_behind_sandbox(cases[i].host), cases[i].name ? cases[i].name : "8-" ID ".x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_header_there_and_back),
        cmocka_unit_test(flags),
        cmocka_unit_test(later_versions),
        cmocka_unit_test(what_counts_as_none),
        cmocka_unit_test(one_byte_off),
        cmocka_unit_test(behind_a_sandbox),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
