/* lines.h: event streams of the daemon, cut into lines (NDJSON) or events (SSE). Bounded: a line over LINES_MAX ends
 * it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define LINES_MAX (128u << 20) /* a result with figures is one line */

struct json_object;

struct lines {
    struct buf part;
    bool sse;        /* lines are SSE fields; on_event gets the event's name */
    char event[32];  /* SSE: name of the event being read */
    struct buf data; /* SSE: its data */
    /* One JSON document; false ends the stream. event is "" for NDJSON. */
    bool (*on_event)(void *arg, const char *event, struct json_object *borrowed);
    void *arg;
    bool broken; /* too long, or not JSON */
};
/* Feed bytes; false: stop (the handler said so, or broken). */
bool lines_feed(struct lines *, const char *bytes, size_t n);
void lines_free(struct lines *);
