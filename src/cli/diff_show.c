#include "cli/diff_show.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "cli/client.h"
#include "cli/output.h"

#define BOLD "1"
#define RED "31"
#define GREEN "32"
#define YELLOW "33"
#define CYAN "36"

static size_t length_of(struct json_object *list) {
    return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

/* One line in a colour. Line feeds inside are shown as spaces: a file's name or a value must not look like another
 * line. */
static void put(const struct diff_show *d, struct buf *out, const char *colour, const char *text, size_t n) {
    if (d->colours && colour) buf_printf(out, "\x1b[%sm", colour);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        char shown = c == '\n' || c == '\r' ? ' ' : c == 0x1b ? '?' : (char)c;
        buf_append(out, &shown, 1);
    }
    if (d->colours && colour) buf_str(out, "\x1b[m");
    buf_str(out, "\n");
}

static void put_text(const struct diff_show *d, struct buf *out, const char *colour, const char *text) {
    put(d, out, colour, text, strlen(text));
}

/* ---- files ---- */

static void text_diff(const struct diff_show *d, const char *text, struct buf *out) {
    while (*text) {
        size_t n = strcspn(text, "\n");
        bool head = strncmp(text, "--- ", 4) == 0 || strncmp(text, "+++ ", 4) == 0;
        const char *colour = head ? BOLD : *text == '@' ? CYAN : *text == '+' ? GREEN : *text == '-' ? RED : NULL;
        put(d, out, colour, text, n);
        text += n + (text[n] == '\n');
    }
}

static void file_line(const struct diff_show *d, const char *mark, const char *colour, struct json_object *file,
                      struct buf *out) {
    bool bare = json_object_is_type(file, json_type_string); /* only a path */
    const char *path = bare ? json_object_get_string(file) : json_text(file, "path", "?"),
               *type = json_text(file, "type", "");
    int64_t size = json_whole(file, "size", -1), before = json_whole(file, "size_before", -1);
    struct buf line = {0};
    char a[16], b[16];
    buf_printf(&line, "%s %s%s", mark, path, strcmp(type, "directory") == 0 ? "/" : "");
    if (strcmp(type, "directory") != 0 && size >= 0) {
        buf_str(&line, "  ");
        if (before >= 0 && before != size)
            buf_printf(&line, "%s %s ", size_text(a, before), d->utf8 ? "\xe2\x86\x92" : "->");
        buf_str(&line, size_text(b, size));
        if (*type && strcmp(type, "file") != 0) buf_printf(&line, " (%s)", type);
    }
    put_text(d, out, colour, line.data);
    buf_free(&line);
    const char *diff = json_text(file, "text_diff", NULL);
    if (diff)
        text_diff(d, diff, out);
    else if (json_object_get_boolean(json_object_object_get(file, "binary")))
        put_text(d, out, NULL, "  binary files differ");
}

static void files(const struct diff_show *d, struct json_object *files, struct buf *out) {
    static const struct {
        const char *key, *mark, *colour;
    } kinds[] = {{"added", "A", GREEN}, {"modified", "M", YELLOW}, {"removed", "D", RED}};
    for (size_t k = 0; k < 3; k++) {
        struct json_object *list = json_object_object_get(files, kinds[k].key);
        for (size_t i = 0; i < length_of(list); i++)
            file_line(d, kinds[k].mark, kinds[k].colour, json_object_array_get_idx(list, i), out);
    }
}

/* ---- variables ---- */

static void variable_line(const struct diff_show *d, const char *mark, const char *colour, struct json_object *v,
                          struct buf *out) {
    struct buf line = {0};
    const char *name = json_text(v, "name", "?"), *type = json_text(v, "type", "?"), *value = json_text(v, "value", ""),
               *type_before = json_text(v, "type_before", NULL), *value_before = json_text(v, "value_before", NULL),
               *arrow = d->utf8 ? "\xe2\x86\x92" : "->";
    buf_printf(&line, "%s %s: ", mark, name);
    if (type_before && strcmp(type_before, type) != 0) buf_printf(&line, "%s %s ", type_before, arrow);
    buf_printf(&line, "%s = ", type);
    if (value_before) buf_printf(&line, "%s %s ", value_before, arrow);
    buf_str(&line, value);
    put_text(d, out, colour, line.data);
    buf_free(&line);
}

static void variables(const struct diff_show *d, struct json_object *variables, struct buf *out) {
    static const struct {
        const char *key, *mark, *colour;
    } kinds[] = {{"added", "+", GREEN}, {"changed", "~", YELLOW}, {"removed", "-", RED}};
    for (size_t k = 0; k < 3; k++) {
        struct json_object *list = json_object_object_get(variables, kinds[k].key);
        for (size_t i = 0; i < length_of(list); i++)
            variable_line(d, kinds[k].mark, kinds[k].colour, json_object_array_get_idx(list, i), out);
    }
    struct json_object *unknown = json_object_object_get(variables, "unknown");
    for (size_t i = 0; i < length_of(unknown); i++) {
        struct json_object *one = json_object_array_get_idx(unknown, i);
        struct buf line = {0};
        buf_printf(&line, "? %s: may differ, cannot be compared",
                   json_object_is_type(one, json_type_string) ? json_object_get_string(one)
                                                              : json_text(one, "name", "?"));
        put_text(d, out, NULL, line.data);
        buf_free(&line);
    }
}

/* ---- sums ---- */

static int64_t bytes_of(struct json_object *list, const char *key) {
    int64_t sum = 0;
    for (size_t i = 0; i < length_of(list); i++) sum += json_whole(json_object_array_get_idx(list, i), key, 0);
    return sum;
}

static void sum_of(struct buf *out, const char *what, size_t added, size_t changed, size_t removed) {
    size_t all = added + changed + removed;
    buf_printf(out, "%zu %s%s", all, what, all == 1 ? "" : "s");
    if (all) buf_printf(out, ": %zu added, %zu changed, %zu removed", added, changed, removed);
}

void diff_render_sums(struct json_object *answer, struct buf *out) {
    struct json_object *f = json_object_object_get(answer, "files"), *v = json_object_object_get(answer, "variables");
    struct json_object *added = json_object_object_get(f, "added"), *modified = json_object_object_get(f, "modified"),
                       *removed = json_object_object_get(f, "removed");
    char more[16], less[16];
    sum_of(out, "file", length_of(added), length_of(modified), length_of(removed));
    int64_t grown = bytes_of(added, "size") + bytes_of(modified, "size") - bytes_of(modified, "size_before"),
            gone = bytes_of(removed, "size");
    if (grown - gone >= 0)
        buf_printf(out, " (+%s)\n", size_text(more, grown - gone));
    else
        buf_printf(out, " (-%s)\n", size_text(less, gone - grown));
    if (!json_object_is_type(v, json_type_object)) return;
    struct json_object *unknown = json_object_object_get(v, "unknown");
    sum_of(out, "variable", length_of(json_object_object_get(v, "added")),
           length_of(json_object_object_get(v, "changed")), length_of(json_object_object_get(v, "removed")));
    if (length_of(unknown)) buf_printf(out, ", %zu cannot be compared", length_of(unknown));
    buf_str(out, "\n");
}

void diff_render(const struct diff_show *d, struct json_object *answer, struct buf *out) {
    struct buf title = {0};
    buf_printf(&title, "%s against %s", json_text(answer, "sandbox_id", "?"), json_text(answer, "against", "?"));
    put_text(d, out, BOLD, title.data);
    buf_free(&title);
    files(d, json_object_object_get(answer, "files"), out);
    variables(d, json_object_object_get(answer, "variables"), out);
    diff_render_sums(answer, out);
}
