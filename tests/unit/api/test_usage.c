/* The accounts of keys: sums by key, written after a while and at the end, back with the next daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"
#include "tenant/usage.h"

struct fixture {
    uv_loop_t loop;
    char directory[64], path[80];
    struct store *store;
    struct usage *usage;
};

static void begin(struct fixture *x) {
    struct err e;
    x->store = store_open(x->path, &e);
    assert_non_null(x->store);
    assert_int_equal(uv_loop_init(&x->loop), 0);
    x->usage = usage_open(&x->loop, x->store, &e);
    assert_non_null(x->usage);
}
static void end(struct fixture *x) {
    usage_stop(x->usage);
    uv_run(&x->loop, UV_RUN_DEFAULT);
    usage_close(x->usage);
    store_close(x->store);
    assert_int_equal(uv_loop_close(&x->loop), 0);
}
static int setup(void **state) {
    struct fixture *x = calloc(1, sizeof *x);
    (void)snprintf(x->directory, sizeof x->directory, "/tmp/cella-usage-XXXXXX");
    assert_non_null(mkdtemp(x->directory));
    (void)snprintf(x->path, sizeof x->path, "%s/db", x->directory);
    begin(x);
    *state = x;
    return 0;
}
static int teardown(void **state) {
    struct fixture *x = *state;
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char path[96];
    end(x);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s%s", x->path, suffixes[i]);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(x->directory), 0);
    free(x);
    return 0;
}

static double value(struct json_object *row, const char *name) {
    struct json_object *v;
    assert_true(json_object_object_get_ex(row, name, &v));
    return json_object_get_double(v);
}
static struct json_object *row(struct json_object *list, size_t i) { return json_object_array_get_idx(list, i); }
static const char *id_of(struct json_object *row) {
    struct json_object *v;
    assert_true(json_object_object_get_ex(row, "id", &v));
    return json_object_get_string(v);
}

static void close_timer(uv_timer_t *t) { uv_close((uv_handle_t *)t, NULL); }

static int count_rows(void *arg, const char *key, const char *what, uint64_t n) {
    (void)key, (void)what, (void)n;
    ++*(int *)arg;
    return 0;
}
static int stored(struct fixture *x) {
    struct err e;
    int n = 0;
    assert_int_equal(store_usage_each(x->store, count_rows, &n, &e), 0);
    return n;
}

static void keys_are_counted_apart(void **state) {
    struct fixture *x = *state;
    usage_add(x->usage, "key_b", USAGE_REQUESTS, 2);
    usage_add(x->usage, "key_a", USAGE_REQUESTS, 1);
    usage_of_domain(x->usage, "key_a", USE_EXECUTION_US, 1500000);
    usage_add(x->usage, "", USAGE_BYTES_OUT, UINT64_C(1) << 40);
    usage_add(x->usage, "key_b", USAGE_REQUESTS, 3);
    usage_add(x->usage, "key_never", USAGE_REQUESTS, 0);
    struct json_object *all = usage_list(x->usage, NULL, NULL, NULL), *one = usage_list(x->usage, "key_b", NULL, NULL);
    assert_int_equal(json_object_array_length(all), 3);
    assert_null(id_of(row(all, 0)));
    assert_string_equal(id_of(row(all, 1)), "key_a");
    assert_true(value(row(all, 1), "execution_seconds") == 1.5);
    assert_int_equal(json_object_array_length(one), 1);
    assert_true(value(row(one, 0), "requests") == 5 && value(row(one, 0), "bytes_out") == 0);
    struct json_object *sum = usage_sum(all);
    assert_true(value(sum, "requests") == 6 && value(sum, "bytes_out") == 1099511627776.0 && value(sum, "execution_seconds") == 1.5);
    json_object_put(sum);
    json_object_put(all);
    json_object_put(one);
    struct json_object *unknown = usage_list(x->usage, "key_unknown", NULL, NULL);
    assert_true(value(row(unknown, 0), "forks") == 0);
    json_object_put(unknown);
}

static uint64_t seven_cpu(void *arg, const char *key_id, unsigned kind) {
    (void)arg;
    return kind == USE_CPU_US && strcmp(key_id, "key_a") == 0 ? 7000000 : 0;
}
static void what_lives_is_added_to_the_answer_only(void **state) {
    struct fixture *x = *state;
    usage_of_domain(x->usage, "key_a", USE_CPU_US, 1000000);
    for (int i = 0; i < 2; i++) {
        struct json_object *list = usage_list(x->usage, "key_a", seven_cpu, NULL);
        assert_true(value(row(list, 0), "cpu_seconds") == 8);
        json_object_put(list);
    }
}

static void sums_come_back(void **state) {
    struct fixture *x = *state;
    for (int life = 1; life <= 3; life++) {
        usage_add(x->usage, "key_a", USAGE_REQUESTS, 10);
        usage_of_domain(x->usage, "", USE_FORKED, 1);
        end(x);
        begin(x);
        struct json_object *list = usage_list(x->usage, NULL, NULL, NULL);
        assert_int_equal(json_object_array_length(list), 2);
        assert_true(value(row(list, 0), "forks") == life && value(row(list, 1), "requests") == 10 * life);
        json_object_put(list);
    }
    assert_int_equal(stored(x), 2);
}

static void they_are_written_by_a_clock_not_by_requests(void **state) {
    struct fixture *x = *state;
    for (int i = 0; i < 1000; i++) usage_add(x->usage, "key_a", USAGE_REQUESTS, 1);
    uv_run(&x->loop, UV_RUN_NOWAIT);
    assert_int_equal(stored(x), 0);
    uv_timer_t keep; /* the clock of the accounts alone does not keep a loop alive */
    uv_timer_init(&x->loop, &keep);
    uv_timer_start(&keep, close_timer, USAGE_WRITE_MS + 200, 0);
    uv_run(&x->loop, UV_RUN_DEFAULT);
    assert_int_equal(stored(x), 1);
}

static void a_kind_that_nobody_knows_is_left_alone(void **state) {
    struct fixture *x = *state;
    struct err e;
    assert_int_equal(store_usage_put(x->store, "key_a", "of_a_later_version", 5, &e), 0);
    usage_add(x->usage, "key_a", USAGE_REQUESTS, 1);
    end(x);
    begin(x);
    assert_int_equal(stored(x), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {TEST(keys_are_counted_apart), TEST(what_lives_is_added_to_the_answer_only), TEST(sums_come_back),
                                       TEST(they_are_written_by_a_clock_not_by_requests), TEST(a_kind_that_nobody_knows_is_left_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
