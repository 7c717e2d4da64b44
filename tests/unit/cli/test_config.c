/* The settings file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/config.h"

static int parse(struct config *c, const char *text, struct err *e) {
    return config_parse(c, strdup(text), "cella.conf", e);
}

static void settings(void **state) {
    (void)state;
    struct config c;
    struct err e;
    assert_int_equal(
        parse(&c, "# first\n\n state = /srv/cella \nlisten=127.0.0.1:1\r\nquoted = \"a b\"\nlisten = 127.0.0.1:2", &e),
        0);
    assert_string_equal(config_value(&c, "state"), "/srv/cella");
    assert_string_equal(config_value(&c, "listen"), "127.0.0.1:2"); /* the last one counts, as in the daemon */
    assert_string_equal(config_value(&c, "quoted"), "a b");
    assert_null(config_value(&c, "stat"));
    config_free(&c);
    assert_int_equal(parse(&c, "", &e), 0);
    assert_null(config_value(&c, "state"));
    config_free(&c);
}

static void what_is_no_setting(void **state) {
    (void)state;
    struct config c;
    struct err e;
    assert_int_equal(parse(&c, "a = 1\nnonsense\n", &e), -1);
    assert_non_null(strstr(e.text, "cella.conf, line 2"));
    assert_string_equal(e.code, CLI_USAGE);
    assert_int_equal(parse(&c, "= 1", &e), -1);
    struct buf_like {
        char text[CONFIG_SETTINGS_MAX * 4 + 16];
    } many = {""};
    for (int i = 0; i <= CONFIG_SETTINGS_MAX; i++) strcat(many.text, "a=1\n");
    assert_int_equal(parse(&c, many.text, &e), -1);
}

static void files(void **state) {
    (void)state;
    struct config c;
    struct err e;
    assert_int_equal(config_load(&c, "/nonexistent/cella.conf", &e), -1);
    assert_string_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(config_load(&c, "/proc/self/exe", &e), -1); /* bytes, not text */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(settings), cmocka_unit_test(what_is_no_setting),
                                       cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
