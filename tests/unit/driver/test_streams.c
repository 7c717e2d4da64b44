/* The microVM driver's two kinds of connection to a guest, played here by the other end of a socket pair: real bytes, real pipes, hostile packets. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* last, after what it needs */
#include <cmocka.h>

#include "base/clock.h"
#include "driver/microvm/context_pump.h"
#include "driver/microvm/machine_link.h"
#include "wire/frame.h"

static uv_loop_t loop;

static void pair(int fd[2]) { assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0); }

/* Turn the loop until *done, or a second is over. */
static void turn_until(const int *done, int at_least) {
    for (int64_t end = monotonic_ms() + 6000; *done < at_least && monotonic_ms() < end;) {
        uv_run(&loop, UV_RUN_NOWAIT);
        usleep(500);
    }
    assert_true(*done >= at_least);
}
static void turn(int times) {
    for (int i = 0; i < times; i++) uv_run(&loop, UV_RUN_NOWAIT);
}

static int set_up(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    return uv_loop_init(&loop);
}
static int tear_down(void **state) {
    (void)state;
    turn(20);
    return uv_loop_close(&loop); /* what is still open was leaked */
}

/* ================================ contexts ================================ */

struct pumped {
    struct context_pump *pump;
    struct context_ends ends;
    int guest; /* the other end of the connection */
    int ended;
    char why[80];
};

static void on_pump_end(void *arg, const char *why) {
    struct pumped *p = arg;
    p->ended++;
    (void)snprintf(p->why, sizeof p->why, "%s", why ? why : "");
}

static void pump_open(struct pumped *p, bool carried) {
    int fd[2];
    struct err e;
    pair(fd);
    *p = (struct pumped){.guest = fd[1]};
    p->pump = context_pump_open(&loop, fd[0], carried, &(struct context_pump_events){on_pump_end, p}, &p->ends, &e);
    assert_non_null(p->pump);
}

static void ends_close(struct pumped *p) {
    if (p->ends.control_fd >= 0) close(p->ends.control_fd), close(p->ends.stdout_fd), close(p->ends.stderr_fd);
    p->ends = (struct context_ends){-1, -1, -1};
}

static void pump_close(struct pumped *p) {
    context_pump_close(p->pump);
    if (p->guest >= 0) close(p->guest);
    ends_close(p);
    turn(3);
}

/* One packet of the guest: a tag and n bytes. False: the connection is full. */
static bool piece(struct pumped *p, uint8_t tag, const void *bytes, size_t n) {
    static uint8_t packet[1 << 17];
    packet[0] = tag;
    if (n) memcpy(packet + 1, bytes, n);
    const ssize_t sent = send(p->guest, packet, n + 1, MSG_NOSIGNAL);
    assert_true(sent == (ssize_t)n + 1 || errno == EAGAIN);
    return sent >= 0;
}

static void test_order(void **state) {
    struct pumped p;
    char got[64], frame[WIRE_HEAD + 4] = "the done frame";
    (void)state;
    pump_open(&p, false);
    assert_true(piece(&p, MACHINE_PIECE_STDOUT, "one ", 4));
    assert_true(piece(&p, MACHINE_PIECE_STDERR, "bad", 3));
    assert_true(piece(&p, MACHINE_PIECE_STDOUT, "two", 3));
    assert_true(piece(&p, MACHINE_PIECE_STREAM, frame, sizeof frame));
    assert_true(piece(&p, MACHINE_PIECE_STDOUT, "after", 5));
    /* Whoever has the packet finds in the pipes what was printed before it. */
    while (recv(p.ends.control_fd, got, sizeof got, MSG_DONTWAIT) < 0) turn(1);
    assert_memory_equal(got, frame, sizeof frame);
    assert_true(read(p.ends.stdout_fd, got, sizeof got) >= 7);
    assert_memory_equal(got, "one two", 7);
    assert_int_equal(read(p.ends.stderr_fd, got, sizeof got), 3);
    pump_close(&p);
}

static uint8_t pattern(size_t at) { return (uint8_t)(at * 2654435761u >> 13); }

