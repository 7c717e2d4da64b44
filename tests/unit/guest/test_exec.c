/* exec: identity, streams, exit words, signals, terminals, orphans. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "harness.h"

#define EXEC(fields) "{\"op\":\"exec\"," fields "}"

static long long exit_code(const struct channel_seen *c) { return json_number(&c->end, "exit_code"); }

static void both_streams_and_exit_code(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    struct channel_seen *c = guest_run(g, EXEC("\"cmd\":\"echo out; echo err >&2; exit 3\""));
    assert_string_equal(c->out.data, "out\n");
    assert_string_equal(c->err.data, "err\n");
    assert_int_equal(exit_code(c), 3);
    assert_true(json_number(&c->reply, "pid") > 1);
    c = guest_run(g, EXEC("\"argv\":[\"printf\",\"%%s|\",\"a b\",\"\",\"$x\"]"));
    assert_string_equal(c->out.data, "a b||$x|");
    guest_stop(g);
}

static void identity_of(struct guest *g, const char *user, const char *id, const char *home) {
    struct channel_seen *c = guest_run(g,
                                       EXEC("\"user\":\"%s\",\"cmd\":\"echo $(id -u) $(id -g) $(id -G) $HOME $PWD; "
                                            "grep -E '^(Cap|NoNewPrivs|Sig(Blk|Ign|Cgt))' "
                                            "/proc/self/status; ls /proc/self/fd | wc -l; ps -o sid= -p $$ | tr -d ' ';"
                                            " echo $$\""),
                                       user);
    char expect[512];
    assert_int_equal(exit_code(c), 0);
    (void)snprintf(expect, sizeof expect, "%s %s %s %s %s\n", id, id, id, home, home);
    assert_memory_equal(c->out.data, expect, strlen(expect));
    assert_non_null(strstr(c->out.data,
                           "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"
                           "CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n"));
    assert_non_null(strstr(c->out.data, "NoNewPrivs:\t1\n"));
    assert_non_null(strstr(c->out.data, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"));
    int fds, sid, pid;
    const char *tail = strstr(c->out.data, "NoNewPrivs:");
    assert_non_null(tail);
    assert_int_equal(sscanf(strchr(tail, '\n'), "%d %d %d", &fds, &sid, &pid), 3);
    assert_int_equal(fds, 4); /* 0, 1, 2 and the directory that ls reads */
    assert_int_equal(sid, pid);
}

static void identities(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    identity_of(g, "user", "1000", "/workspace");
    identity_of(g, "root", "0", "/root");
    /* The keeper's descriptor is where it was. */
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)g->pid, GUEST_FD_SLOTS);
    assert_true(readlink(path, (char[64]){0}, 64) > 0);
    guest_stop(g);
}

static void plain_root_start(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_PLAIN);
    struct channel_seen *c = guest_run(g, EXEC("\"argv\":[\"grep\",\"-E\",\"Cap|Uid\",\"/proc/self/status\"]"));
    assert_non_null(strstr(c->out.data, "CapBnd:\t0000000000000000\n"));
    assert_non_null(strstr(c->out.data, "Uid:\t1000\t1000\t1000\t1000\n"));
    guest_stop(g);
}

static void could_not_start(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    expect_error(guest_run(g, EXEC("\"argv\":[\"no-such-program\"]")), "not_found");
    expect_error(guest_run(g, EXEC("\"argv\":[\"/no/such/program\"]")), "not_found");
    expect_error(guest_run(g, EXEC("\"argv\":[\"/etc/passwd\"]")), "permission_denied");
    expect_error(guest_run(g, EXEC("\"argv\":[\"true\"],\"cwd\":\"/nowhere\"")), "not_found");
    expect_error(guest_run(g, EXEC("\"argv\":[\"true\"],\"cwd\":\"/root\"")), "permission_denied");
    expect_error(guest_run(g, EXEC("\"argv\":[\"true\"],\"cmd\":\"true\"")), "invalid_request");
    expect_error(guest_run(g, EXEC("\"argv\":[]")), "invalid_request");
    expect_error(guest_run(g, EXEC("\"argv\":[\"a\\u0000b\"]")), "invalid_request");
    expect_error(guest_run(g, EXEC("\"cmd\":\"true\",\"env\":{\"A=B\":\"c\"}")), "invalid_request");
    expect_error(guest_run(g, EXEC("\"cmd\":\"true\",\"user\":\"nobody\"")), "invalid_request");
    expect_error(guest_run(g, "{\"op\":\"format_disk\"}"), "unsupported");
    expect_error(guest_run(g, "{\"op\":"), "invalid_request");
    expect_error(guest_run(g, EXEC("\"cmd\":\"\xff\"")), "invalid_request");
    /* The shell's own word for it is a true exit code. */
    assert_int_equal(exit_code(guest_run(g, EXEC("\"cmd\":\"no-such-program\""))), 127);
    guest_put(g, "/workspace/script", "echo script \"$1\"\n");
    guest_sh(g, "user", "chmod 755 script");
    assert_string_equal(guest_run(g, EXEC("\"argv\":[\"./script\",\"x y\"]"))->out.data, "script x y\n");
    guest_stop(g);
}

