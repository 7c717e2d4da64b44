/* utf8.h: telling UTF-8 from other bytes. Pure functions, any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* True when all n bytes are well-formed UTF-8 (no overlong forms, no surrogates, nothing above U+10FFFF). */
bool utf8_valid(const void *bytes, size_t n);
/* How many bytes from the first on are. */
size_t utf8_valid_until(const void *bytes, size_t n);

/* The start of a character that the last chunk of a stream cut off. Zeroed: nothing held. */
struct utf8_tail {
    uint8_t bytes[4];
    uint8_t n;
};
/* Append a chunk of a byte stream to `out` as well-formed UTF-8: every byte that belongs to no character becomes one
 * U+FFFD, and a character cut by the end of the chunk waits in `tail` for the next call. `last`: nothing follows, so
 * what waits is given out as U+FFFD. */
void utf8_clean(struct utf8_tail *tail, const void *bytes, size_t n, bool last, struct buf *out);
