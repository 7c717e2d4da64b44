/* clock.h: time in integers with the unit in the name. */
#pragma once
#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
/* For durations and deadlines; never goes back. */
static inline int64_t monotonic_us(void) { return clock_ns(CLOCK_MONOTONIC) / 1000; }
static inline int64_t monotonic_ms(void) { return clock_ns(CLOCK_MONOTONIC) / 1000000; }
/* Since 1970, for what is stored and shown. */
static inline int64_t wall_ms(void) { return clock_ns(CLOCK_REALTIME) / 1000000; }
