/* events_out.h: events as lines of JSON or as server-sent events. Pure formatting over stream.h. */
#pragma once
#include <stddef.h>

#include "api/request.h"
#include "api/stream.h"
#include "base/buf.h"

enum event_format { FORMAT_NONE, FORMAT_NDJSON, FORMAT_SSE };

#define TYPE_NDJSON "application/x-ndjson"
#define TYPE_SSE "text/event-stream"

/* What the Accept header asks for; FORMAT_NONE when it asks for neither. */
enum event_format event_format_asked(const struct request *);
const char *event_content_type(enum event_format);
/* Write one event. json: one JSON value on one line. NDJSON drops `name` (the object carries its own "type"). */
void event_send(struct stream *, enum event_format, const char *name, const char *json, size_t n);
/* Something that keeps proxies and clients from thinking the stream dead: an SSE comment or {"type":"keepalive"}. */
void event_keepalive(struct stream *, enum event_format);
