/* The stream: garbage, windows, reset, limits, size and start of the guest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "harness.h"

/* The guest ends with status 0 and takes the cell with it. */
static void expect_break(struct guest *g) {
    while (guest_pump(g, WAIT_MS)) continue;
    assert_true(g->eof);
    int status = guest_wait_exit(g);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    guest_stop(g);
}

static void raw(struct guest *g, const void *bytes, size_t n) {
    assert_int_equal(send(g->fd, bytes, n, MSG_NOSIGNAL), n);
}

static void malformed_packets_end_it(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    raw(g, "short", 5);
    expect_break(g);
    g = guest_start(GUEST_IN_CELL);
    raw(g, "\xff\xff\xff\xff\x01\x00\x00\x00\x01\x00\x00\x00", 12);
    expect_break(g);
    g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"sleep\",\"60\"]}");
    guest_frame_send(g, 999, 0, ch, NULL, 0);
    expect_break(g);
    g = guest_start(GUEST_IN_CELL);
    ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"sleep\",\"60\"]}");
    guest_frame_send(g, GUEST_OPEN, 0, ch, "{}", 2); /* already open */
    expect_break(g);
    g = guest_start(GUEST_IN_CELL);
    ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"sleep\",\"60\"]}");
    guest_frame_send(g, GUEST_CREDIT, 0, ch, "12345", 5);
    expect_break(g);
}

static void overrun_ends_it(void **state) {
    (void)state;
    static char bytes[WIRE_PAYLOAD_MAX];
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"sleep\",\"60\"],\"stdin\":true}");
    for (size_t sent = 0; sent <= 2 * GUEST_WINDOW && !g->eof; sent += sizeof bytes) {
        static uint8_t packet[WIRE_PACKET_MAX];
        size_t len = 0;
        assert_true(frame_put(packet, &len, GUEST_DATA, 0, ch, bytes, sizeof bytes));
        if (send(g->fd, packet, len, MSG_NOSIGNAL) < 0) break; /* the guest has left already */
    }
    expect_break(g);
}

static void random_garbage(void **state) {
    (void)state;
    for (int round = 0; round < 40; round++) {
        struct guest *g = guest_start(GUEST_PLAIN);
        g->any_frames = true;
        for (int i = 0; i < 20; i++) {
            uint8_t bytes[256];
            random_fill(bytes, sizeof bytes);
            size_t n = bytes[255] % 200 + 1u, len = 0;
            uint8_t packet[512];
            /* Half of them well-formed frames of odd types and sizes. */
            if (round & 1)
                assert_true(frame_put(packet, &len, bytes[0] % 8, bytes[1] % 4, bytes[2] % 4, bytes + 8, n));
            else
                memcpy(packet, bytes, len = n);
            if (send(g->fd, packet, len, MSG_NOSIGNAL) < 0) break;
        }
        shutdown(g->fd, SHUT_WR);
        expect_break(g);
    }
}

static void late_frames_are_forgiven(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint32_t one = 1, ch = guest_open(g, "{\"op\":\"exec\",\"cmd\":\"true\"}");
    guest_wait_end(g, ch);
    guest_frame_send(g, GUEST_DATA, FRAME_EOF, ch, "x", 1);
    guest_frame_send(g, GUEST_CREDIT, 0, ch, &one, sizeof one);
    guest_frame_send(g, GUEST_CONTROL, 0, ch, "{\"signal\":9}", 12);
    guest_close(g, ch);
    guest_close(g, 777);
    assert_string_equal(guest_sh(g, "user", "echo alive"), "alive\n");
    guest_stop(g);
}

