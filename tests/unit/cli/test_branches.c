/* How `cella tree` and `cella diff` draw what the daemon answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diff_show.h"
#include "cli/tree.h"

static struct json_object *parse(const char *text) {
    struct json_object *value = json_tokener_parse(text);
    assert_non_null(value);
    return value;
}

/* ---- tree ---- */

static int64_t some_memory(struct client *c, struct json_object *node) {
    (void)c;
    return strcmp(json_text(node, "state", ""), "running") == 0 ? 2000000 : -1;
}

static char *drawn(struct json_object *root, const struct tree_lines *lines, const char *asked, bool memory) {
    struct tree_show t = {.lines = lines, .asked = asked, .memory_of = memory ? some_memory : NULL};
    struct buf out = {0};
    tree_fill(&t, root);
    table_render(&t.table, &out);
    table_free(&t.table);
    if (memory) assert_int_equal(t.memory_bytes, 6000000);
    return out.data;
}

static const char family[] = "{'id':'a','state':'running','children':["
                             "{'id':'b','state':'ended','reason':'merged','children':[{'id':'c','state':'running','"
                             "metadata':{'k':'v','w':'x'}}]},"
                             "{'id':'d','state':'hibernated','children':[{'id':'e','state':'running'}]}]}";

static struct json_object *family_json(void) {
    char text[sizeof family];
    for (size_t i = 0; i < sizeof family; i++) text[i] = family[i] == '\'' ? '"' : family[i];
    return parse(text);
}

static void test_tree_ascii(void **state) {
    (void)state;
    struct json_object *root = family_json();
    char *text = drawn(root, &tree_lines_ascii, "c", false);
    assert_string_equal(text, "CELL       STATE       AGE  METADATA  NOTE\n"
                              "a          running     -    -         -\n"
                              "|- b       ended       -    -         merged\n"
                              "|  `- c *  running     -    k=v,w=x   -\n"
                              "`- d       hibernated  -    -         -\n"
                              "   `- e    running     -    -         -\n");
    free(text);
    json_object_put(root);
}

static void test_tree_utf8_with_memory(void **state) {
    (void)state;
    struct json_object *root = family_json();
    char *text = drawn(root, &tree_lines_utf8, NULL, true);
    assert_non_null(strstr(text, "\n│  └─ c  running     -    2.0 MB  k=v,w=x"));
    assert_non_null(strstr(text, "\n└─ d     hibernated  -    -       -"));
    free(text);
    json_object_put(root);
}

/* A chain deeper than any table is wide: nothing recurses into trouble, nothing is cut. */
static void test_tree_deep(void **state) {
    (void)state;
    enum { DEEP = 1000 };
    struct json_object *node = parse("{\"id\":\"leaf\",\"state\":\"running\"}");
    for (int i = 0; i < DEEP; i++) {
        struct json_object *above = parse("{\"id\":\"n\",\"state\":\"running\"}"), *list = json_object_new_array();
        json_object_array_add(list, node);
        json_object_object_add(above, "children", list);
        node = above;
    }
    char *text = drawn(node, &tree_lines_ascii, NULL, false);
    size_t lines = 0;
    for (const char *p = text; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, DEEP + 2);
    assert_non_null(strstr(text, "`- leaf"));
    free(text);
    json_object_put(node);
}

/* ---- diff ---- */

static const char answer[] =
    "{\"sandbox_id\":\"x\",\"against\":\"y\",\"files\":{\"added\":[{\"path\":\"/w/new\",\"type\":\"file\",\"size\":12},"
    "{\"path\":\"/w/dir\",\"type\":\"directory\",\"size\":0}],\"removed\":[\"/w/old\"],\"modified\":[{\"path\":\"/w/"
    "m\",\"type\":"
    "\"file\",\"size\":30,\"size_before\":20,\"text_diff\":\"--- a\\n+++ b\\n@@ -1 +1 @@\\n-one\\n+two\\n same\\n\"},"
    "{\"path\":\"/w/b\",\"type\":\"file\",\"size\":7,\"size_before\":7,\"binary\":true}]},"
    "\"variables\":{\"added\":[{\"name\":\"n\",\"type\":\"int\",\"value\":\"1\"}],\"removed\":[],\"changed\":[{"
    "\"name\":\"c\","
    "\"type\":\"str\",\"value\":\"'2'\",\"type_before\":\"int\",\"value_before\":\"2\"}],\"unknown\":[\"df\"]}}";

static void test_diff_plain(void **state) {
    (void)state;
    struct json_object *value = parse(answer);
    struct buf out = {0};
    diff_render(&(struct diff_show){0}, value, &out);
    assert_string_equal(out.data, "x against y\n"
                                  "A /w/new  12 B\n"
                                  "A /w/dir/\n"
                                  "M /w/m  20 B -> 30 B\n"
                                  "--- a\n+++ b\n@@ -1 +1 @@\n-one\n+two\n same\n"
                                  "M /w/b  7 B\n"
                                  "  binary files differ\n"
                                  "D /w/old\n"
                                  "+ n: int = 1\n"
                                  "~ c: int -> str = 2 -> '2'\n"
                                  "? df: may differ, cannot be compared\n"
                                  "5 files: 2 added, 2 changed, 1 removed (+22 B)\n"
                                  "2 variables: 1 added, 1 changed, 0 removed, 1 cannot be compared\n");
    buf_free(&out);
    json_object_put(value);
}

static void test_diff_colours(void **state) {
    (void)state;
    struct json_object *value = parse(answer);
    struct buf out = {0};
    diff_render(&(struct diff_show){.colours = true, .utf8 = true}, value, &out);
    assert_non_null(strstr(out.data, "\x1b[32mA /w/new  12 B\x1b[m\n"));
    assert_non_null(strstr(out.data, "\x1b[31m-one\x1b[m\n\x1b[32m+two\x1b[m\n same\n"));
    assert_non_null(strstr(out.data, "20 B → 30 B"));
    buf_free(&out);
    json_object_put(value);
}

/* A name is made of whatever a program in the cell liked: it stays in its line, and drives no terminal. */
static void test_diff_hostile_names(void **state) {
    (void)state;
    struct json_object *value = parse("{\"files\":{\"added\":[{\"path\":\"a\\nD "
                                      "/etc/passwd\\u001b[2J\",\"type\":\"file\",\"size\":1}],\"removed\":null},"
                                      "\"variables\":{\"added\":[{\"name\":5}],\"unknown\":[{}]}}");
    struct buf out = {0};
    diff_render(&(struct diff_show){0}, value, &out);
    assert_non_null(strstr(out.data, "\nA a D /etc/passwd?[2J  1 B\n"));
    assert_null(strchr(out.data, 0x1b));
    assert_non_null(strstr(out.data, "1 file: 1 added"));
    buf_free(&out);
    json_object_put(value);
}

static void test_diff_of_nothing(void **state) {
    (void)state;
    struct json_object *value = parse("{\"sandbox_id\":\"x\",\"against\":\"template\",\"files\":{}}");
    struct buf out = {0};
    diff_render(&(struct diff_show){0}, value, &out);
    assert_string_equal(out.data, "x against template\n0 files (+0 B)\n");
    buf_free(&out);
    json_object_put(value);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_ascii),      cmocka_unit_test(test_tree_utf8_with_memory),
        cmocka_unit_test(test_tree_deep),       cmocka_unit_test(test_diff_plain),
        cmocka_unit_test(test_diff_colours),    cmocka_unit_test(test_diff_hostile_names),
        cmocka_unit_test(test_diff_of_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
