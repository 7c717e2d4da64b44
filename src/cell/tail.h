/* tail.h: the last bytes of something, with the stream each came from. Private to this floor. Zeroed memory is an empty
 * one. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define TAIL_MAX (256u * 1024)

struct tail {
    struct buf records; /* {u8 stream, u32 length, bytes}… */
    size_t bytes;       /* payload kept */
    uint64_t dropped;
};

void tail_append(struct tail *, int stream, const void *bytes, size_t n);
/* Append what is kept of one stream (-1: all, in the order it came) to out. */
void tail_copy(const struct tail *, int stream, struct buf *out);
/* What is kept, in the order it came. */
void tail_each(const struct tail *, void (*each)(void *arg, int stream, const void *bytes, size_t n), void *arg);
void tail_free(struct tail *);
