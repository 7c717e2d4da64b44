#include "cli/output.h"

#include <errno.h>
#include <json-c/json.h>
#include <langinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void output_json(struct json_object *value) {
    int flags = JSON_C_TO_STRING_NOSLASHESCAPE | JSON_C_TO_STRING_SPACED;
    if (isatty(STDOUT_FILENO)) flags |= JSON_C_TO_STRING_PRETTY;
    printf("%s\n", json_object_to_json_string_ext(value, flags));
}

bool output_utf8(void) { return strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

bool output_colours(void) {
    const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(no && *no) && terminal && strcmp(terminal, "dumb") != 0;
}

void output_labels(struct json_object *with_metadata, struct buf *out) {
    struct json_object *metadata = json_object_object_get(with_metadata, "metadata");
    if (!json_object_is_type(metadata, json_type_object)) return;
    json_object_object_foreach(metadata, key, value) {
        buf_printf(out, "%s%s=%s", out->len ? "," : "", key, json_object_get_string(value));
    }
}

static const char *text_of(struct json_object *object, const char *key) {
    struct json_object *value = json_object_object_get(object, key);
    return value ? json_object_get_string(value) : NULL;
}

void output_not_carried(struct json_object *answer) {
    struct json_object *list = json_object_object_get(answer, "not_carried");
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i);
        const char *kind = text_of(one, "kind"), *text = text_of(one, "text"), *fd = text_of(one, "fd"),
                   *context = text_of(one, "context_id"), *pid = text_of(one, "pid");
        struct cell_output out = {0}; /* names out of the cell */
        struct buf line = {0};
        buf_printf(&line, "not carried: %s %s", kind ? kind : "?", text ? text : "");
        if (fd && context) buf_printf(&line, " (descriptor %s of context %s)", fd, context);
        if (pid) buf_printf(&line, " (process %s)", pid);
        buf_str(&line, "\n");
        (void)cell_output(&out, STDERR_FILENO, line.data, line.len);
        buf_free(&line);
    }
}

void output_truncated(struct json_object *truncated) {
    if (!json_object_is_type(truncated, json_type_object)) return;
    (void)fflush(stdout);
    json_object_object_foreach(truncated, stream, about) {
        struct json_object *dropped = json_object_object_get(about, "dropped_bytes");
        fprintf(stderr, "cella: %s was cut: %lld bytes dropped\n", stream, (long long)json_object_get_int64(dropped));
    }
}

/* ---- tables ---- */

static void put_cell(struct table *t, char *text) {
    if (t->cells == t->room) {
        t->room = t->room ? t->room * 2 : 64;
        char **grown = realloc(t->cell, t->room * sizeof *grown);
        if (!grown) abort();
        t->cell = grown;
    }
    t->cell[t->cells++] = text;
}

void table_open(struct table *t, size_t columns, const char *const *heading) {
    *t = (struct table){.columns = columns < TABLE_COLUMNS ? columns : TABLE_COLUMNS};
    for (size_t i = 0; i < t->columns; i++) table_add(t, heading[i]);
}

void table_add(struct table *t, const char *text) {
    char *copy = strdup(text && *text ? text : "-");
    if (!copy) abort();
    for (char *p = copy; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if ((unsigned char)*p == 0xc2 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] < 0xa0)
            p[0] = p[1] = '?';
    put_cell(t, copy);
}

void table_addf(struct table *t, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    table_add(t, text);
}

/* Characters, not bytes: every byte that does not continue a UTF-8 character counts. */
static size_t width_of(const char *text) {
    size_t n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

void table_render(const struct table *t, struct buf *out) {
    size_t width[TABLE_COLUMNS] = {0};
    for (size_t i = 0; i < t->cells; i++) {
        size_t w = width_of(t->cell[i]);
        if (w > width[i % t->columns]) width[i % t->columns] = w;
    }
    for (size_t i = 0; i < t->cells; i++) {
        bool last = i % t->columns == t->columns - 1;
        buf_str(out, t->cell[i]);
        if (last) {
            buf_str(out, "\n");
            continue;
        }
        for (size_t pad = width_of(t->cell[i]); pad < width[i % t->columns] + 2; pad++) buf_str(out, " ");
    }
}

void table_print(struct table *t) {
    struct buf text = {0};
    table_render(t, &text);
    if (text.data) (void)fwrite(text.data, 1, text.len, stdout);
    buf_free(&text);
    table_free(t);
}

void table_free(struct table *t) {
    for (size_t i = 0; i < t->cells; i++) free(t->cell[i]);
    free(t->cell);
    *t = (struct table){0};
}

/* ---- sizes and times ---- */

const char *size_text(char out[16], int64_t bytes) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    double value = (double)bytes;
    size_t i = 0;
    for (; value >= 999.5 && i + 1 < sizeof unit / sizeof *unit; i++) value /= 1000;
    (void)snprintf(out, 16, i && value < 9.95 ? "%.1f %s" : "%.0f %s", value, unit[i]);
    return out;
}

