/* The relays of a machine (guest/machine_relay.h), with socket pairs in the place of vsock. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "guest/loop.h"
#include "guest/machine_relay.h"
#include "wire/machine_proto.h"

static unsigned ended_count, ended_index;

static void ended(unsigned index) {
    ended_count++;
    ended_index = index;
}

/* A context's side and the host's side of relay `slot`. */
struct rig {
    unsigned slot;
    int host, stream, out, err;
};

static int host_new(unsigned slot) {
    const struct timeval limit = {20, 0};
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    relay_connect(slot, pair[1]);
    return pair[0];
}

static struct rig rig_new(unsigned slot) {
    const struct timeval limit = {20, 0};
    struct rig g = {.slot = slot};
    int stream[2], out[2], err[2];
    struct err e;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, stream) | pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
    g.host = host_new(slot);
    const struct relay_ends ends = {.inner = stream[0], .far = fcntl(stream[1], F_DUPFD_CLOEXEC, 0), .out = out[0], .err = err[0]};
    assert_int_equal(relay_attach(slot, &ends, &e), 0);
    g.stream = stream[1], g.out = out[1], g.err = err[1];
    assert_int_equal(setsockopt(g.stream, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    return g;
}

static void rig_wait_end(struct rig *g) {
    struct err e;
    struct loop_timer tick = {.fire = (void (*)(void *))abort};
    const unsigned before = ended_count;
    loop_after(&tick, 20000);
    while (ended_count == before) assert_int_equal(loop_round(&e), 0);
    loop_cancel(&tick);
    assert_int_equal(ended_index, g->slot);
}

static void rig_free(struct rig *g) {
    close_fd(&g->stream);
    close_fd(&g->out);
    close_fd(&g->err);
    relay_finish(g->slot);
    rig_wait_end(g);
    close_fd(&g->host);
}

static uint8_t buffer[1 << 17];

static void expect(int host, uint8_t tag, const void *bytes, size_t n) {
    const ssize_t got = recv(host, buffer, sizeof buffer, 0);
    assert_int_equal(got, n + 1);
    assert_int_equal(buffer[0], tag);
    assert_memory_equal(buffer + 1, bytes, n);
}

static void await_quiet(unsigned slot) {
    for (int i = 0; i < 20000 && !relay_quiet(slot); i++) usleep(1000);
    assert_true(relay_quiet(slot));
}

static void fill(uint8_t *at, size_t n) {
    for (size_t i = 0; i < n; i++) at[i] = (uint8_t)(i * 7 + i / 256);
}

static void output_comes_before_the_packet_that_follows_it(void **state) {
    (void)state;
    struct rig g = rig_new(0);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(write(g.out, "printed", 7), 7);
        assert_int_equal(write(g.err, "warned", 6), 6);
        assert_int_equal(send(g.stream, "done", 4, 0), 4);
        bool out = false, err = false;
        for (int k = 0; k < 2; k++) {
            const ssize_t n = recv(g.host, buffer, sizeof buffer, 0);
            assert_true(n == (buffer[0] == MACHINE_PIECE_STDOUT ? 8 : 7));
            out |= buffer[0] == MACHINE_PIECE_STDOUT;
            err |= buffer[0] == MACHINE_PIECE_STDERR;
        }
        assert_true(out && err);
        expect(g.host, MACHINE_PIECE_STREAM, "done", 4);
    }
    rig_free(&g);
}

static void packets_of_every_size_arrive_whole(void **state) {
    (void)state;
    static uint8_t packet[65536], joined[1 << 17];
    struct rig g = rig_new(1);
    const size_t sizes[] = {1, 2, 65534, 65535, 65536};
    fill(packet, sizeof packet);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(send(g.stream, packet, sizes[i], 0), sizes[i]);
        size_t n = 0;
        do {
            const ssize_t got = recv(g.host, buffer, sizeof buffer, 0);
            assert_true(got >= 2 && got <= (ssize_t)MACHINE_PIECE_MAX + 1);
            assert_int_equal(buffer[0] & ~MACHINE_PIECE_MORE, MACHINE_PIECE_STREAM);
            memcpy(joined + n, buffer + 1, (size_t)got - 1);
            n += (size_t)got - 1;
        } while (buffer[0] & MACHINE_PIECE_MORE);
        assert_int_equal(n, sizes[i]);
        assert_memory_equal(joined, packet, n);
        /* and back, in pieces of 30,000 */
        for (size_t at = 0; at < n; at += 30000) {
            const size_t part = n - at < 30000 ? n - at : 30000;
            buffer[0] = MACHINE_PIECE_STREAM | (at + part < n ? MACHINE_PIECE_MORE : 0);
            memcpy(buffer + 1, packet + at, part);
            assert_int_equal(send(g.host, buffer, part + 1, 0), part + 1);
        }
        assert_int_equal(recv(g.stream, joined, sizeof joined, 0), n);
        assert_memory_equal(joined, packet, n);
    }
    rig_free(&g);
}

