#include "cell/text.h"

#include <json-c/json.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Length of the valid character at p, or 0. Ranges of RFC 3629: no overlong forms, no surrogates, nothing above
 * U+10FFFF. */
static size_t character(const uint8_t *p, size_t n) {
    uint8_t c = p[0], low = 0x80, high = 0xbf;
    if (c < 0x80) return 1;
    size_t need = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (!need || n < need) return 0;
    if (c == 0xe0) low = 0xa0;
    if (c == 0xed) high = 0x9f;
    if (c == 0xf0) low = 0x90;
    if (c == 0xf4) high = 0x8f;
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < need; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return need;
}

/* Bytes from p on that are valid. */
static size_t valid_run(const uint8_t *p, size_t n) {
    size_t at = 0;
    while (at < n) {
        uint64_t eight;
        if (n - at >= 8 && (memcpy(&eight, p + at, 8), !(eight & 0x8080808080808080u))) {
            at += 8;
            continue;
        }
        size_t step = character(p + at, n - at);
        if (!step) break;
        at += step;
    }
    return at;
}

void text_append_utf8(struct buf *out, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    while (n) {
        size_t good = valid_run(p, n);
        buf_append(out, p, good);
        p += good;
        n -= good;
        if (!n) break;
        buf_append(out, "\xef\xbf\xbd", 3);
        p++;
        n--;
    }
}

struct json_object *text_json(const void *bytes, size_t n) {
    if (n > INT_MAX) n = INT_MAX;
    if (!n) return json_object_new_string("");
    if (valid_run(bytes, n) == n) return json_object_new_string_len(bytes, (int)n);
    struct buf clean = {0};
    text_append_utf8(&clean, bytes, n);
    struct json_object *o = json_object_new_string_len(clean.data, (int)(clean.len > INT_MAX ? INT_MAX : clean.len));
    buf_free(&clean);
    return o;
}

struct json_object *text_number(double v) {
    char text[40];
    int n = snprintf(text, sizeof text, "%.3f", v);
    while (n > 0 && text[n - 1] == '0') text[--n] = 0;
    if (n > 0 && text[n - 1] == '.') text[n - 1] = 0;
    return json_object_new_double_s(v, text);
}

size_t text_partial_tail(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = p[n - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t need = (c & 0xe0) == 0xc0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : (c & 0xf8) == 0xf0 ? 4 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

/* Position of the quote that ends the string whose first byte is at i; n when there is none. Linear also for strings
 * made of escapes: the next quote is looked up again only after it was passed. */
static size_t string_end(const char *p, size_t n, size_t i) {
    const char *quote = NULL;
    while (i < n) {
        if (!quote || quote < p + i) quote = memchr(p + i, '"', n - i);
        if (!quote) return n;
        const char *slash = memchr(p + i, '\\', (size_t)(quote - p) - i);
        if (!slash) return (size_t)(quote - p);
        i = (size_t)(slash - p) + 2;
    }
    return n;
}

/* What the parsed form costs, in units of some 100 bytes, is bounded before it is made: json-c takes 700 bytes for an
 * empty object and 400 for an empty array. */
static bool few_values(const char *p, size_t n, size_t max) {
    size_t seen = 0;
    for (size_t i = 0; i < n && seen <= max; i++) {
        switch (p[i]) {
        case '"': i = string_end(p, n, i + 1); break;
        case '{': seen += 7; break;
        case '[': seen += 4; break;
        case ',': seen++; break;
        case '\'':              /* json-c also takes keys in single quotes and comments: a quote inside of one would */
        case '/': return false; /* hide the rest of the text from this count */
        default: break;
        }
    }
    return seen <= max;
}

struct json_object *text_parse_object(const void *bytes, size_t n, size_t max_values) {
    static struct json_tokener *tokener; /* kept: making one costs more than most documents */
    if (n >= INT_MAX || !few_values(bytes, n, max_values)) return NULL;
    /* deeper than what people display (the library's own bound is 32), shallow enough for recursion */
    if (!tokener && !(tokener = json_tokener_new_ex(512))) return NULL;
    json_tokener_reset(tokener);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *o = json_tokener_parse_ex(tokener, bytes, (int)n);
    if (json_tokener_get_error(tokener) == json_tokener_success && json_tokener_get_parse_end(tokener) == n &&
        json_object_is_type(o, json_type_object))
        return o;
    json_object_put(o);
    return NULL;
}

const char *text_field(struct json_object *o, const char *key) {
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string)) return NULL;
    const char *s = json_object_get_string(v);
    return strlen(s) == (size_t)json_object_get_string_len(v) ? s : NULL;
}
