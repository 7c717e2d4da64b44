/* The store: what is put comes back, also after the file was opened again; ends, keys, events and their bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sqlite3.h>
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

static int join_ids(void *arg, const char *id, const char *json) {
    (void)json;
    strcat(strcat(arg, id), " ");
    return 0;
}

static void images(void **state) {
    FIXTURE;
    char text[64] = "", *json = NULL;
    assert_int_equal(store_image_put(x->s, "img_b", "sbx_1", "{\"n\":1}", &err), 0);
    assert_int_equal(store_image_put(x->s, "img_a", "sbx_1", "{}", &err), 0);
    assert_int_equal(store_image_put(x->s, "img_b", "sbx_2", "{\"n\":2}", &err), 0); /* replaced, its place is kept */
    store_close(x->s);
    open_store(x);
    assert_int_equal(store_image_each(x->s, join_ids, text, &err), 0);
    assert_string_equal(text, "img_b img_a ");
    assert_int_equal(store_image_get(x->s, "img_b", &json), 1);
    assert_string_equal(json, "{\"n\":2}");
    free(json);
    assert_int_equal(store_image_delete(x->s, "img_b", &err), 0);
    assert_int_equal(store_image_get(x->s, "img_b", &json), 0);
}

static void a_durable_transaction_is_whole(void **state) {
    FIXTURE;
    int n = 0;
    char *json;
    store_begin_durable(x->s);
    assert_int_equal(store_image_put(x->s, "img_1", "sbx_1", "{}", &err), 0);
    assert_int_equal(store_cell_put(x->s, "sbx_1", "{}", &err), 0);
    store_rollback(x->s);
    assert_int_equal(store_image_get(x->s, "img_1", &json), 0);
    assert_int_equal(store_cell_each(x->s, count_rows, &n, &err), 0);
    assert_int_equal(n, 0);
    assert_int_equal(store_commit_durable(x->s, &err), -1); /* nothing was begun */
    store_begin_durable(x->s);
    assert_int_equal(store_image_put(x->s, "img_1", "sbx_1", "{}", &err), 0);
    assert_int_equal(store_cell_put(x->s, "sbx_1", "{}", &err), 0);
    assert_int_equal(store_commit_durable(x->s, &err), 0);
    store_begin(x->s); /* an everyday one works as before */
    assert_int_equal(store_cell_put(x->s, "sbx_2", "{}", &err), 0);
    store_commit(x->s);
    store_close(x->s);
    open_store(x);
    assert_int_equal(store_image_each(x->s, count_rows, &n, &err), 0);
    assert_int_equal(store_cell_each(x->s, count_rows, &n, &err), 0);
    assert_int_equal(n, 3);
}

static void branches(void **state) {
    FIXTURE;
    char text[64] = "", *json = NULL;
    assert_int_equal(store_branch_put(x->s, "sbx_r", "sbx_r", "{}", &err), 0);
    assert_int_equal(store_branch_put(x->s, "sbx_o", "sbx_o", "{}", &err), 0);
    assert_int_equal(store_branch_put(x->s, "sbx_c", "sbx_r", "{\"parent\":\"sbx_r\"}", &err), 0);
    assert_int_equal(store_branch_each(x->s, "sbx_r", join_ids, text, &err), 0);
    assert_string_equal(text, "sbx_r sbx_c ");
    assert_int_equal(store_branch_get(x->s, "sbx_c", &json), 1);
    assert_string_equal(json, "{\"parent\":\"sbx_r\"}");
    free(json);
    assert_int_equal(store_branch_get(x->s, "sbx_x", &json), 0);
}