/* A host that does not read makes the context wait; it gets everything in order when it reads. */
static void nothing_is_lost_when_the_host_is_slow(void **state) {
    (void)state;
    enum { TOTAL = 4 << 20 };
    struct rig g = rig_new(2);
    const pid_t writer = fork();
    if (writer == 0) {
        for (uint32_t i = 0; i < TOTAL / 4; i++)
            if (write(g.out, &i, 4) != 4) _exit(1);
        if (send(g.stream, "done", 4, 0) != 4) _exit(1);
        _exit(0);
    }
    usleep(300000);
    assert_false(relay_quiet(2));
    uint32_t next = 0;
    size_t half = 0;
    uint8_t word[4];
    for (;;) {
        const ssize_t n = recv(g.host, buffer, sizeof buffer, 0);
        assert_true(n > 1);
        if (buffer[0] == MACHINE_PIECE_STREAM) break;
        for (ssize_t i = 1; i < n; i++) {
            word[half++] = buffer[i];
            if (half < 4) continue;
            half = 0;
            assert_memory_equal(word, &next, 4);
            next++;
        }
    }
    assert_int_equal(next, TOTAL / 4);
    await_quiet(2);
    rig_free(&g);
}

/* Towards the cell: the same. */
static void nothing_is_lost_when_the_context_is_slow(void **state) {
    (void)state;
    struct rig g = rig_new(3);
    uint8_t piece[2000] = {MACHINE_PIECE_STREAM};
    uint32_t sent = 0, got = 0;
    for (; sent < 100000; sent++) {
        memcpy(piece + 1, &sent, 4);
        if (send(g.host, piece, sizeof piece, MSG_DONTWAIT) < 0) {
            assert_int_equal(errno, EAGAIN);
            if (got == 0) usleep(100000); /* everything that can fill up is full */
            assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), sizeof piece - 1);
            assert_memory_equal(buffer, &got, 4);
            got++, sent--;
        }
        if (got > 2000) break;
    }
    assert_true(got > 0);
    for (sent++; got < sent; got++) {
        assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), sizeof piece - 1);
        assert_memory_equal(buffer, &got, 4);
    }
    rig_free(&g);
}

static void expect_closed(int host) {
    ssize_t n;
    while ((n = recv(host, buffer, sizeof buffer, 0)) > 0) continue;
    assert_true(n == 0 || errno == ECONNRESET);
}

static void a_host_that_breaks_the_protocol_loses_its_connection(void **state) {
    (void)state;
    struct rig g = rig_new(4);
    static uint8_t piece[65536];
    const uint8_t bad[][2] = {{MACHINE_PIECE_STDOUT, 'x'}, {0x40, 'x'}, {0xff, 'x'}};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(send(g.host, bad[i], 2, 0), 2);
        expect_closed(g.host);
        close(g.host);
        g.host = host_new(4);
    }
    piece[0] = MACHINE_PIECE_STREAM; /* an empty packet would be an end of file for the context */
    assert_int_equal(send(g.host, piece, 1, 0), 1);
    expect_closed(g.host);
    close(g.host);
    g.host = host_new(4);
    piece[0] = MACHINE_PIECE_STREAM | MACHINE_PIECE_MORE; /* more than any packet */
    assert_int_equal(send(g.host, piece, sizeof piece, 0), sizeof piece);
    assert_int_equal(send(g.host, piece, sizeof piece, 0), sizeof piece);
    expect_closed(g.host);
    close(g.host);
    g.host = host_new(4);
    assert_int_equal(send(g.host, "\0fine", 5, 0), 5);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 4);
    assert_memory_equal(buffer, "fine", 4);
    rig_free(&g);
}

static void another_connection_goes_on_where_the_old_one_ended(void **state) {
    (void)state;
    struct rig g = rig_new(5);
    assert_int_equal(send(g.host, "\x80half", 5, 0), 5);
    await_quiet(5);
    close(g.host);
    for (int i = 0; i < 20000 && relay_connected(5); i++) usleep(1000);
    assert_false(relay_connected(5));
    assert_int_equal(write(g.out, "while nobody listened", 21), 21);
    assert_int_equal(send(g.stream, "packet", 6, 0), 6);
    g.host = host_new(5);
    expect(g.host, MACHINE_PIECE_STDOUT, "while nobody listened", 21);
    expect(g.host, MACHINE_PIECE_STREAM, "packet", 6);
    assert_int_equal(send(g.host, "\0whole", 6, 0), 6); /* the half packet is forgotten */
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 5);
    assert_int_equal(send(g.host, "\x80half", 5, 0), 5);
    await_quiet(5);
    relay_begin_anew(5);
    assert_int_equal(send(g.host, "\0whole", 6, 0), 6);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 5);
    assert_memory_equal(buffer, "whole", 5);
    rig_free(&g);
}