int64_t rfc3339_seconds(const char *text) {
    struct tm tm = {0};
    const char *rest = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
    if (!rest) return -1;
    if (*rest == '.')
        for (rest++; *rest >= '0' && *rest <= '9'; rest++) continue;
    int64_t offset = 0;
    if (*rest == '+' || *rest == '-') {
        int hours = 0, minutes = 0;
        if (sscanf(rest + 1, "%2d:%2d", &hours, &minutes) != 2) return -1;
        offset = (hours * 60 + minutes) * 60 * (*rest == '-' ? -1 : 1);
    } else if (*rest != 'Z') {
        return -1;
    }
    return (int64_t)timegm(&tm) - offset;
}

const char *age_text(char out[16], const char *rfc3339, int64_t now_s) {
    static const struct {
        int64_t seconds;
        const char *unit;
    } step[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    int64_t then = rfc3339_seconds(rfc3339);
    if (then < 0) return strcpy(out, "-");
    int64_t age = now_s > then ? now_s - then : 0;
    for (size_t i = 0; i < 4; i++)
        if (age >= step[i].seconds * (i < 3 ? 2 : 0)) {
            (void)snprintf(out, 16, "%lld %s", (long long)(age / step[i].seconds), step[i].unit);
            return out;
        }
    return strcpy(out, "0 s");
}

/* ---- text of cells on a terminal ---- */

static void pending_add(struct terminal_filter *f, char c) {
    if (f->count < sizeof f->pending) f->pending[f->count++] = c;
}

static void filter_text(struct terminal_filter *f, unsigned char c, struct buf *out) {
    if (c == 0x1b) {
        f->state = FILTER_ESCAPE;
    } else if (c == 0xc2) { /* may begin a C1 control character (U+0080…U+009F) */
        f->state = FILTER_C2;
    } else if ((c < 0x20 && c != '\n' && c != '\t' && c != '\r') || c == 0x7f) {
        buf_str(out, "?");
    } else {
        buf_append(out, &c, 1);
    }
}

static void filter_csi(struct terminal_filter *f, char c, struct buf *out) {
    if ((c >= '0' && c <= '9') || c == ';' || c == ':') {
        pending_add(f, c);
        if (f->count < sizeof f->pending) return;
    }
    f->state = FILTER_TEXT;
    if (c == 'm') {
        buf_str(out, "\x1b[");
        buf_append(out, f->pending, f->count);
        buf_str(out, "m");
        return;
    }
    buf_str(out, "?[");
    buf_append(out, f->pending, f->count);
    if (f->count < sizeof f->pending) filter_text(f, (unsigned char)c, out);
}

void terminal_filter(struct terminal_filter *f, const char *bytes, size_t n, struct buf *out) {
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        unsigned char u = (unsigned char)c;
        switch (f->state) {
        case FILTER_TEXT: filter_text(f, u, out); break;
        case FILTER_ESCAPE:
            f->state = c == '[' ? FILTER_CSI : FILTER_TEXT;
            f->count = 0;
            if (c == '[') break;
            buf_str(out, "?");
            filter_text(f, u, out);
            break;
        case FILTER_CSI: filter_csi(f, c, out); break;
        case FILTER_C2:
            f->state = FILTER_TEXT;
            if (u >= 0x80 && u < 0xa0) {
                buf_str(out, "?");
                break;
            }
            buf_str(out, "\xc2");
            filter_text(f, u, out);
            break;
        }
    }
}

static bool failed; /* stdout or stderr could not be written: the program must not end as if it had been */

bool output_failed(void) { return failed || ferror(stdout); }

bool output_write(int fd, const char *bytes, size_t n) {
    while (n > 0) {
        ssize_t wrote = write(fd, bytes, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) {
            failed = true;
            return false;
        }
        bytes += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

bool cell_output(struct cell_output *o, int stream, const char *bytes, size_t n) {
    (void)fflush(stdout);
    if (o->raw || !isatty(stream)) return output_write(stream, bytes, n);
    struct buf shown = {0};
    terminal_filter(&o->filter[stream == STDERR_FILENO], bytes, n, &shown);
    bool written = !shown.data || output_write(stream, shown.data, shown.len);
    buf_free(&shown);
    return written;
}
