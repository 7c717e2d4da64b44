/* The frame codec: what is put comes back, and no byte string makes it read outside the packet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/id.h"
#include "wire/frame.h"

static void round_trip(void **state) {
    (void)state;
    static uint8_t packet[WIRE_PACKET_MAX];
    size_t len = 0, at = 0;
    assert_true(frame_put(packet, &len, 7, FRAME_MORE, 42, "hello", 5));
    assert_true(frame_put(packet, &len, 8, 0, 0xffffffff, NULL, 0));
    struct frame f;
    assert_int_equal(frame_next(packet, len, &at, &f), 1);
    assert_int_equal(f.type, 7);
    assert_int_equal(f.flags, FRAME_MORE);
    assert_int_equal(f.channel, 42);
    assert_int_equal(f.length, 5);
    assert_memory_equal(f.payload, "hello", 5);
    assert_int_equal(frame_next(packet, len, &at, &f), 1);
    assert_int_equal(f.channel, 0xffffffff);
    assert_int_equal(f.length, 0);
    assert_int_equal(frame_next(packet, len, &at, &f), 0);
}

static void full_packet_refuses_more(void **state) {
    (void)state;
    static uint8_t packet[WIRE_PACKET_MAX], body[WIRE_PAYLOAD_MAX];
    size_t len = 0;
    assert_true(frame_put(packet, &len, 1, 0, 1, body, sizeof body));
    assert_int_equal(len, WIRE_PACKET_MAX);
    assert_false(frame_put(packet, &len, 1, 0, 1, NULL, 0));
    assert_int_equal(len, WIRE_PACKET_MAX);
}

static void garbage_stays_inside(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint8_t packet[64];
        random_fill(packet, sizeof packet);
        if (round & 1) memset(packet + 1, 0, 3); /* plausible lengths too */
        size_t len = packet[63] % 64, at = 0;
        struct frame f;
        int got;
        while ((got = frame_next(packet, len, &at, &f)) == 1) {
            assert_true(f.payload + f.length <= packet + len);
            assert_true(at <= len);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(full_packet_refuses_more),
        cmocka_unit_test(garbage_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
