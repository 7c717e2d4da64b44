#include "api/json_text.h"

#include <stdlib.h>
#include <string.h>

/* Line and column (from 1) of an offset, for the message. */
static void place(const char *text, size_t at, size_t *line, size_t *column) {
    *line = *column = 1;
    for (size_t i = 0; i < at; i++, (*column)++)
        if (text[i] == '\n') {
            ++*line;
            *column = 0;
        }
}

static int refuse(struct err *e, const char *text, size_t at, const char *why) {
    size_t line, column;
    place(text, at, &line, &column);
    return err_hint(e, ERR_INVALID, "the body must be one JSON object in UTF-8",
                    "the body is not valid JSON at line %zu, column %zu: %s", line, column, why);
}

static unsigned hex4(const char *p, size_t n) {
    unsigned value = 0;
    for (size_t i = 0; i < 4; i++) {
        if (i >= n) return 0x10000;
        char c = p[i];
        if (c >= '0' && c <= '9')
            value = value << 4 | (unsigned)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value << 4 | (unsigned)((c | 32) - 'a' + 10);
        else
            return 0x10000;
    }
    return value;
}

/* Over the string that begins behind its quote at text[i]: returns the offset of the closing quote (or n). *bad is set
 * for half a surrogate pair, which json-c would replace silently; *nul for a NUL. */
static size_t scan_string(const char *text, size_t i, size_t n, bool *bad, bool *nul) {
    for (; i < n && text[i] != '"'; i++) {
        if (text[i] != '\\') continue;
        if (++i >= n || text[i] != 'u') continue;
        unsigned unit = hex4(text + i + 1, n - i - 1);
        *nul |= unit == 0;
        if (unit >= 0xdc00 && unit <= 0xdfff) *bad = true;
        if (unit < 0xd800 || unit > 0xdbff) continue;
        unsigned low = i + 6 < n && text[i + 5] == '\\' && text[i + 6] == 'u' ? hex4(text + i + 7, n - i - 7) : 0;
        if (low < 0xdc00 || low > 0xdfff)
            *bad = true;
        else
            i += 10;
    }
    return i;
}

/* What json-c takes although it is strict, and we do not: 'quotes', NaN, Infinity, half surrogate pairs, and NUL in a
 * name (which it would cut there). NULL when there is none of it, else why, with its offset. */
static const char *find_foreign(const char *text, size_t n, size_t *at) {
    for (size_t i = 0; i < n; i++) {
        *at = i;
        if (text[i] == '\'' || text[i] == 'N' || text[i] == 'I') return "unexpected character";
        if (text[i] != '"') continue;
        bool bad = false, nul = false;
        i = scan_string(text, i + 1, n, &bad, &nul);
        if (bad) return "half of a surrogate pair";
        size_t next = i + 1;
        while (next < n && text[next] && strchr(" \t\r\n", text[next])) next++;
        if (nul && next < n && text[next] == ':') return "a name with a NUL character";
    }
    return NULL;
}

/* The first string or name with a NUL byte, or NULL. C strings travel below this floor: a NUL would cut them silently.
 */
static const char *find_nul(struct json_object *value, int depth) {
    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, name, field) {
            bool free_text = depth == 0 && (!strcmp(name, "code") || !strcmp(name, "stdin") || !strcmp(name, "input"));
            if (json_object_is_type(field, json_type_string)) {
                if (!free_text && memchr(json_object_get_string(field), 0, (size_t)json_object_get_string_len(field)))
                    return name;
            } else if (find_nul(field, depth + 1)) {
                return name;
            }
        }
    } else if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            struct json_object *item = json_object_array_get_idx(value, i);
            if (json_object_is_type(item, json_type_string)) {
                if (memchr(json_object_get_string(item), 0, (size_t)json_object_get_string_len(item))) return "list";
            } else if (find_nul(item, depth + 1)) {
                return "list";
            }
        }
    }
    return NULL;
}

static size_t blanks(const char *text, size_t n) {
    size_t skip = 0;
    while (skip < n && strchr(" \t\r\n", text[skip]) && text[skip]) skip++;
    return skip;
}

/* One value and nothing behind it. New reference in *out. */
static int parse_value(const char *text, size_t n, struct json_object **out, struct err *e) {
    size_t at = utf8_valid_until(text, n); /* json-c's own flag lets overlong forms through */
    if (at < n) return refuse(e, text, at, "not UTF-8");
    const char *foreign = find_foreign(text, n, &at);
    if (foreign) return refuse(e, text, at, foreign);
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
    if (!tokener) abort();
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    struct json_object *value = json_tokener_parse_ex(tokener, text, (int)n);
    enum json_tokener_error why = json_tokener_get_error(tokener);
    size_t end = json_tokener_get_parse_end(tokener);
    json_tokener_free(tokener);
    if (why == json_tokener_continue) return refuse(e, text, n, "it ends too early");
    if (why != json_tokener_success) {
        json_object_put(value);
        return refuse(e, text, end < n ? end : n, json_tokener_error_desc(why));
    }
    while (end < n && text[end] && strchr(" \t\r\n", text[end])) end++;
    if (end < n) {
        json_object_put(value);
        return refuse(e, text, end, "something follows the object");
    }
    *out = value;
    return 0;
}

