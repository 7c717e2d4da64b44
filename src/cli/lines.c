#include "cli/lines.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

static bool document(struct lines *l, const char *event, const char *text, size_t n) {
    struct json_tokener *tokener = json_tokener_new();
    if (!tokener) return false;
    struct json_object *value =
        json_tokener_parse_ex(tokener, text, (int)n + 1); /* with the NUL: a number at the end is complete */
    bool whole = json_tokener_get_error(tokener) == json_tokener_success;
    json_tokener_free(tokener);
    if (!whole) l->broken = true;
    bool go_on = whole && l->on_event(l->arg, event, value);
    json_object_put(value);
    return go_on;
}

static bool sse_line(struct lines *l, const char *line, size_t n) {
    if (n == 0) { /* an empty line ends the event */
        bool go_on = l->data.len == 0 || document(l, l->event, l->data.data, l->data.len);
        buf_clear(&l->data);
        l->event[0] = 0;
        return go_on;
    }
    const char *colon = memchr(line, ':', n);
    if (colon == line || !colon) return true; /* comment, or a field without value */
    const char *value = colon + 1 + (colon + 1 < line + n && colon[1] == ' ');
    size_t length = (size_t)(line + n - value), name = (size_t)(colon - line);
    if (name == 5 && memcmp(line, "event", 5) == 0) {
        (void)snprintf(l->event, sizeof l->event, "%.*s", (int)length, value);
    } else if (name == 4 && memcmp(line, "data", 4) == 0) {
        if (l->data.len) buf_str(&l->data, "\n");
        buf_append(&l->data, value, length);
    }
    return true;
}

bool lines_feed(struct lines *l, const char *bytes, size_t n) {
    while (n > 0) {
        const char *end = memchr(bytes, '\n', n);
        size_t piece = end ? (size_t)(end - bytes) : n;
        if (l->part.len + l->data.len + piece > LINES_MAX) {
            l->broken = true;
            return false;
        }
        buf_append(&l->part, bytes, piece);
        if (!end) return true;
        bytes += piece + 1;
        n -= piece + 1;
        size_t length = l->part.len;
        if (length && l->part.data[length - 1] == '\r') l->part.data[--length] = 0;
        bool go_on = l->sse ? sse_line(l, l->part.data, length) : length == 0 || document(l, "", l->part.data, length);
        buf_clear(&l->part);
        if (!go_on) return false;
    }
    return true;
}

void lines_free(struct lines *l) {
    buf_free(&l->part);
    buf_free(&l->data);
}
