#include "api/compat/e2b_files_multipart.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { PREAMBLE, AFTER_DELIMITER, HEADERS, DATA, DONE, BAD };

static int bad(struct multipart *m, struct err *e, const char *why) {
    m->state = BAD;
    return err_set(e, ERR_INVALID, "the multipart body is malformed: %s", why);
}

/* ---- header parameters: ; name="value" ---- */

static bool is_token(char c) { return c > ' ' && c < 127 && !strchr("()<>@,;:\\\"/[]?=", c); }

/* A quoted value: \" and \\ are escapes, and so are %22, %0D and %0A, which is how browsers write what a quote cannot hold. */
static const char *quoted(const char *p, struct buf *out) {
    static const char *const percent[] = {"%22\"", "%0D\r", "%0A\n"};
    for (p++; *p && *p != '"';) {
        char c = *p;
        size_t skip = 1;
        if (c == '\\' && (p[1] == '"' || p[1] == '\\')) c = p[1], skip = 2;
        for (size_t i = 0; skip == 1 && c == '%' && i < 3; i++)
            if (strncasecmp(p, percent[i], 3) == 0) c = percent[i][3], skip = 3;
        buf_append(out, &c, 1);
        p += skip;
    }
    return *p == '"' ? p + 1 : NULL;
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* RFC 5987: utf-8'language'percent-encoded. Anything else gives NULL. */
static char *extended(const char *text) {
    struct buf out = {0};
    const char *p = strncasecmp(text, "utf-8'", 6) == 0 ? strchr(text + 6, '\'') : NULL;
    if (!p) return NULL;
    for (p++; *p; p++) {
        int high = *p == '%' ? hex(p[1]) : -1, low = high >= 0 ? hex(p[2]) : -1;
        char c = *p;
        if (low >= 0) c = (char)(high << 4 | low);
        if (!c) break;
        buf_append(&out, &c, 1);
        if (low >= 0) p += 2;
    }
    if (!out.data) buf_str(&out, "");
    return out.data;
}

/* The value of a parameter, malloc'ed; NULL when it is not there. *fine is false when the header is malformed. */
static char *parameter(const char *header, const char *name, bool *fine) {
    char *found = NULL;
    const char *p = header + strcspn(header, ";");
    *fine = true;
    while (*p == ';') {
        for (p++; *p == ' ' || *p == '\t'; p++) continue;
        const char *start = p;
        while (is_token(*p)) p++;
        size_t n = (size_t)(p - start);
        if (*p != '=') {
            *fine = !*p && !n; /* a semicolon at the end */
            break;
        }
        struct buf value = {0};
        buf_str(&value, "");
        p++;
        if (*p == '"') {
            p = quoted(p, &value);
        } else {
            const char *from = p;
            p += strcspn(p, "; \t");
            buf_append(&value, from, (size_t)(p - from));
        }
        bool wanted = !found && n == strlen(name) && strncasecmp(start, name, n) == 0;
        if (wanted && p) found = value.data;
        if (!wanted || !p) buf_free(&value);
        if (!p) {
            *fine = false;
            break;
        }
        p += strspn(p, " \t");
    }
    if (*fine && p && *p && *p != ';') *fine = false;
    if (*fine) return found;
    free(found);
    return NULL;
}

/* ---- opening ---- */

int multipart_open(struct multipart *m, const char *type, struct err *e) {
    *m = (struct multipart){0};
    bool fine = false;
    char *boundary = NULL;
    if (type && strncasecmp(type, "multipart/form-data", 19) == 0 && strchr("; \t", type[19])) boundary = parameter(type, "boundary", &fine);
    size_t n = boundary ? strlen(boundary) : 0;
    if (!n || n > MULTIPART_BOUNDARY_MAX || strpbrk(boundary, "\r\n")) {
        free(boundary);
        m->state = BAD;
        return err_set(e, ERR_INVALID, "the body must be multipart/form-data with a boundary");
    }
    memcpy(m->delimiter, "\r\n--", 4);
    memcpy(m->delimiter + 4, boundary, n + 1);
    m->length = n + 4;
    m->matched = 2; /* the first delimiter may stand at the very beginning, without a line break before it */
    free(boundary);
    return 0;
}

void multipart_close(struct multipart *m) {
    buf_free(&m->headers);
    free(m->name);
    free(m->filename);
    m->name = m->filename = NULL;
}

/* ---- looking for the delimiter ---- */

/* Its only \r is its first byte (multipart_open saw to that): after a mismatch a match can begin only at a \r. */
static size_t scan(struct multipart *m, const char *bytes, size_t n, size_t *plain) {
    size_t at = 0;
    *plain = 0;
    if (!m->matched) {
        const char *cr = memchr(bytes, '\r', n);
        at = *plain = cr ? (size_t)(cr - bytes) : n;
        if (at) return at; /* data up to a possible delimiter is given out first */
    }
    while (at < n && m->matched < m->length && bytes[at] == m->delimiter[m->matched]) at++, m->matched++;
    return at;
}

static enum multipart_event give(struct multipart *m, const char *data, size_t n, bool held) {
    m->data = data;
    m->size = n;
    m->held = held ? n : 0;
    return MULTIPART_DATA;
}

size_t multipart_took(struct multipart *m, size_t n) {
    if (!m->held) return n;
    m->held_at += n;
    m->held -= n;
    return 0;
}

static enum multipart_event preamble(struct multipart *m, const char *bytes, size_t n, size_t *used) {
    while (*used < n) {
        size_t plain;
        *used += scan(m, bytes + *used, n - *used, &plain);
        if (plain) continue;
        if (m->matched == m->length) {
            m->matched = 0;
            m->state = AFTER_DELIMITER;
            return MULTIPART_PART_END; /* no event: the caller of this function goes on */
        }
        if (*used < n) m->matched = 0;
    }
    return MULTIPART_MORE;
}

static enum multipart_event data(struct multipart *m, const char *bytes, size_t n, size_t *used) {
    if (m->held) return give(m, m->delimiter + m->held_at, m->held, true);
    size_t plain, seen = scan(m, bytes, n, &plain);
    if (plain) return give(m, bytes, plain, false); /* multipart_took says how many are used */
    *used = seen;
    if (m->matched == m->length) {
        m->matched = m->borrowed = 0;
        m->state = AFTER_DELIMITER;
        return MULTIPART_PART_END;
    }
    if (seen == n) return MULTIPART_MORE;
    /* It only looked like a delimiter: what was taken for its beginning is data. */
    size_t false_start = m->matched - m->borrowed;
    m->held_at = m->borrowed;
    m->matched = m->borrowed = 0;
    if (!false_start) return data(m, bytes, n, used); /* nothing was: seen is 0 */
    return give(m, m->delimiter + m->held_at, false_start, true);
}

/* ---- headers ---- */

static char *take_disposition(struct multipart *m, char *value, bool *fine) {
    if (strncasecmp(value, "form-data", 9) != 0 || !strchr("; \t", value[9])) {
        *fine = false;
        return NULL;
    }
    m->name = parameter(value, "name", fine);
    if (!*fine) return NULL;
    char *plain = parameter(value, "filename", fine);
    char *coded = *fine ? parameter(value, "filename*", fine) : NULL;
    char *decoded = coded ? extended(coded) : NULL;
    free(coded);
    if (!decoded) return plain;
    free(plain);
    return decoded;
}

static int take_headers(struct multipart *m, struct err *e) {
    bool fine = true, seen = false;
    free(m->name);
    free(m->filename);
    m->name = m->filename = NULL;
    if (memchr(m->headers.data, 0, m->headers.len)) return bad(m, e, "a header contains a NUL byte");
    for (char *line = m->headers.data, *end; fine && (end = strstr(line, "\r\n")) && end != line; line = end + 2) {
        *end = 0;
        char *colon = strchr(line, ':');
        if (!colon) return bad(m, e, "a header without a colon");
        bool wanted = colon - line == 19 && strncasecmp(line, "Content-Disposition", 19) == 0;
        if (!wanted) continue;
        if (seen) return bad(m, e, "two Content-Disposition headers in one part");
        seen = true;
        colon++;
        m->filename = take_disposition(m, colon + strspn(colon, " \t"), &fine);
    }
    if (!fine || !m->name) return bad(m, e, "a part needs a header Content-Disposition: form-data with a name");
    buf_clear(&m->headers);
    m->state = DATA;
    m->matched = m->borrowed = 2; /* a part without a body: the delimiter's line break is that of the empty line */
    return 0;
}

/* Collect byte by byte until the empty line: headers are few and short. */
static enum multipart_event headers(struct multipart *m, const char *bytes, size_t n, size_t *used, struct err *e) {
    while (*used < n) {
        buf_append(&m->headers, bytes + (*used)++, 1);
        size_t len = m->headers.len;
        if (len > MULTIPART_HEADERS_MAX) return bad(m, e, "the headers of a part are too long"), MULTIPART_BAD;
        bool empty = len == 2 && memcmp(m->headers.data, "\r\n", 2) == 0;
        if (!empty && (len < 4 || memcmp(m->headers.data + len - 4, "\r\n\r\n", 4) != 0)) continue;
        return take_headers(m, e) < 0 ? MULTIPART_BAD : MULTIPART_PART;
    }
    return MULTIPART_MORE;
}

/* "--" closes the body; a line break (blanks before it are allowed) begins a part. m->headers holds what came. */
static enum multipart_event after(struct multipart *m, const char *bytes, size_t n, size_t *used, struct err *e) {
    while (*used < n) {
        char c = bytes[(*used)++];
        const struct buf *have = &m->headers;
        bool dash = have->len == 1 && have->data[0] == '-', cr = have->len && have->data[have->len - 1] == '\r';
        if (dash && c == '-') {
            m->state = DONE;
            return MULTIPART_END;
        }
        if (cr && c == '\n') {
            buf_clear(&m->headers);
            m->state = HEADERS;
            return MULTIPART_PART_END; /* no event: the caller of this function goes on */
        }
        bool blank = c == ' ' || c == '\t' || c == '\r' || (c == '-' && !have->len);
        if (dash || cr || !blank || have->len > MULTIPART_BOUNDARY_MAX) return bad(m, e, "a delimiter is followed by something else"), MULTIPART_BAD;
        buf_append(&m->headers, &c, 1);
    }
    return MULTIPART_MORE;
}

enum multipart_event multipart_next(struct multipart *m, const char *bytes, size_t n, size_t *used, struct err *e) {
    *used = 0;
    if (m->state == PREAMBLE && preamble(m, bytes, n, used) == MULTIPART_MORE) return MULTIPART_MORE;
    if (m->state == DATA) return data(m, bytes, n, used);
    if (m->state == AFTER_DELIMITER) {
        enum multipart_event got = after(m, bytes, n, used, e);
        if (got != MULTIPART_PART_END) return got;
    }
    if (m->state == HEADERS) return headers(m, bytes, n, used, e);
    if (m->state == DONE) return *used = n, MULTIPART_END;
    err_set(e, ERR_INVALID, "the multipart body is malformed");
    return MULTIPART_BAD;
}
