/* buf.h: a growable byte buffer. Owner frees with buf_free; a zeroed struct is an empty buffer.
 * Growth failure aborts the program: memory for a few kilobytes is something the program guarantees itself;
 * whoever appends bytes of a client or a cell checks its own bound first. */
#pragma once
#include <stddef.h>

struct buf {
    char *data; /* always NUL-terminated once anything was appended */
    size_t len, cap;
};

void buf_append(struct buf *b, const void *data, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drop the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);
void buf_clear(struct buf *b); /* keeps the memory */
void buf_free(struct buf *b);
