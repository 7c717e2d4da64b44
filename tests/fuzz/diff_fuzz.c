/* Fuzz target (libFuzzer): what a cell says for a diff (lists of changes, variables), and the texts of two files.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c \
 *     tests/fuzz/diff_fuzz.c src/cell/diff_list.c src/cell/diff_json.c src/cell/diff_text.c \
 *     src/cell/diff_variables.c src/cell/text.c src/base/buf.c src/base/err.c -ljson-c -lm -o /tmp/diff_fuzz
 *   /tmp/diff_fuzz -max_total_time=10 tests/fuzz/diff_corpus
 *
 * Input: two halves, cut at the first byte 0x1f; each is lines of a guest, an answer of a context, and a text. What
 * must hold: a list does not differ from itself but where contents decide; both directions find the same paths; a patch
 * makes the second text of the first. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cell/diff_list.h"
#include "cell/diff_text.h"
#include "cell/diff_variables.h"
#include "cell/text.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int holds) {
    if (!holds) abort();
}

static struct diff_list list_of(const char *text, size_t n) {
    struct diff_list l = {0};
    struct err e;
    while (n) {
        const char *end = memchr(text, '\n', n);
        size_t part = end ? (size_t)(end - text) : n;
        (void)diff_list_add(&l, text, part, &e);
        part += end != NULL;
        text += part;
        n -= part;
    }
    diff_list_sort(&l);
    return l;
}

static void lists(const char *a, size_t n, const char *b, size_t m) {
    struct diff_list x = list_of(a, n), y = list_of(b, m);
    struct diff_entries there = {0}, back = {0}, self = {0};
    diff_compare(&x, &y, 1000, &there);
    diff_compare(&y, &x, 1000, &back);
    must(there.n == back.n);
    for (size_t i = 0; i < there.n; i++) must(strcmp(there.list[i].path, back.list[i].path) == 0);
    diff_compare(&x, &x, INT64_MAX, &self);
    must(self.n == 0);
    json_object_put(diff_entries_json(&there, 2));
    diff_entries_free(&there);
    diff_entries_free(&back);
    diff_list_free(&x);
    diff_list_free(&y);
}

static void variables(const char *a, size_t n, const char *b, size_t m) {
    struct json_object *x = text_parse_object(a, n, 10000), *y = text_parse_object(b, m, 10000);
    json_object_put(diff_variables(x, y));
    json_object_put(x);
    json_object_put(y);
}

/* The hunks applied. */
static void patch(const char *old, size_t n, const char *p, struct buf *out) {
    const char *end = old + n;
    long line = 1;
    p = strchr(strchr(p, '\n') + 1, '\n') + 1;
    while (*p) {
        must(strncmp(p, "@@ -", 4) == 0);
        char *q;
        long start = strtol(p + 4, &q, 10), count = *q == ',' ? strtol(q + 1, &q, 10) : 1;
        for (p = strchr(p, '\n') + 1; line < (count ? start : start + 1); line++) {
            const char *next = memchr(old, '\n', (size_t)(end - old));
            must(next != NULL);
            buf_append(out, old, (size_t)(next + 1 - old));
            old = next + 1;
        }
        while (*p && *p != '@') {
            const char *next = strchr(p, '\n') + 1;
            int bare = next[0] == '\\';
            size_t len = (size_t)(next - p) - 1 - (size_t)bare;
            if (*p != '+') {
                must((size_t)(end - old) >= len && memcmp(old, p + 1, len) == 0);
                old += len;
                line++;
            }
            if (*p != '-') buf_append(out, p + 1, len);
            p = bare ? strchr(next, '\n') + 1 : next;
        }
    }
    buf_append(out, old, (size_t)(end - old));
}

static void texts(const char *a, size_t n, const char *b, size_t m) {
    struct buf out = {0}, got = {0};
    if (!diff_text_is_text(a, n) || !diff_text_is_text(b, m)) return;
    diff_text_unified("/f", a, n, b, m, &out);
    must((out.len == 0) == (n == m && memcmp(a, b, n) == 0));
    if (out.len) {
        patch(a, n, out.data, &got);
        must(got.len == m && (m == 0 || memcmp(got.data, b, m) == 0));
    }
    buf_free(&out);
    buf_free(&got);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    if (!size) return 0;
    const unsigned char *cut = memchr(data, 0x1f, size);
    const char *a = (const char *)data, *b = cut ? (const char *)cut + 1 : a;
    size_t n = cut ? (size_t)(cut - data) : size, m = cut ? size - n - 1 : size;
    lists(a, n, b, m);
    variables(a, n, b, m);
    texts(a, n, b, m);
    return 0;
}