static void old_branches_of_ended_cells_go(void **state) {
    FIXTURE;
    char *json = NULL;
    assert_int_equal(store_cell_put(x->s, "sbx_0", "{}", &err), 0); /* alive: stays, though it is the oldest */
    store_begin(x->s);
    for (int i = 0; i < 10752; i++) { /* 21 * 512: the last one trims */
        char id[16];
        (void)snprintf(id, sizeof id, "sbx_%d", i);
        assert_int_equal(store_branch_put(x->s, id, "sbx_0", "{}", &err), 0);
    }
    store_commit(x->s);
    int n = 0;
    assert_int_equal(store_branch_each(x->s, "sbx_0", count_rows, &n, &err), 0);
    assert_int_equal(n, 10001);
    assert_int_equal(store_branch_get(x->s, "sbx_0", &json), 1);
    free(json);
    assert_int_equal(store_branch_get(x->s, "sbx_1", &json), 0);
    assert_int_equal(store_branch_get(x->s, "sbx_10751", &json), 1);
    free(json);
}

static void journal(void **state) {
    FIXTURE;
    char text[64] = "";
    assert_int_equal(store_journal_put(x->s, "2", "{\"step\":1}", &err), 0);
    assert_int_equal(store_journal_put(x->s, "1", "{}", &err), 0);
    assert_int_equal(store_journal_put(x->s, "2", "{\"step\":2}", &err), 0);
    store_close(x->s);
    open_store(x);
    assert_int_equal(store_journal_each(x->s, join_ids, text, &err), 0);
    assert_string_equal(text, "2 1 ");
    assert_int_equal(store_journal_delete(x->s, "1", &err), 0);
    assert_int_equal(store_journal_each(x->s, take_json, text, &err), 0);
    assert_string_equal(text, "{\"step\":2}");
}

/* A file of the first version: made by taking away what the second one added. */
static int add_sum(void *arg, const char *key_id, const char *what, uint64_t sum) {
    uint64_t *sums = arg;
    assert_string_equal(what, "requests");
    sums[*key_id ? 1 : 0] += sum;
    return 0;
}
static void usage(void **state) {
    FIXTURE;
    uint64_t sums[2] = {0};
    assert_int_equal(store_usage_put(x->s, "", "requests", 1, &err), 0);
    assert_int_equal(store_usage_put(x->s, "key_1", "requests", 2, &err), 0);
    assert_int_equal(store_usage_put(x->s, "key_1", "requests", UINT64_C(1) << 50, &err), 0); /* instead of the 2 */
    store_begin(x->s);
    assert_int_equal(store_usage_put(x->s, "", "requests", 7, &err), 0);
    store_rollback(x->s);
    store_close(x->s);
    open_store(x);
    assert_int_equal(store_usage_each(x->s, add_sum, sums, &err), 0);
    assert_true(sums[0] == 1 && sums[1] == UINT64_C(1) << 50);
    store_begin(x->s);
    assert_int_equal(store_commit(x->s), 0);
}

static void an_older_file_is_migrated(void **state) {
    FIXTURE;
    sqlite3 *db;
    int n = 0;
    assert_int_equal(store_cell_put(x->s, "sbx_1", "{}", &err), 0);
    store_close(x->s);
    assert_int_equal(sqlite3_open(x->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "DROP TABLE image; DROP TABLE branch; DROP TABLE journal; DROP TABLE usage; PRAGMA user_version=1",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    open_store(x);
    assert_int_equal(store_cell_each(x->s, count_rows, &n, &err), 0);
    assert_int_equal(n, 1);
    assert_int_equal(store_journal_put(x->s, "1", "{}", &err), 0);
    assert_int_equal(store_usage_put(x->s, "", "requests", 1, &err), 0);
    store_close(x->s);
    assert_int_equal(sqlite3_open(x->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    x->s = store_open(x->path, &err);
    assert_null(x->s); /* a newer one is refused, not understood a little */
    assert_string_equal(err.code, ERR_CONFLICT);
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
                                       TEST(images),
                                       TEST(a_durable_transaction_is_whole),
                                       TEST(branches),
                                       TEST(old_branches_of_ended_cells_go),
                                       TEST(journal),
                                       TEST(usage),
                                       TEST(an_older_file_is_migrated),
                                       TEST(the_file_is_private),
                                       TEST(a_damaged_file_is_an_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
