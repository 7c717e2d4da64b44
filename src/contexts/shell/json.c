#include "contexts/shell/json.h"

#include <config.h>

#include <bashtypes.h>
#include <shell.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

const char *json_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

/* Behind the string that begins at `at`, or NULL. */
static const char *string_end(const char *at, const char *end) {
    if (at >= end || *at != '"') return NULL;
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\') at++;
    return at < end ? at + 1 : NULL;
}

/* Behind the value that begins at `at`, or NULL. Brackets are counted, not matched: the peer is the daemon. */
static const char *value_end(const char *at, const char *end) {
    int depth = 0;
    do {
        at = json_space(at, end);
        if (at >= end) return NULL;
        if (*at == '"') {
            at = string_end(at, end);
            if (!at) return NULL;
        } else {
            if (*at == '[' || *at == '{') depth++;
            if (*at == ']' || *at == '}') depth--;
            at++;
            if (depth == 0 && at[-1] != ']' && at[-1] != '}') /* a number or a word */
                while (at < end && !strchr(",]} \t\r\n", *at)) at++;
        }
    } while (depth > 0);
    return at;
}

const char *json_member(const char *text, size_t n, const char *name) {
    const char *end = text + n, *at = json_space(text, end);
    if (at >= end || *at != '{') return NULL;
    at = json_space(at + 1, end);
    while (at < end && *at == '"') {
        const char *key = at + 1, *after = string_end(at, end);
        if (!after) return NULL;
        bool found = (size_t)(after - 1 - key) == strlen(name) && memcmp(key, name, strlen(name)) == 0;
        at = json_space(after, end);
        if (at >= end || *at != ':') return NULL;
        at = json_space(at + 1, end);
        if (found) return at < end ? at : NULL;
        at = value_end(at, end);
        if (!at) return NULL;
        at = json_space(at, end);
        if (at < end && *at == ',') at = json_space(at + 1, end);
    }
    return NULL;
}

static int unicode_escape(const char *at, const char *end) {
    unsigned value = 0;
    if (end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef", *found = strchr(digits, at[i] | 0x20);
        if (!at[i] || !found) return -1;
        value = value << 4 | (unsigned)(found - digits);
    }
    return (int)value;
}

static size_t put_utf8(char *out, unsigned c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63)), out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* The escape behind a backslash at *at; moves behind it. */
static size_t unescape(const char **at, const char *end, char *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = *(*at)++;
    const char *found = c ? strchr(from, c) : NULL;
    if (found) return *out = to[found - from], 1;
    int first = c == 'u' ? unicode_escape(*at, end) : -1;
    if (first < 0) return 0;
    *at += 4;
    if (first >= 0xD800 && first < 0xDC00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        int second = unicode_escape(*at + 2, end);
        if (second >= 0xDC00 && second < 0xE000) {
            *at += 6;
            return put_utf8(out, 0x10000u + ((unsigned)(first - 0xD800) << 10) + (unsigned)(second - 0xDC00));
        }
    }
    return put_utf8(out, first >= 0xD800 && first < 0xE000 ? 0xFFFDu : (unsigned)first);
}

bool json_string(const char **at, const char *end, char **out) {
    const char *after = string_end(*at, end), *p = *at + 1;
    if (!after) return false;
    char *text = xmalloc((size_t)(after - p)), *to = text; /* no escape is longer than what it stands for */
    while (p < after - 1) {
        if (*p != '\\') {
            *to++ = *p++;
            continue;
        }
        p++;
        size_t n = unescape(&p, after - 1, to);
        if (!n) {
            xfree(text);
            return false;
        }
        to += n;
    }
    *to = 0;
    *at = after;
    *out = text;
    return true;
}

void text_add(struct text *t, const char *bytes, size_t n) {
    if (n > t->cap - t->len) {
        t->cap = (t->len + n) * 2 + 256;
        t->data = xrealloc(t->data, t->cap);
    }
    memcpy(t->data + t->len, bytes, n);
    t->len += n;
}

/* Bytes of the UTF-8 character at p, 0 when it is none. */
static size_t utf8_length(const uint8_t *p, size_t n) {
    size_t length = *p < 0x80 ? 1 : *p >= 0xC2 && *p < 0xE0 ? 2 : (*p & 0xF0) == 0xE0 ? 3 : *p >= 0xF0 && *p < 0xF5 ? 4 : 0;
    if (!length || length > n) return 0;
    for (size_t i = 1; i < length; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    if (*p == 0xE0 && p[1] < 0xA0) return 0;
    if (*p == 0xED && p[1] >= 0xA0) return 0;
    if (*p == 0xF0 && p[1] < 0x90) return 0;
    if (*p == 0xF4 && p[1] >= 0x90) return 0;
    return length;
}

void text_add_json(struct text *t, const char *bytes, size_t n, size_t max) {
    const uint8_t *p = (const uint8_t *)bytes;
    size_t keep = n <= max ? n : max > 3 ? max - 3 : 0, at = 0;
    text_add(t, "\"", 1);
    while (at < keep) {
        size_t length = utf8_length(p + at, n - at);
        char escape[8];
        if (length > keep - at) break; /* cut between characters */
        if (length == 0)
            text_add(t, "\xEF\xBF\xBD", 3), length = 1;
        else if (p[at] == '"' || p[at] == '\\')
            text_add(t, escape, (size_t)snprintf(escape, sizeof escape, "\\%c", p[at]));
        else if (p[at] < 0x20)
            text_add(t, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", p[at]));
        else
            text_add(t, bytes + at, length);
        at += length;
    }
    if (keep < n) text_add(t, "...", 3);
    text_add(t, "\"", 1);
}