static void environment(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_frame_send(g, GUEST_OPEN, 0, 0,
                     "{\"op\":\"environment\",\"env\":{\"A\":\"cell\",\"B\":\"cell\",\"USER\":null}}", 62);
    while (!g->channels[0].ended) assert_true(guest_pump(g, WAIT_MS));
    assert_string_equal(g->channels[0].end.data, "{}");
    struct channel_seen *c =
        guest_run(g, EXEC("\"cmd\":\"echo $A $B $LANG $PATH -$USER- -$TERM-\",\"env\":{\"B\":\"request\"}"));
    assert_string_equal(
        c->out.data, "cell request C.UTF-8 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin -- -dumb-\n");
    guest_stop(g);
}

static void stdin_echo(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, EXEC("\"argv\":[\"cat\"],\"stdin\":true"));
    guest_data(g, ch, "one\n", 4, false);
    guest_wait_text(g, ch, "one\n");
    guest_data(g, ch, "two\n", 4, true);
    struct channel_seen *c = guest_wait_end(g, ch);
    assert_string_equal(c->out.data, "one\ntwo\n");
    assert_int_equal(exit_code(c), 0);
    /* No stdin asked for: /dev/null, and DATA is swallowed. */
    ch = guest_open(g, EXEC("\"argv\":[\"cat\"]"));
    guest_data(g, ch, "lost", 4, true);
    assert_int_equal(guest_wait_end(g, ch)->out.len, 0);
    guest_stop(g);
}

/* A program that stops reading its input does not stop the daemon from sending it. */
static void stdin_nobody_reads(void **state) {
    (void)state;
    static char megabyte[1 << 20];
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, EXEC("\"cmd\":\"exec <&-; sleep 0.3; echo done\",\"stdin\":true"));
    guest_data(g, ch, megabyte, sizeof megabyte, true);
    assert_string_equal(guest_wait_end(g, ch)->out.data, "done\n");
    guest_stop(g);
}

static void signals(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch =
        guest_open(g, EXEC("\"cmd\":\"trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.01; done\""));
    guest_wait_text(g, ch, "ready");
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"signal\":15}", 13);
    struct channel_seen *c = guest_wait_end(g, ch);
    assert_non_null(strstr(c->out.data, "got"));
    assert_int_equal(exit_code(c), 7);
    /* The whole group: the shell ignores it, its child does not. */
    ch = guest_open(g, EXEC("\"cmd\":\"trap '' INT; (trap - INT; echo ready; exec sleep 60); echo $?\""));
    guest_wait_text(g, ch, "ready");
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"signal\":15,\"group\":true}", 26);
    c = guest_wait_end(g, ch);
    assert_int_equal(json_number(&c->end, "signal"), 15);
    ch = guest_open(g, EXEC("\"argv\":[\"sleep\",\"60\"]"));
    guest_wait_reply(g, ch);
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"signal\":9}", 12);
    assert_int_equal(json_number(&guest_wait_end(g, ch)->end, "signal"), 9);
    /* Nonsense is ignored. */
    ch = guest_open(g, EXEC("\"cmd\":\"read x; echo $x\",\"stdin\":true"));
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"signal\":4711}", 15);
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"signal\":", 10);
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"resize\":{\"rows\":1,\"cols\":1}}", 30);
    guest_data(g, ch, "fine\n", 5, true);
    assert_string_equal(guest_wait_end(g, ch)->out.data, "fine\n");
    guest_stop(g);
}

static void close_kills_the_group(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, EXEC("\"cmd\":\"sleep 61 & echo ready; sleep 61\""));
    guest_wait_text(g, ch, "ready");
    int64_t start = monotonic_ms();
    guest_close(g, ch);
    assert_int_equal(json_number(&guest_wait_end(g, ch)->end, "signal"), 9);
    assert_true(monotonic_ms() - start < 5000);
    assert_string_equal(
        guest_sh(
            g, "user",
            "for i in $(seq 100); do pgrep -cx sleep >/dev/null || break; sleep 0.05; done; pgrep -cx sleep; true"),
        "0\n");
    guest_stop(g);
}

