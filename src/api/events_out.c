#include "api/events_out.h"

#include <string.h>

enum event_format event_format_asked(const struct request *rq) {
    const char *accept = request_header(rq, "Accept");
    if (!accept) return FORMAT_NONE;
    if (strstr(accept, TYPE_SSE)) return FORMAT_SSE;
    if (strstr(accept, TYPE_NDJSON)) return FORMAT_NDJSON;
    return FORMAT_NONE;
}

const char *event_content_type(enum event_format format) { return format == FORMAT_SSE ? TYPE_SSE : TYPE_NDJSON; }

void event_send(struct stream *st, enum event_format format, const char *name, const char *json, size_t n) {
    struct buf line = {0};
    if (format == FORMAT_SSE) buf_printf(&line, "event: %s\ndata: ", name);
    buf_append(&line, json, n);
    buf_str(&line, format == FORMAT_SSE ? "\n\n" : "\n");
    stream_write(st, line.data, line.len);
    buf_free(&line);
}

void event_keepalive(struct stream *st, enum event_format format) {
    static const char comment[] = ": keepalive\n\n", object[] = "{\"type\":\"keepalive\"}\n";
    if (format == FORMAT_SSE)
        stream_write(st, comment, sizeof comment - 1);
    else
        stream_write(st, object, sizeof object - 1);
}