/* 8 MB through a pipe of 64 KiB whose reader is slow: the guest is stopped, nothing is lost, the packet behind it comes last. */
static void test_back_pressure(void **state) {
    enum { TOTAL = 8 << 20, PIECE = 50000 };
    struct pumped p;
    size_t sent = 0, got = 0, blocked_at = 0;
    static uint8_t bytes[65536];
    char frame[WIRE_HEAD] = {1};
    bool told = false;
    (void)state;
    pump_open(&p, false);
    while (got < TOTAL || !told) {
        size_t n = TOTAL - sent < PIECE ? TOTAL - sent : PIECE;
        for (size_t i = 0; i < n; i++) bytes[i] = pattern(sent + i);
        const bool went = sent == TOTAL ? !told && piece(&p, MACHINE_PIECE_STREAM, frame, sizeof frame) : piece(&p, MACHINE_PIECE_STDOUT, bytes, n);
        if (went && sent == TOTAL) told = true;
        else if (went) sent += n;
        turn(1);
        if (went && blocked_at == 0 && sent < TOTAL) continue; /* nobody reads until the guest is stopped */
        if (!blocked_at) blocked_at = sent;
        if (got + 65536 < TOTAL) assert_int_equal(recv(p.ends.control_fd, bytes, sizeof bytes, MSG_DONTWAIT), -1);
        const ssize_t r = read(p.ends.stdout_fd, bytes, 7000);
        for (ssize_t i = 0; i < r; i++) assert_int_equal(bytes[i], pattern(got + (size_t)i));
        got += r > 0 ? (size_t)r : 0;
    }
    assert_in_range(blocked_at, 65536, 2 << 20);
    for (int i = 0; i < 100 && recv(p.ends.control_fd, bytes, sizeof bytes, MSG_DONTWAIT) < 0; i++) turn(1);
    assert_int_equal(bytes[0], 1);
    assert_int_equal(p.ended, 0);
    pump_close(&p);
}

/* Everything that was sent before the connection closed is handed over; then the domain's streams end. */
static void test_close(void **state) {
    enum { TOTAL = 150000 };
    struct pumped p;
    static uint8_t bytes[TOTAL];
    size_t got = 0;
    ssize_t r;
    (void)state;
    pump_open(&p, false);
    memset(bytes, 'x', sizeof bytes);
    for (size_t at = 0; at < TOTAL; at += 50000) assert_true(piece(&p, MACHINE_PIECE_STDERR, bytes + at, 50000));
    close(p.guest);
    p.guest = -1;
    turn(10);
    assert_int_equal(p.ended, 0); /* the pipe is full */
    while ((r = read(p.ends.stderr_fd, bytes, 9000)) != 0) {
        got += r > 0 ? (size_t)r : 0;
        turn(1);
    }
    assert_int_equal(got, TOTAL);
    turn_until(&p.ended, 1);
    assert_string_equal(p.why, "");
    assert_int_equal(recv(p.ends.control_fd, bytes, 10, 0), 0);
    pump_close(&p);
}

/* The longest packets take two pieces, in both directions. */
static void test_long_packets(void **state) {
    struct pumped p;
    static uint8_t packet[WIRE_PACKET_MAX], got[WIRE_PACKET_MAX + 10];
    (void)state;
    pump_open(&p, false);
    for (size_t i = 0; i < sizeof packet; i++) packet[i] = pattern(i);
    assert_true(piece(&p, MACHINE_PIECE_STREAM | MACHINE_PIECE_MORE, packet, MACHINE_PIECE_MAX));
    turn(3);
    assert_int_equal(recv(p.ends.control_fd, got, sizeof got, MSG_DONTWAIT), -1);
    assert_true(piece(&p, MACHINE_PIECE_STREAM, packet + MACHINE_PIECE_MAX, 1));
    turn(5);
    assert_int_equal(recv(p.ends.control_fd, got, sizeof got, MSG_DONTWAIT), WIRE_PACKET_MAX);
    assert_memory_equal(got, packet, sizeof packet);
    assert_int_equal(send(p.ends.control_fd, packet, sizeof packet, 0), WIRE_PACKET_MAX);
    assert_int_equal(send(p.ends.control_fd, "short", 5, 0), 5);
    turn(5);
    assert_int_equal(recv(p.guest, got, sizeof got, 0), MACHINE_PIECE_MAX + 1);
    assert_int_equal(got[0], MACHINE_PIECE_STREAM | MACHINE_PIECE_MORE);
    assert_memory_equal(got + 1, packet, MACHINE_PIECE_MAX);
    assert_int_equal(recv(p.guest, got, sizeof got, 0), 2);
    assert_int_equal(got[0], MACHINE_PIECE_STREAM);
    assert_int_equal(got[1], packet[MACHINE_PIECE_MAX]);
    assert_int_equal(recv(p.guest, got, sizeof got, 0), 6);
    assert_memory_equal(got, "\0short", 6);
    pump_close(&p);
}