/* A background process that keeps the pipe neither holds END up nor dies of it. */
static void background_process(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    int64_t start = monotonic_ms();
    struct channel_seen *c = guest_run(g, EXEC("\"cmd\":\"(sleep 1; for i in $(seq 20000); do echo 12345678; done; "
                                               "echo alive > /workspace/proof) & echo started\""));
    int64_t took = monotonic_ms() - start;
    assert_string_equal(c->out.data, "started\n");
    assert_int_equal(exit_code(c), 0);
    assert_in_range(took, 190, 1000);
    assert_string_equal(
        guest_sh(g, "user",
                 "for i in $(seq 100); do test -s /workspace/proof && break; sleep 0.1; done; cat /workspace/proof"),
        "alive\n");
    guest_stop(g);
}

/* More than the window, written by a process that is dead before the reader has taken a byte: all of it arrives. */
static void output_survives_the_process(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, EXEC("\"cmd\":\"head -c 300000 /dev/zero; (sleep 0.4; echo no) & exit 5\""));
    struct channel_seen *c = &g->channels[ch];
    c->no_credit = true;
    while (c->out_total < GUEST_WINDOW) assert_true(guest_pump(g, WAIT_MS));
    for (int64_t end = monotonic_ms() + 600; monotonic_ms() < end;) (void)guest_pump(g, 50);
    assert_false(c->ended);
    assert_int_equal(c->out_total, GUEST_WINDOW);
    uint32_t more = GUEST_WINDOW;
    guest_frame_send(g, GUEST_CREDIT, 0, ch, &more, sizeof more);
    guest_wait_end(g, ch);
    assert_in_range(c->out_total, 300000, 300003); /* "no" may still have been in the pipe when it was counted */
    assert_int_equal(exit_code(c), 5);
    guest_stop(g);
}

static void back_pressure_reaches_the_process(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, EXEC("\"cmd\":\"yes & echo $! > /workspace/pid; wait\""));
    struct channel_seen *c = &g->channels[ch];
    c->no_credit = true;
    while (c->out_total < GUEST_WINDOW) assert_true(guest_pump(g, WAIT_MS));
    (void)guest_pump(g, 300);
    assert_int_equal(c->out_total, GUEST_WINDOW);
    /* Asleep in write(2), not running; and other channels go on. */
    assert_string_equal(guest_sh(g, "user", "sleep 0.2; cut -d' ' -f3 /proc/$(cat /workspace/pid)/stat"), "S\n");
    expect_memory_below(g, 2048);
    guest_close(g, ch);
    guest_wait_end(g, ch);
    guest_stop(g);
}

static void terminal(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(
        g,
        EXEC("\"cmd\":\"stty size; echo $TERM; tty; test -t 0 -a -t 1 -a -t 2 && echo all; stat -c %%u $(tty); read x; "
             "stty size; echo err >&2; cat\",\"pty\":{\"rows\":30,\"cols\":100}"));
    guest_wait_text(g, ch, "all\r\n1000\r\n");
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"resize\":{\"rows\":11,\"cols\":22}}", 32);
    guest_data(g, ch, "go\n", 3, false);
    guest_wait_text(g, ch, "11 22\r\n");
    guest_data(g, ch, "line\n", 5, true); /* FRAME_EOF is ^D */
    struct channel_seen *c = guest_wait_end(g, ch);
    assert_int_equal(exit_code(c), 0);
    assert_int_equal(c->err.len, 0);
    assert_non_null(strstr(c->out.data, "30 100\r\nxterm-256color\r\n/dev/pts/"));
    assert_non_null(strstr(c->out.data, "err\r\n"));
    /* ^C reaches the foreground program. */
    ch = guest_open(g, EXEC("\"cmd\":\"echo ready; exec sleep 60\",\"pty\":{}"));
    guest_wait_text(g, ch, "ready");
    guest_data(g, ch, "\x03", 1, false);
    assert_int_equal(json_number(&guest_wait_end(g, ch)->end, "signal"), SIGINT);
    guest_stop(g);
}

static void terminal_loses_nothing(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    for (int i = 0; i < 20; i++) {
        struct channel_seen *c = guest_run(g, EXEC("\"cmd\":\"seq 3000; echo last\",\"pty\":{}"));
        assert_int_equal(c->out.len, 9 * 3 + 90 * 4 + 900 * 5 + 2001 * 6 + 6);
        assert_string_equal(c->out.data + c->out.len - 6, "last\r\n");
    }
    guest_stop(g);
}

