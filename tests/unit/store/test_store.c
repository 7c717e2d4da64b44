/* The store: what is put comes back, also after the file was opened again; ends, keys, events and their bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/store.h"

struct fixture {
    char dir[64], path[80];
    struct store *s;
};
static void open_store(struct fixture *x) {
    struct err err;
    x->s = store_open(x->path, &err);
    if (!x->s) fail_msg("%s", err.text);
}
static int setup(void **state) {
    struct fixture *x = calloc(1, sizeof *x);
    (void)snprintf(x->dir, sizeof x->dir, "/tmp/cella-store-XXXXXX");
    assert_non_null(mkdtemp(x->dir));
    (void)snprintf(x->path, sizeof x->path, "%s/cella.db", x->dir);
    open_store(x);
    *state = x;
    return 0;
}
static int teardown(void **state) {
    struct fixture *x = *state;
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char path[96];
    store_close(x->s);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s%s", x->path, suffixes[i]);
        (void)unlink(path);
    }
    (void)rmdir(x->dir);
    free(x);
    return 0;
}
#define FIXTURE                                                                                                        \
    struct fixture *x = *state;                                                                                        \
    struct err err

static int count_rows(void *arg, const char *id, const char *json) {
    (void)id, (void)json;
    ++*(int *)arg;
    return 0;
}
static int take_json(void *arg, const char *id, const char *json) {
    (void)id;
    (void)snprintf(arg, 64, "%s", json);
    return 0;
}

static void cells(void **state) {
    FIXTURE;
    char text[64] = "";
    int n = 0;
    assert_int_equal(store_cell_put(x->s, "sbx_1", "{\"a\":1}", &err), 0);
    assert_int_equal(store_cell_put(x->s, "sbx_2", "{}", &err), 0);
    assert_int_equal(store_cell_put(x->s, "sbx_1", "{\"a\":'2'}", &err), 0); /* replaced; a quote is only a character */
    store_close(x->s);
    open_store(x);
    assert_int_equal(store_cell_delete(x->s, "sbx_2", "idle", &err), 0);
    assert_int_equal(store_cell_each(x->s, count_rows, &n, &err), 0);
    assert_int_equal(n, 1);
    assert_int_equal(store_cell_each(x->s, take_json, text, &err), 0);
    assert_string_equal(text, "{\"a\":'2'}");
    assert_int_equal(store_cell_ended(x->s, "sbx_2", text, sizeof text), 1);
    assert_string_equal(text, "idle");
    assert_int_equal(store_cell_ended(x->s, "sbx_1", text, sizeof text), 0);
    assert_int_equal(store_cell_ended(x->s, "sbx_3", text, sizeof text), 0);
}

static int stop_at_once(void *arg, const char *id, const char *json) {
    (void)id, (void)json;
    ++*(int *)arg;
    return 1;
}
static void a_row_function_can_stop(void **state) {
    FIXTURE;
    int n = 0;
    for (int i = 0; i < 3; i++) {
        char id[8];
        (void)snprintf(id, sizeof id, "c%d", i);
        assert_int_equal(store_cell_put(x->s, id, "{}", &err), 0);
    }
    assert_int_equal(store_cell_each(x->s, stop_at_once, &n, &err), 1);
    assert_int_equal(n, 1);
    n = 0;
    assert_int_equal(store_cell_each(x->s, count_rows, &n, &err), 0); /* the statement is clean again */
    assert_int_equal(n, 3);
}

static void executions(void **state) {
    FIXTURE;
    char text[64] = "";
    int n = 0;
    for (int i = 0; i < 250; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "exe_%d", i);
        assert_int_equal(store_execution_put(x->s, id, "sbx_1", "{\"status\":\"running\"}", &err), 0);
    }
    assert_int_equal(store_execution_put(x->s, "exe_249", "sbx_1", "{\"status\":\"finished\"}", &err), 0);
    assert_int_equal(store_execution_each(x->s, "sbx_1", count_rows, &n, &err), 0);
    assert_int_equal(n, 200); /* bounded per cell: the oldest went */
    assert_int_equal(store_execution_each(x->s, "sbx_1", take_json, text, &err), 0);
    assert_string_equal(text, "{\"status\":\"finished\"}");
    assert_int_equal(store_cell_delete(x->s, "sbx_1", "deleted", &err), 0);
    n = 0;
    assert_int_equal(store_execution_each(x->s, "sbx_1", count_rows, &n, &err), 0);
    assert_int_equal(n, 0);
}

static int event_row(void *arg, const char *json) {
    strcat(arg, json);
    return 0;
}
static void events(void **state) {
    FIXTURE;
    char text[256] = "";
    store_begin(x->s);
    for (int i = 0; i < 5; i++) {
        char json[8];
        (void)snprintf(json, sizeof json, "%d", i);
        assert_int_equal(store_event_add(x->s, 1000 + i, i & 1 ? "odd" : "even", json, &err), 0);
    }
    store_commit(x->s);
    assert_int_equal(store_event_each(x->s, NULL, 3, event_row, text, &err), 0);
    assert_string_equal(text, "234"); /* the newest, in order */
    text[0] = 0;
    assert_int_equal(store_event_each(x->s, "odd", 10, event_row, text, &err), 0);
    assert_string_equal(text, "13");
}

static int key_row(void *arg, const char *id, const char *name, int64_t created, int64_t used) {
    (void)snprintf(arg, 64, "%s %s %d %d", id, name, (int)created, (int)used);
    return 0;
}
static void keys(void **state) {
    FIXTURE;
    char id[64] = "";
    assert_false(store_key_any(x->s));
    assert_int_equal(store_key_add(x->s, "key_1", "laptop", "abc", 5, &err), 0);
    assert_int_equal(store_key_add(x->s, "key_2", "again", "abc", 5, &err), -1);
    assert_string_equal(err.code, ERR_EXISTS);
    assert_true(store_key_any(x->s));
    assert_int_equal(store_key_find(x->s, "abc", id, sizeof id), 1);
    assert_string_equal(id, "key_1");
    assert_int_equal(store_key_find(x->s, "abd", id, sizeof id), 0);
    assert_int_equal(store_key_used(x->s, "key_1", 9), 0);
    assert_int_equal(store_key_each(x->s, key_row, id, &err), 0);
    assert_string_equal(id, "key_1 laptop 5 9");
    assert_int_equal(store_key_delete(x->s, "key_1", &err), 0);
    assert_int_equal(store_key_delete(x->s, "key_1", &err), -1);
    assert_string_equal(err.code, ERR_NOT_FOUND);
    assert_int_equal(store_key_find(x->s, "abc", id, sizeof id), 0);
}

static void the_file_is_private(void **state) {
    struct fixture *x = *state;
    struct stat st;
    assert_int_equal(stat(x->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_damaged_file_is_an_error(void **state) {
    FIXTURE;
    store_close(x->s);
    FILE *f = fopen(x->path, "w");
    fputs("this is not a database, and long enough to look at the header of one, which has a hundred bytes or so.....",
          f);
    fclose(f);
    x->s = store_open(x->path, &err);
    assert_null(x->s);
    assert_string_equal(err.code, ERR_INTERNAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {TEST(cells),
                                       TEST(a_row_function_can_stop),
                                       TEST(executions),
                                       TEST(events),
                                       TEST(keys),
                                       TEST(the_file_is_private),
                                       TEST(a_damaged_file_is_an_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
