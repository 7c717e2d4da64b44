/* figures.h: results as files. A MIME bundle {"image/png": base64, "image/svg+xml": text, …} → DIR/figure-1.png, … */
#pragma once
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

struct json_object;

struct figures {
    const char *directory; /* NULL: save nothing */
    unsigned count;        /* figures seen */
};
/* Save every picture of the bundle; the paths written are appended to `said`, one a line. Never overwrites by following
 * a link. */
int figures_save(struct figures *, struct json_object *bundle, struct buf *said, struct err *);
/* Number of pictures in a bundle. */
int figures_in(struct json_object *bundle);
/* Decode base64 (line breaks allowed) and append to out. -1: it is none. */
int base64_decode(const char *text, size_t n, struct buf *out);