/* A program that closes its terminal before it exits is not hung up on, and may open it again. */
static void terminal_closed_early(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    for (int i = 0; i < 3; i++) {
        struct channel_seen *c = guest_run(g, EXEC("\"cmd\":\"echo one; exec 0<&- 1>&- 2>&-; sleep 0.1; echo two > "
                                                   "/dev/tty; exec 3>&-; exit 4\",\"pty\":{}"));
        assert_string_equal(c->out.data, "one\r\ntwo\r\n");
        assert_int_equal(exit_code(c), 4);
    }
    for (int i = 0; i < 50; i++) /* cat closes all three before it calls exit */
        assert_int_equal(exit_code(guest_run(g, EXEC("\"argv\":[\"cat\",\"/dev/null\"],\"pty\":{}"))), 0);
    guest_stop(g);
}

static long zombies(struct guest *g) {
    return strtol(guest_sh(g, "root", "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z'; true"), NULL, 10);
}

static void orphans_are_reaped(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user", "for i in $(seq 500); do (true & exec true) & done >/dev/null 2>&1; wait");
    for (int i = 0; i < 50 && zombies(g); i++) usleep(20000);
    assert_int_equal(zombies(g), 0);
    assert_string_equal(guest_sh(g, "user",
                                 "(setsid sh -c 'sleep 0.2; cut -d\" \" -f4 /proc/$$/stat > /workspace/ppid' &) ; "
                                 "sleep 0.6; cat /workspace/ppid"),
                        "1\n");
    guest_stop(g);
}

static void many_at_once(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t first = 0, last = 0;
    for (int i = 0; i < GUEST_CHANNELS_MAX; i++) {
        last = guest_open(g, EXEC("\"cmd\":\"read x; echo $x %d\",\"stdin\":true"), i);
        if (!first) first = last;
    }
    expect_error(guest_run(g, EXEC("\"cmd\":\"true\"")), "limit_reached");
    for (uint32_t ch = first; ch <= last; ch++) guest_data(g, ch, "hi\n", 3, true);
    for (uint32_t ch = first; ch <= last; ch++) {
        char expect[32];
        (void)snprintf(expect, sizeof expect, "hi %u\n", ch - first);
        assert_string_equal(guest_wait_end(g, ch)->out.data, expect);
    }
    expect_ok(guest_run(g, EXEC("\"cmd\":\"true\"")));
    guest_stop(g);
}

/* Nothing of the guest is in reach of the cell's processes: not its memory, not its descriptors, not its signals. */
static void the_guest_is_out_of_reach(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    assert_string_equal(
        guest_sh(g, "user",
                 "ls /proc/1/fd >/dev/null 2>&1 || echo -n fd; cat /proc/1/environ >/dev/null 2>&1 || echo -n env; "
                 "head -c1 /proc/1/mem >/dev/null 2>&1 || echo -n mem; kill -9 1 2>/dev/null || echo -n kill; "
                 "(echo x > /proc/1/fd/3) 2>/dev/null || echo -n stream"),
        "fdenvmemkillstream");
    assert_string_equal(guest_sh(g, "root",
                                 "readlink /proc/1/fd/3 || echo -n fd; head -c1 /proc/1/mem 2>/dev/null || echo -n "
                                 "mem; kill -9 1 2>/dev/null || echo -n kill; "
                                 "(echo x > /proc/1/fd/3) 2>/dev/null || echo -n stream"),
                        "fdmemkillstream");
    guest_stop(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_streams_and_exit_code),
        cmocka_unit_test(identities),
        cmocka_unit_test(plain_root_start),
        cmocka_unit_test(could_not_start),
        cmocka_unit_test(environment),
        cmocka_unit_test(stdin_echo),
        cmocka_unit_test(stdin_nobody_reads),
        cmocka_unit_test(signals),
        cmocka_unit_test(close_kills_the_group),
        cmocka_unit_test(background_process),
        cmocka_unit_test(output_survives_the_process),
        cmocka_unit_test(back_pressure_reaches_the_process),
        cmocka_unit_test(terminal),
        cmocka_unit_test(terminal_loses_nothing),
        cmocka_unit_test(terminal_closed_early),
        cmocka_unit_test(orphans_are_reaped),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(the_guest_is_out_of_reach),
    };
    return guest_tests_main(argc, argv, "guest_exec", tests, sizeof tests / sizeof *tests);
}