/* Many packets towards a guest that does not read: they wait with the domain, in order, and both directions live on. */
static void test_guest_does_not_read(void **state) {
    struct pumped p;
    char bytes[2000];
    int sent = 0, got = 0, stuck = 0;
    (void)state;
    pump_open(&p, false);
    while (stuck < 5) {
        int n[500] = {sent};
        if (send(p.ends.control_fd, n, sizeof n, 0) < 0) stuck++;
        else sent++;
        turn(1);
    }
    assert_true(sent > 10);
    assert_true(piece(&p, MACHINE_PIECE_STDOUT, "still", 5));
    turn(3);
    assert_int_equal(read(p.ends.stdout_fd, bytes, sizeof bytes), 5);
    for (int idle = 0; got < sent && idle < 1000; idle++) {
        int n[501];
        char *at = (char *)n + 3;
        while (recv(p.guest, at, 2001, 0) == 2001) {
            int number;
            memcpy(&number, at + 1, sizeof number);
            assert_int_equal(number, got);
            got++;
        }
        turn(1);
    }
    assert_int_equal(got, sent);
    pump_close(&p);
}

static void test_hostile_pieces(void **state) {
    static uint8_t bytes[1 << 17];
    static const struct {
        uint8_t first, second;
        size_t first_n, second_n; /* second_n 0: one packet only */
        bool first_empty;
    } rows[] = {
        {3, 0, 10, 0, false},                                                                   /* unknown */
        {MACHINE_PIECE_STDOUT | MACHINE_PIECE_MORE, 0, 10, 0, false},                            /* more of what is no packet */
        {0x40, 0, 10, 0, false},
        {MACHINE_PIECE_STDOUT, 0, 0, 0, true},                                                  /* empty */
        {MACHINE_PIECE_STREAM, 0, 0, 0, true},
        {MACHINE_PIECE_STDOUT, 0, MACHINE_PIECE_MAX + 1, 0, false},                              /* too long */
        {MACHINE_PIECE_STREAM, 0, 100000, 0, false},
        {MACHINE_PIECE_STREAM | MACHINE_PIECE_MORE, MACHINE_PIECE_STREAM, MACHINE_PIECE_MAX, 2, false}, /* joined: too long */
        {MACHINE_PIECE_STREAM | MACHINE_PIECE_MORE, MACHINE_PIECE_STDERR, 100, 5, false},         /* something in between */
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pumped p;
        pump_open(&p, false);
        assert_true(piece(&p, rows[i].first, bytes, rows[i].first_n));
        if (rows[i].second_n) assert_true(piece(&p, rows[i].second, bytes, rows[i].second_n));
        turn_until(&p.ended, 1);
        assert_string_not_equal(p.why, "");
        assert_int_equal(recv(p.ends.control_fd, bytes, 10, 0), 0);
        assert_int_equal(read(p.ends.stdout_fd, bytes, 10), 0);
        turn(10);
        assert_int_equal(p.ended, 1);
        pump_close(&p);
    }
}

/* A connection that somebody else read before may begin with the rest of a packet; a fresh one may not hide one so. */
static void test_carried(void **state) {
    char got[64], whole[WIRE_HEAD + 1] = "whole packets";
    for (int carried = 0; carried < 2; carried++) {
        struct pumped p;
        (void)state;
        pump_open(&p, carried);
        assert_true(piece(&p, MACHINE_PIECE_STREAM, "y", 1));
        assert_true(piece(&p, MACHINE_PIECE_STREAM, whole, sizeof whole));
        turn(10);
        if (!carried) assert_int_equal(recv(p.ends.control_fd, got, sizeof got, 0), 1);
        assert_int_equal(recv(p.ends.control_fd, got, sizeof got, 0), sizeof whole);
        pump_close(&p);
    }
}

static void test_domain_goes(void **state) {
    struct pumped p;
    (void)state;
    pump_open(&p, false);
    ends_close(&p);
    turn_until(&p.ended, 1);
    assert_string_equal(p.why, "");
    pump_close(&p);
    pump_open(&p, false); /* the same while there is something to hand over */
    for (int i = 0; i < 4; i++) (void)piece(&p, MACHINE_PIECE_STDOUT, (char[40000]){0}, 40000);
    turn(5);
    ends_close(&p);
    turn_until(&p.ended, 1);
    pump_close(&p);
}

/* A guest that says a context ended and keeps its connection open. */
static void test_last(void **state) {
    struct pumped p;
    (void)state;
    pump_open(&p, false);
    context_pump_last(p.pump);
    turn(5);
    assert_int_equal(p.ended, 0);
    turn_until(&p.ended, 1);
    assert_string_not_equal(p.why, "");
    pump_close(&p);
}

/* ================================ control ================================ */

struct linked {
    struct machine_link *link;
    int guest, hellos, exits, ended, answers, failures, last_errno;
    int exit_slot, exit_code;
    enum context_fate fate;
    char why[80], text[200];
    uint32_t slots;
};

