#include "api/query.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/utf8.h"

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

long percent_decode(char *text, bool plus) {
    char *to = text;
    for (const char *from = text; *from; from++) {
        char c = *from;
        if (c == '%') {
            int high = hex_digit(from[1]), low = high < 0 ? -1 : hex_digit(from[2]);
            if (low < 0) return -1;
            c = (char)(high << 4 | low);
            if (!c) return -1;
            from += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        *to++ = c;
    }
    *to = 0;
    return utf8_valid(text, (size_t)(to - text)) ? to - text : -1;
}

int query_parse(struct query *q, const char *text, struct err *e) {
    *q = (struct query){0};
    if (!text || !*text) return 0;
    q->text = strdup(text);
    if (!q->text) abort();
    for (char *rest = q->text, *field; (field = strsep(&rest, "&"));) {
        if (!*field) continue;
        if (q->count == QUERY_FIELDS_MAX)
            return err_set(e, ERR_INVALID, "the query has more than %d fields", QUERY_FIELDS_MAX);
        char *value = strchr(field, '=');
        if (value) *value++ = 0;
        if (percent_decode(field, true) < 0 || (value && percent_decode(value, true) < 0))
            return err_hint(e, ERR_INVALID, "write it as UTF-8 with %XX escapes", "the query is not valid: field %zu",
                            q->count + 1);
        q->fields[q->count].name = field;
        q->fields[q->count++].value = value ? value : "";
    }
    return 0;
}

void query_free(struct query *q) {
    free(q->text);
    *q = (struct query){0};
}

const char *query_get(const struct query *q, const char *name) {
    for (size_t i = 0; i < q->count; i++)
        if (strcmp(q->fields[i].name, name) == 0) return q->fields[i].value;
    return NULL;
}

bool query_flag(const struct query *q, const char *name, bool *bad) {
    const char *value = query_get(q, name);
    if (!value) return false;
    if (!*value || !strcmp(value, "1") || !strcmp(value, "true") || !strcmp(value, "yes")) return true;
    if (strcmp(value, "0") && strcmp(value, "false") && strcmp(value, "no")) *bad = true;
    return false;
}

int query_number(const struct query *q, const char *name, long long low, long long high, long long fallback,
                 long long *out, struct err *e) {
    const char *value = query_get(q, name);
    *out = fallback;
    if (!value) return 0;
    char *end;
    errno = 0;
    long long got = strtoll(value, &end, 10);
    if (errno || end == value || *end || *value == ' ' || got < low || got > high)
        return err_set(e, ERR_INVALID, "the query field \"%s\" must be a whole number from %lld to %lld", name, low,
                       high);
    *out = got;
    return 0;
}