static void last_words_then_the_end(void **state) {
    (void)state;
    struct rig g = rig_new(6);
    const int background = fcntl(g.out, F_DUPFD_CLOEXEC, 0), heir = fcntl(g.stream, F_DUPFD_CLOEXEC, 0); /* a child of the context that lives on */
    assert_int_equal(write(g.out, "last words", 10), 10);
    assert_int_equal(send(g.stream, "done", 4, 0), 4);
    relay_finish(6);
    rig_wait_end(&g);
    expect(g.host, MACHINE_PIECE_STDOUT, "last words", 10);
    expect(g.host, MACHINE_PIECE_STREAM, "done", 4);
    assert_int_equal(recv(g.host, buffer, sizeof buffer, 0), 0);
    assert_false(relay_connected(6));
    close(background), close(heir), close(g.stream), close(g.out), close(g.err), close(g.host);
}

/* The context is dead, its child never reads, and the host had sent more than the socket takes. */
static void an_end_does_not_wait_for_a_reader(void **state) {
    (void)state;
    struct rig g = rig_new(7);
    uint8_t piece[20000] = {MACHINE_PIECE_STREAM};
    for (int i = 0; i < 200 && send(g.host, piece, sizeof piece, MSG_DONTWAIT) > 0; i++) usleep(500);
    relay_finish(7);
    rig_wait_end(&g);
    expect_closed(g.host);
    close(g.stream), close(g.out), close(g.err), close(g.host);
    g = rig_new(7); /* and the slot serves again */
    assert_int_equal(send(g.stream, "again", 5, 0), 5);
    expect(g.host, MACHINE_PIECE_STREAM, "again", 5);
    assert_int_equal(send(g.host, "\0back", 5, 0), 5);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 4);
    rig_free(&g);
}

static void what_was_not_read_can_be_forgotten(void **state) {
    (void)state;
    struct rig g = rig_new(8);
    for (int i = 0; i < 5; i++) assert_int_equal(send(g.host, "\0old", 4, 0), 4);
    await_quiet(8);
    relay_forget_input(8);
    assert_int_equal(send(g.host, "\0new", 4, 0), 4);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 3);
    assert_memory_equal(buffer, "new", 3);
    rig_free(&g);
}

static void what_was_on_its_way_to_the_original_is_dropped(void **state) {
    (void)state;
    struct rig g = rig_new(9);
    const struct timeval soon = {.tv_usec = 300000};
    for (int i = 0; i < 2000; i++) /* more than the context's socket holds: the relay waits with one in its hands, and more lie behind it */
        if (send(g.host, "\0old", 4, MSG_DONTWAIT) < 0) break;
    usleep(50000);
    relay_copied(9);
    (void)send(g.host, "\200ol", 4, 0); /* half a packet of the original's */
    const uint8_t mark = MACHINE_PIECE_FRESH;
    assert_int_equal(send(g.host, &mark, 1, 0), 1);
    assert_int_equal(send(g.host, "\0new", 4, 0), 4);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 3);
    assert_memory_equal(buffer, "new", 3);
    assert_int_equal(send(g.host, &mark, 1, 0), 1); /* once more: no word of anybody's */
    assert_int_equal(send(g.host, "\0two", 4, 0), 4);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), 3);
    assert_memory_equal(buffer, "two", 3);
    assert_int_equal(setsockopt(g.stream, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon), 0);
    assert_int_equal(recv(g.stream, buffer, sizeof buffer, 0), -1);
    rig_free(&g);
}

static void the_guest_stream_has_no_tags(void **state) {
    (void)state;
    int pair[2];
    struct err e;
    static uint8_t packet[65536];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    const struct relay_ends ends = {.inner = pair[0], .far = -1, .out = -1, .err = -1};
    assert_int_equal(relay_attach(RELAY_GUEST, &ends, &e), 0);
    const int host = host_new(RELAY_GUEST);
    fill(packet, sizeof packet);
    assert_int_equal(send(pair[1], packet, sizeof packet, 0), sizeof packet);
    assert_int_equal(recv(host, buffer, sizeof buffer, 0), sizeof packet);
    assert_memory_equal(buffer, packet, sizeof packet);
    assert_int_equal(send(host, packet, sizeof packet, 0), sizeof packet);
    assert_int_equal(recv(pair[1], buffer, sizeof buffer, 0), sizeof packet);
    assert_memory_equal(buffer, packet, sizeof packet);
    close(host);
}

int main(void) {
    struct err e;
    if (loop_open(&e) < 0 || relays_open(ended, &e) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_comes_before_the_packet_that_follows_it),
        cmocka_unit_test(packets_of_every_size_arrive_whole),
        cmocka_unit_test(nothing_is_lost_when_the_host_is_slow),
        cmocka_unit_test(nothing_is_lost_when_the_context_is_slow),
        cmocka_unit_test(a_host_that_breaks_the_protocol_loses_its_connection),
        cmocka_unit_test(another_connection_goes_on_where_the_old_one_ended),
        cmocka_unit_test(last_words_then_the_end),
        cmocka_unit_test(an_end_does_not_wait_for_a_reader),
        cmocka_unit_test(what_was_not_read_can_be_forgotten),
        cmocka_unit_test(what_was_on_its_way_to_the_original_is_dropped),
        cmocka_unit_test(the_guest_stream_has_no_tags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