static void on_hello(void *arg) { ((struct linked *)arg)->hellos++; }
static void on_exit_of(void *arg, int slot, enum context_fate fate, int code) {
    struct linked *l = arg;
    l->exits++;
    l->exit_slot = slot;
    l->exit_code = code;
    l->fate = fate;
}
static void on_link_end(void *arg, const char *why) {
    struct linked *l = arg;
    l->ended++;
    (void)snprintf(l->why, sizeof l->why, "%s", why ? why : "");
}
static void on_answer(void *arg, struct err *e, const struct machine_message *m) {
    struct linked *l = arg;
    l->answers++;
    l->failures += e != NULL;
    l->last_errno = e ? e->sys_errno : 0;
    if (e) (void)snprintf(l->text, sizeof l->text, "%.199s", e->text);
    if (m) l->slots = m->slots;
}

static void link_open(struct linked *l, bool hello) {
    int fd[2];
    pair(fd);
    *l = (struct linked){.guest = fd[1]};
    l->link = machine_link_open(&loop, fd[0], &(struct machine_link_events){hello ? on_hello : NULL, on_exit_of, on_link_end, l});
}
static void link_close(struct linked *l) {
    machine_link_close(l->link, false);
    close(l->guest);
    turn(5);
}

static void ask(struct linked *l, uint32_t type, int64_t ms) {
    struct machine_message m = {.type = type};
    machine_call(l->link, &m, ms, on_answer, l);
}
/* What the guest was asked. */
static struct machine_message asked(struct linked *l) {
    struct machine_message m;
    for (int i = 0; i < 50; i++) {
        const ssize_t n = recv(l->guest, &m, sizeof m, 0);
        if (n == (ssize_t)sizeof m) return m;
        turn(1);
    }
    fail_msg("nothing was asked");
    return m;
}
static void say(struct linked *l, const struct machine_message *m) { assert_int_equal(send(l->guest, m, sizeof *m, 0), sizeof *m); }

static void test_answers(void **state) {
    struct linked l;
    (void)state;
    link_open(&l, true);
    say(&l, &(struct machine_message){.type = MACHINE_HELLO, .value = MACHINE_PROTO_VERSION});
    turn_until(&l.hellos, 1);
    ask(&l, MACHINE_HOLD, 5000);
    ask(&l, MACHINE_RESET, 5000);
    struct machine_message hold = asked(&l), reset = asked(&l);
    assert_int_equal(hold.type, MACHINE_HOLD);
    assert_int_not_equal(hold.tag, reset.tag);
    reset.slots = 5;
    say(&l, &reset); /* in another order */
    turn_until(&l.answers, 1);
    assert_int_equal(l.slots, 5);
    hold.status = EAGAIN;
    (void)snprintf(hold.text, sizeof hold.text, "not \x1b[31mnow");
    say(&l, &hold);
    turn_until(&l.answers, 2);
    assert_int_equal(l.last_errno, EAGAIN);
    assert_non_null(strstr(l.text, "not ?[31mnow")); /* what a guest says forges no line */
    say(&l, &(struct machine_message){.type = MACHINE_CONTEXT_EXIT, .slot = 31, .fate = FATE_OOM, .code = 9});
    turn_until(&l.exits, 1);
    assert_int_equal(l.exit_slot, 31);
    assert_int_equal(l.fate, FATE_OOM);
    assert_int_equal(l.ended, 0);
    link_close(&l);
}

static void test_never_answered(void **state) {
    struct linked l;
    (void)state;
    link_open(&l, false);
    ask(&l, MACHINE_STATS, 30);
    struct machine_message m = asked(&l);
    turn_until(&l.failures, 1);
    assert_int_equal(l.last_errno, ETIMEDOUT);
    say(&l, &m); /* too late, and no crime */
    ask(&l, MACHINE_GO, 5000);
    struct machine_message go = asked(&l);
    say(&l, &go);
    turn_until(&l.answers, 2);
    assert_int_equal(l.failures, 1);
    assert_int_equal(l.ended, 0);
    for (int i = 0; i < 70; i++) ask(&l, MACHINE_STATS, 1); /* one that never answers any more */
    turn_until(&l.ended, 1);
    turn_until(&l.answers, 72);
    assert_string_not_equal(l.why, "");
    link_close(&l);
}