static void long_requests(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    /* 200 KB in one OPEN of several frames; one argument may have 128 KiB in Linux. */
    char *half = malloc(100001);
    assert_non_null(half);
    memset(half, 'a', 100000);
    half[100000] = 0;
    struct channel_seen *c =
        guest_run(g, "{\"op\":\"exec\",\"argv\":[\"printf\",\"%%s%%s\",\"%s\",\"%s\"]}", half, half);
    assert_int_equal(c->out.len, 200000);
    c = guest_run(g, "{\"op\":\"exec\",\"argv\":[\"true\",\"%s%s\"]}", half, half);
    expect_error(c, "too_large");
    free(half);
    char *long_text = malloc(GUEST_OPEN_MAX + 1);
    assert_non_null(long_text);
    memset(long_text, 'a', GUEST_OPEN_MAX);
    long_text[GUEST_OPEN_MAX] = 0;
    expect_error(guest_run(g, "{\"op\":\"exec\",\"argv\":[\"true\",\"%s\"]}", long_text), "too_large");
    free(long_text);
    assert_string_equal(guest_sh(g, "user", "echo alive"), "alive\n");
    guest_stop(g);
}

static void reset_guest(struct guest *g) {
    unsigned before = g->hellos;
    guest_frame_send(g, GUEST_OPEN, 0, 0, "{\"op\":\"reset\"}", 14);
    for (uint32_t i = 1; i < g->next_channel; i++) g->channels[i].discard = true; /* what was under way already */
    for (int64_t end = monotonic_ms() + WAIT_MS; g->hellos == before && monotonic_ms() < end;) (void)guest_pump(g, 100);
    assert_int_equal(g->hellos, before + 1);
}

static void reset_forgets_everything(void **state) {
    (void)state;
    static char bytes[100000];
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_put(g, "file", "old");
    uint32_t writer = guest_open(g, "{\"op\":\"write\",\"path\":\"file\"}");
    guest_data(g, writer, bytes, sizeof bytes, false);
    uint32_t talker = guest_open(g, "{\"op\":\"exec\",\"cmd\":\"trap '' PIPE; for i in 1 2 3 4 5 6 7 8 9 10; do head "
                                    "-c 100000 /dev/zero || exit 1; sleep 0.05; done; echo survived > proof\"}");
    uint32_t flood = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"yes\"]}");
    g->channels[talker].no_credit = g->channels[flood].no_credit = g->channels[flood].discard =
        g->channels[talker].discard = true;
    while (g->channels[flood].out_total < GUEST_WINDOW) assert_true(guest_pump(g, WAIT_MS));
    uint32_t half_open = g->next_channel++;
    guest_frame_send(g, GUEST_OPEN, FRAME_MORE, half_open, "{\"op\":", 6);
    reset_guest(g);
    /* The same numbers may be used again at once. */
    uint64_t before = g->channels[talker].out_total + g->channels[flood].out_total;
    memset(&g->channels[half_open], 0, sizeof g->channels[half_open]);
    guest_frame_send(g, GUEST_OPEN, 0, half_open, "{\"op\":\"exec\",\"cmd\":\"echo again\"}", 32);
    assert_string_equal(guest_wait_end(g, half_open)->out.data, "again\n");
    guest_sh(g, "user",
             "for i in $(seq 100); do test -s proof && exit 0; sleep 0.05; done; exit 1"); /* it lived on, unheard */
    guest_sh(g, "user", "pkill yes");
    assert_int_equal(before, g->channels[talker].out_total + g->channels[flood].out_total);
    assert_string_equal(guest_run(g, "{\"op\":\"read\",\"path\":\"file\"}")->out.data, "old");
    assert_string_equal(guest_sh(g, "user", "ls -A"), "file\nproof\n");
    reset_guest(g); /* an idle one too */
    guest_stop(g);
}

/* A new daemon that finds a stream full of its predecessor's frames gets HELLO behind them. */
static void reset_after_a_dead_daemon(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    for (int i = 0; i < 30; i++) {
        uint32_t ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"yes\"]}");
        g->channels[ch].discard = g->channels[ch].no_credit = true;
    }
    usleep(300000); /* nobody reads: the socket fills, then the queue, then the guest stops producing */
    expect_memory_below(g, 3000);
    reset_guest(g);
    assert_string_equal(guest_sh(g, "user", "pkill yes; echo fine"), "fine\n");
    guest_stop(g);
}

