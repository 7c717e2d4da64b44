/* What the guest tells about the cell (watch, processes, ports), and what the cell may not do to the guest's helpers.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "harness.h"

#define OP(name, fields) "{\"op\":\"" name "\"," fields "}"
#define PATH(name, path) OP(name, "\"path\":\"" path "\"")

static void watching(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user", "mkdir -p w/old");
    uint32_t ch = guest_open(g, OP("watch", "\"path\":\"w\",\"recursive\":true"));
    guest_wait_reply(g, ch);
    guest_sh(g, "user",
             "echo 1 > w/old/f; mkdir -p w/new/er; echo 2 > w/new/er/g; mv w/old/f w/f2; chmod 600 w/f2; rm w/f2");
    guest_wait_text(g, ch, "{\"type\":\"create\",\"path\":\"/workspace/w/old/f\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"write\",\"path\":\"/workspace/w/old/f\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"create\",\"path\":\"/workspace/w/new\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"create\",\"path\":\"/workspace/w/new/er/g\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"rename\",\"path\":\"/workspace/w/old/f\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"create\",\"path\":\"/workspace/w/f2\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"chmod\",\"path\":\"/workspace/w/f2\"}\n");
    guest_wait_text(g, ch, "{\"type\":\"remove\",\"path\":\"/workspace/w/f2\"}\n");
    guest_sh(g, "user", "mv w/new w/renamed; sleep 0.2; echo 3 > w/renamed/er/h");
    guest_wait_text(g, ch, "{\"type\":\"create\",\"path\":\"/workspace/w/renamed/er/h\"}\n");
    guest_close(g, ch);
    assert_string_equal(guest_wait_end(g, ch)->end.data, "{}");
    ch = guest_open(g, PATH("watch", "w"));
    guest_wait_reply(g, ch);
    guest_sh(g, "user", "echo 1 > w/old/unseen; echo 1 > w/seen");
    guest_wait_text(g, ch, "/workspace/w/seen");
    assert_null(strstr(g->channels[ch].out.data, "unseen"));
    expect_error(guest_run(g, PATH("watch", "nowhere")), "not_found");
    expect_error(guest_run(g, PATH("watch", "/root")), "permission_denied");
    guest_stop(g);
}

static void processes_and_ports(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(
        g, "{\"op\":\"exec\",\"argv\":[\"python3\",\"-uc\",\"import socket,time\\n"
           "s=socket.create_server(('127.0.0.1',4711)); t=socket.create_server(('::1',4712),family=socket.AF_INET6)\\n"
           "print('ready'); time.sleep(60)\"]}");
    /* The net namespace is new: its loopback is down, but can be listened on; ::1 needs it up. */
    for (int64_t end = monotonic_ms() + WAIT_MS;
         !g->channels[ch].out.len && !g->channels[ch].ended && monotonic_ms() < end;)
        (void)guest_pump(g, 100);
    bool v6 = !g->channels[ch].ended;
    if (!v6) {
        ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"python3\",\"-uc\",\"import socket,time\\n"
                           "s=socket.create_server(('127.0.0.1',4711)); print('ready'); time.sleep(60)\"]}");
        guest_wait_text(g, ch, "ready");
    }
    long long pid = json_number(&g->channels[ch].reply, "pid");
    char expect[128];
    struct channel_seen *c = guest_run(g, "{\"op\":\"ports\"}");
    (void)snprintf(expect, sizeof expect, "{\"port\":4711,\"pid\":%lld,\"address\":\"127.0.0.1\"}", pid);
    assert_non_null(strstr(c->reply.data, expect));
    c = guest_run(g, "{\"op\":\"processes\"}");
    (void)snprintf(expect, sizeof expect,
                   "{\"pid\":%lld,\"ppid\":1,\"uid\":1000,\"state\":\"S\",\"command\":\"python3 -uc import socket",
                   pid);
    assert_non_null(strstr(c->reply.data, expect));
    guest_close(g, ch);
    guest_wait_end(g, ch);
    c = guest_run(g, "{\"op\":\"ports\"}");
    assert_string_equal(c->reply.data, "{\"ports\":[]}");
    guest_stop(g);
}

/* A process of the cell can neither stop nor kill a file operation, and its death is told as what it is. */
static void workers_are_out_of_reach(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, PATH("write", "f"));
    guest_data(g, ch, "half", 4, false);
    const char *find = "p=$(for d in /proc/[0-9]*; do test \"$(cut -d' ' -f4 $d/stat 2>/dev/null)\" = 1 && grep -qs "
                       "'^Uid:.65533' $d/status && echo ${d#/proc/}; done);";
    assert_string_equal(guest_sh(g, "user",
                                 "%s test -n \"$p\" && for s in 9 19; do kill -$s $p 2>/dev/null || echo -n no; done; "
                                 "cat /proc/$p/environ >/dev/null 2>&1 || echo -n no",
                                 find),
                        "nonono");
    assert_string_equal(
        guest_sh(g, "root", "%s kill -9 $p 2>/dev/null || echo -n no; head -c1 /proc/$p/mem 2>/dev/null || echo -n no",
                 find),
        "nono");
    guest_data(g, ch, " done", 5, true);
    expect_ok(guest_wait_end(g, ch));
    assert_string_equal(guest_run(g, PATH("read", "f"))->out.data, "half done");
    guest_stop(g);
}

/* No process left to start: said as what it is, and over as soon as there is one again. */
static void no_process_left(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    struct rlimit before, none = {0, 0};
    assert_int_equal(prlimit(g->pid, RLIMIT_NPROC, NULL, &before), 0);
    none.rlim_max = before.rlim_max;
    uint32_t running = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"cat\"],\"stdin\":true}");
    guest_wait_reply(g, running);
    assert_int_equal(prlimit(g->pid, RLIMIT_NPROC, &none, NULL), 0);
    expect_error(guest_run(g, "{\"op\":\"exec\",\"cmd\":\"true\"}"), "limit_reached");
    expect_error(guest_run(g, PATH("stat", "/")), "limit_reached");
    guest_data(g, running, "still here", 10, true); /* what runs goes on */
    assert_string_equal(guest_wait_end(g, running)->out.data, "still here");
    assert_int_equal(prlimit(g->pid, RLIMIT_NPROC, &before, NULL), 0);
    assert_string_equal(guest_sh(g, "user", "echo again"), "again\n");
    guest_stop(g);
}

/* A process that makes orphans without end keeps the guest busy, but not deaf. */
static void orphan_storm(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t storm = guest_open(g, "{\"op\":\"exec\",\"cmd\":\"while :; do (true & true &) ; done\"}");
    guest_wait_reply(g, storm);
    for (int i = 0; i < 20; i++) {
        int64_t start = monotonic_ms();
        expect_ok(guest_run(g, PATH("stat", "/")));
        assert_true(monotonic_ms() - start < 5000);
    }
    guest_close(g, storm);
    assert_int_equal(json_number(&guest_wait_end(g, storm)->end, "signal"), 9);
    guest_stop(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(watching),
        cmocka_unit_test(processes_and_ports),
        cmocka_unit_test(workers_are_out_of_reach),
        cmocka_unit_test(no_process_left),
        cmocka_unit_test(orphan_storm),
    };
    return guest_tests_main(argc, argv, "guest_around", tests, sizeof tests / sizeof *tests);
}