static void test_paused(void **state) {
    struct linked l;
    (void)state;
    link_open(&l, false);
    ask(&l, MACHINE_STATS, 100);
    machine_link_hold(l.link, true);
    for (int64_t end = monotonic_ms() + 250; monotonic_ms() < end;) turn(1);
    assert_int_equal(l.answers, 0); /* it stands still, and so does its time */
    machine_link_hold(l.link, false);
    turn(3);
    assert_int_equal(l.answers, 0);
    turn_until(&l.failures, 1);
    link_close(&l);
}

static void test_hang_up(void **state) {
    struct linked l;
    (void)state;
    link_open(&l, false);
    ask(&l, MACHINE_HOLD, 5000);
    ask(&l, MACHINE_GO, 5000);
    shutdown(l.guest, SHUT_RDWR);
    turn_until(&l.ended, 1);
    assert_string_equal(l.why, "");
    turn_until(&l.failures, 2);
    ask(&l, MACHINE_GO, 5000); /* on a link that is over */
    assert_int_equal(l.answers, 2);
    turn_until(&l.failures, 3);
    link_close(&l);
    link_open(&l, false);
    ask(&l, MACHINE_HOLD, 5000);
    machine_link_close(l.link, false);
    assert_int_equal(l.answers, 0); /* never from inside */
    turn_until(&l.failures, 1);
    assert_int_equal(l.ended, 0);
    close(l.guest);
    link_open(&l, false);
    ask(&l, MACHINE_HOLD, 20);
    machine_link_close(l.link, true);
    for (int64_t end = monotonic_ms() + 60; monotonic_ms() < end;) turn(1);
    assert_int_equal(l.answers, 0);
    close(l.guest);
}

static void test_other_daemons_answers(void **state) {
    struct linked l;
    (void)state;
    link_open(&l, false);
    ask(&l, MACHINE_RESET, 5000);
    struct machine_message m = asked(&l), stray = m;
    stray.tag = m.tag + 77;
    say(&l, &stray); /* to whom the machine belonged before */
    turn(5);
    assert_int_equal(l.ended, 0);
    say(&l, &m);
    turn_until(&l.answers, 1);
    say(&l, &stray); /* now it is made up */
    turn_until(&l.ended, 1);
    assert_string_not_equal(l.why, "");
    link_close(&l);
}

static void test_hostile_messages(void **state) {
    const struct machine_message rows[] = {
        {.type = 0}, {.type = 9}, {.type = 63}, {.type = 66}, {.type = UINT32_MAX},                     /* unknown */
        {.type = MACHINE_HELLO, .value = 1},                                                            /* not here */
        {.type = MACHINE_CONTEXT_EXIT, .slot = 32}, {.type = MACHINE_CONTEXT_EXIT, .slot = UINT32_MAX}, /* no such slot */
        {.type = MACHINE_CONTEXT_EXIT, .fate = 3}, {.type = MACHINE_CONTEXT_EXIT, .fate = -1},
        {.type = MACHINE_CONTEXT_EXIT, .code = 256}, {.type = MACHINE_CONTEXT_EXIT, .code = -1},
        {.type = MACHINE_CONTEXT_EXIT, .tag = 1}, {.type = MACHINE_GO, .tag = 0},
        {.type = MACHINE_GO, .tag = 1, .status = -1}, {.type = MACHINE_GO, .tag = 1, .status = 5000},
    };
    static char bytes[1024];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct linked l;
        link_open(&l, false);
        say(&l, &rows[i]);
        turn_until(&l.ended, 1);
        assert_string_not_equal(l.why, "");
        link_close(&l);
    }
    for (size_t n = 1; n < sizeof bytes; n += n == sizeof *rows - 1 ? 2 : n < 300 ? 1 : 100) { /* wrong sizes */
        if (n == sizeof *rows) continue;
        struct linked l;
        link_open(&l, false);
        assert_int_equal(send(l.guest, bytes, n, 0), n);
        turn_until(&l.ended, 1);
        assert_string_not_equal(l.why, "");
        link_close(&l);
    }
    struct linked l; /* an answer of another type than what was asked */
    link_open(&l, false);
    ask(&l, MACHINE_HOLD, 5000);
    struct machine_message m = asked(&l);
    m.type = MACHINE_GO;
    say(&l, &m);
    turn_until(&l.ended, 1);
    turn_until(&l.failures, 1);
    link_close(&l);
    struct machine_message endless = {.type = MACHINE_GO, .tag = 1, .status = 1};
    memset(endless.text, 'x', sizeof endless.text);
    assert_non_null(machine_message_wrong(&endless, sizeof endless));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_back_pressure, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_long_packets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_guest_does_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hostile_pieces, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_carried, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_domain_goes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_last, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_never_answered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_paused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hang_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_other_daemons_answers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hostile_messages, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("driver_streams", tests, NULL, NULL);
}