static void channel_zero(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_frame_send(g, GUEST_OPEN, 0, 0, "{\"op\":\"exec\",\"cmd\":\"true\"}", 26);
    while (!g->channels[0].ended) assert_true(guest_pump(g, WAIT_MS));
    expect_error(&g->channels[0], "invalid_request");
    expect_error(guest_run(g, "{\"op\":\"reset\"}"), "invalid_request");
    expect_error(guest_run(g, "{\"op\":\"environment\",\"env\":{}}"), "invalid_request");
    guest_stop(g);
}

static long private_kib(pid_t pid) {
    char path[64], line[256];
    long total = 0, kib;
    (void)snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "Private_Dirty: %ld", &kib) == 1 || sscanf(line, "Private_Clean: %ld", &kib) == 1)
            total += kib;
    fclose(f);
    return total;
}

static void small_and_soon_small_again(void **state) {
    (void)state;
    static char bytes[4 << 20];
    struct guest *g = guest_start(GUEST_IN_CELL);
    /* The project's bound for an idle guest is 600 KiB private; text pages nobody else maps are not counted against it.
     */
    expect_memory_below(g, 600);
    printf("idle: %ld KiB anonymous, %ld KiB private\n", guest_memory_kib(g), private_kib(g->pid));
    for (int i = 0; i < 20; i++) {
        uint32_t ch = guest_open(g, "{\"op\":\"write\",\"path\":\"f\"}");
        guest_data(g, ch, bytes, sizeof bytes, true);
        expect_ok(guest_wait_end(g, ch));
        guest_sh(g, "user", "cat f >/dev/null");
    }
    expect_memory_below(g, 1500);
    printf("after work: %ld KiB anonymous\n", guest_memory_kib(g));
    guest_stop(g);
}

/* No descriptor and no process stays behind. */
static void no_leaks(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_PLAIN);
    char path[64];
    (void)snprintf(path, sizeof path, "ls /proc/%d/fd | wc -l", (int)g->pid);
    guest_sh(g, "user", "true");
    long counts[2];
    for (int i = 0; i < 2; i++) {
        FILE *f = popen(path, "r");
        assert_non_null(f);
        assert_int_equal(fscanf(f, "%ld", &counts[i]), 1);
        pclose(f);
        for (int k = 0; k < 60 && i == 0; k++) {
            guest_run(g, "{\"op\":\"exec\",\"cmd\":\"echo x\",\"pty\":{}}");
            guest_run(g, "{\"op\":\"exec\",\"argv\":[\"none\"]}");
            guest_run(g, "{\"op\":\"stat\",\"path\":\"/\"}");
            guest_close(g, guest_open(g, "{\"op\":\"watch\",\"path\":\"/tmp\"}"));
            uint32_t ch = guest_open(g, "{\"op\":\"exec\",\"argv\":[\"cat\"],\"stdin\":true}");
            guest_data(g, ch, "x", 1, true);
            guest_wait_end(g, ch);
            guest_wait_end(g, ch - 1);
        }
    }
    assert_int_equal(counts[0], counts[1]);
    guest_stop(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_packets_end_it),
        cmocka_unit_test(overrun_ends_it),
        cmocka_unit_test(random_garbage),
        cmocka_unit_test(late_frames_are_forgiven),
        cmocka_unit_test(long_requests),
        cmocka_unit_test(reset_forgets_everything),
        cmocka_unit_test(reset_after_a_dead_daemon),
        cmocka_unit_test(channel_zero),
        cmocka_unit_test(small_and_soon_small_again),
        cmocka_unit_test(no_leaks),
    };
    return guest_tests_main(argc, argv, "guest_stream", tests, sizeof tests / sizeof *tests);
}