/* depth 0: the fields of a body that are free text may have NULs. */
static int refuse_nul(struct json_object **value, int depth, struct err *e) {
    const char *nul = find_nul(*value, depth);
    if (!nul) return 0;
    err_set(e, ERR_INVALID, "the field \"%.64s\" has a NUL character", nul);
    json_object_put(*value);
    *value = NULL;
    return -1;
}

int json_parse_object(const char *text, size_t n, struct json_object **out, struct err *e) {
    *out = NULL;
    size_t skip = blanks(text, n);
    if (skip == n) return 0;
    if (parse_value(text, n, out, e) < 0) return -1;
    if (!json_object_is_type(*out, json_type_object)) {
        json_object_put(*out);
        *out = NULL;
        return refuse(e, text, skip, "it is not an object");
    }
    return refuse_nul(out, 0, e);
}

int json_parse_document(const char *text, size_t n, struct json_object **out, struct err *e) {
    *out = NULL;
    size_t skip = blanks(text, n);
    if (skip == n) return err_set(e, ERR_INVALID, "the body is empty");
    if (parse_value(text, n, out, e) < 0) return -1;
    if (!json_object_is_type(*out, json_type_object) && !json_object_is_type(*out, json_type_array)) {
        json_object_put(*out);
        *out = NULL;
        return refuse(e, text, skip, "it is neither an object nor a list");
    }
    return refuse_nul(out, 1, e);
}

void json_put_text(struct buf *b, const char *text, size_t n) {
    static const char digits[] = "0123456789abcdef";
    size_t from = 0;
    buf_append(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) continue;
        buf_append(b, text + from, i - from);
        from = i + 1;
        char escape[6] = {'\\', (char)c, '0', '0', digits[c >> 4], digits[c & 15]};
        size_t length = 2;
        switch (c) {
        case '"':
        case '\\': break;
        case '\n': escape[1] = 'n'; break;
        case '\r': escape[1] = 'r'; break;
        case '\t': escape[1] = 't'; break;
        default: escape[1] = 'u'; length = 6;
        }
        buf_append(b, escape, length);
    }
    buf_append(b, text + from, n - from);
    buf_append(b, "\"", 1);
}

bool json_put_bytes(struct buf *b, struct utf8_tail *tail, const void *bytes, size_t n, bool last) {
    if (!tail->n && utf8_valid(bytes, n)) { /* the usual case needs no copy */
        if (!n) return false;
        json_put_text(b, bytes, n);
        return true;
    }
    struct buf clean = {0};
    utf8_clean(tail, bytes, n, last, &clean);
    if (clean.len) json_put_text(b, clean.data, clean.len);
    bool any = clean.len > 0;
    buf_free(&clean);
    return any;
}

void json_put(struct buf *b, struct json_object *value) {
    size_t n;
    const char *text =
        json_object_to_json_string_length(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    buf_append(b, text, n);
}

struct json_object *json_field(struct json_object *object, const char *name) {
    struct json_object *field = NULL;
    if (object) json_object_object_get_ex(object, name, &field);
    return field;
}

int json_get_text(struct json_object *object, const char *name, const char **out, struct err *e) {
    struct json_object *field = json_field(object, name);
    *out = NULL;
    if (!field) return 0;
    if (!json_object_is_type(field, json_type_string)) return err_set(e, ERR_INVALID, "\"%s\" must be a string", name);
    *out = json_object_get_string(field);
    return 0;
}

int json_get_int(struct json_object *object, const char *name, long long low, long long high, long long *out,
                 struct err *e) {
    struct json_object *field = json_field(object, name);
    if (!field) return 0;
    long long value = json_object_is_type(field, json_type_int) ? json_object_get_int64(field) : low - 1;
    if (value < low || value > high)
        return err_set(e, ERR_INVALID, "\"%s\" must be a whole number from %lld to %lld", name, low, high);
    *out = value;
    return 0;
}

int json_get_flag(struct json_object *object, const char *name, bool *out, struct err *e) {
    struct json_object *field = json_field(object, name);
    if (!field) return 0;
    if (!json_object_is_type(field, json_type_boolean))
        return err_set(e, ERR_INVALID, "\"%s\" must be true or false", name);
    *out = json_object_get_boolean(field);
    return 0;
}

void json_set(struct json_object *object, const char *name, struct json_object *value) {
    json_object_object_add(object, name, value);
}
void json_set_text(struct json_object *object, const char *name, const char *value) {
    json_object_object_add(object, name, value ? json_object_new_string(value) : NULL);
}
void json_set_int(struct json_object *object, const char *name, long long value) {
    json_object_object_add(object, name, json_object_new_int64(value));
}
void json_set_flag(struct json_object *object, const char *name, bool value) {
    json_object_object_add(object, name, json_object_new_boolean(value));
}
