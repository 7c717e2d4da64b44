/* e2b_files_multipart.h: multipart/form-data taken apart while it comes, whatever the pieces it comes in. Pure, any thread.
 *
 * The caller pulls: it offers bytes and gets one event at a time, so that it can stop anywhere (its disk is slow, a part has to be finished)
 * and go on later with what was not used. Nothing of a part's data is kept here but up to one delimiter; headers are bounded.
 * Strict: what is not whole, down to the closing delimiter, never gives MULTIPART_END. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

#define MULTIPART_BOUNDARY_MAX 70 /* RFC 2046 */
#define MULTIPART_HEADERS_MAX 8192

enum multipart_event {
    MULTIPART_MORE,     /* everything was used; offer more */
    MULTIPART_PART,     /* a part begins: name and filename are set */
    MULTIPART_DATA,     /* data and size: bytes of the part; say with multipart_took() how many were taken, then ask again */
    MULTIPART_PART_END, /* the part is whole */
    MULTIPART_END,      /* the body is whole; what follows is ignored */
    MULTIPART_BAD,      /* *e says why; it stays so */
};

struct multipart {
    /* of the newest part, until the next one */
    char *name, *filename; /* UTF-8 or not: as it came, unescaped; NULL: none */
    const char *data;      /* MULTIPART_DATA: in the offered bytes, or in the delimiter below */
    size_t size;

    /* inside */
    char delimiter[MULTIPART_BOUNDARY_MAX + 5]; /* "\r\n--boundary" */
    size_t length, matched, held, held_at, borrowed;
    int state;
    struct buf headers;
};

/* From a Content-Type header. invalid_request when it is no multipart/form-data with a usable boundary. */
int multipart_open(struct multipart *, const char *content_type, struct err *);
void multipart_close(struct multipart *);
/* *used: how many of the n bytes are done with; offer the rest again (at once, or with the next ones behind it). */
enum multipart_event multipart_next(struct multipart *, const char *bytes, size_t n, size_t *used, struct err *);
/* After MULTIPART_DATA: n <= size bytes were taken; returns how many of the offered bytes that used up. */
size_t multipart_took(struct multipart *, size_t n);
