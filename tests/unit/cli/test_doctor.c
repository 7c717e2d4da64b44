/* The doctor's report and the cage of its trials. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "base/clock.h"
#include "cli/doctor/report.h"

static int says(void *arg, char *why, size_t room) {
    (void)snprintf(why, room, "%s", (const char *)arg);
    return 7;
}
static int hangs(void *arg, char *why, size_t room) {
    (void)arg, (void)why, (void)room;
    if (fork() == 0)
        for (;;) pause(); /* holds the pipe too */
    while (pause() < 0) continue;
    return 0;
}
static int crashes(void *arg, char *why, size_t room) {
    (void)arg, (void)why, (void)room;
    (void)raise(SIGKILL);
    return 0;
}

static void trials_cannot_hurt(void **state) {
    (void)state;
    char why[64], text[] = "because";
    assert_int_equal(probe_child(says, text, 2000, why, sizeof why), 7);
    assert_string_equal(why, "because");
    int64_t before = monotonic_ms();
    assert_int_equal(probe_child(hangs, NULL, 200, why, sizeof why), CHILD_TIMEOUT);
    assert_true(monotonic_ms() - before >= 200);
    assert_int_equal(probe_child(crashes, NULL, 2000, why, sizeof why), CHILD_CRASHED);
    assert_string_equal(why, "");
}

static void the_worst_counts(void **state) {
    (void)state;
    static struct report r;
    assert_int_equal(report_worst(&r), FINDING_OK);
    (void)report_add(&r, "One", "a", FINDING_OK, "fine");
    finding_remedy(report_add(&r, "One", "b", FINDING_DEGRADED, "slow %d", 3), "do %s", "this");
    assert_int_equal(report_worst(&r), FINDING_DEGRADED);
    struct buf text = {0};
    report_text(&r, "process", "why", &text);
    assert_non_null(strstr(text.data, "One\n  ok        a"));
    assert_non_null(strstr(text.data, "-> do this"));
    assert_non_null(strstr(text.data, "driver: process (why)"));
    struct json_object *json = report_json(&r, NULL, "why");
    assert_string_equal(json_object_get_string(json_object_object_get(json, "status")), "degraded");
    assert_null(json_object_object_get(json, "driver"));
    assert_int_equal(json_object_array_length(json_object_object_get(json, "checks")), 2);
    json_object_put(json);
    buf_free(&text);
    for (int i = 0; i < 2 * FINDINGS_MAX; i++) (void)report_add(&r, "One", "many", FINDING_OK, "x"); /* bounded */
    assert_int_equal(r.count, FINDINGS_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(trials_cannot_hurt), cmocka_unit_test(the_worst_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
