/* Unified diffs: known ones, and that applying one to the old text always gives the new one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cell/diff_text.h"

static uint32_t seed = 12345;
static unsigned dice(unsigned n) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

static struct buf unified(const char *before, size_t n, const char *after, size_t m) {
    struct buf out = {0};
    diff_text_unified("/d/f", before, n, after, m, &out);
    return out;
}

static void says(const char *before, const char *after, const char *expected) {
    struct buf out = unified(before, strlen(before), after, strlen(after));
    assert_string_equal(out.data ? out.data : "", expected);
    buf_free(&out);
}
#define HEAD "--- a/d/f\n+++ b/d/f\n"

static void known(void **state) {
    (void)state;
    says("", "", "");
    says("a\n", "a\n", "");
    says("", "a\n", HEAD "@@ -0,0 +1 @@\n+a\n");
    says("a\nb\n", "", HEAD "@@ -1,2 +0,0 @@\n-a\n-b\n");
    says("a", "a\n", HEAD "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n");
    says("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n",
         HEAD "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
    says("a\n1\n2\n3\n4\n5\n6\nb\n", "A\n1\n2\n3\n4\n5\n6\nB\n",
         HEAD "@@ -1,8 +1,8 @@\n-a\n+A\n 1\n 2\n 3\n 4\n 5\n 6\n-b\n+B\n");
    says("a\n1\n2\n3\n4\n5\n6\n7\nb", "A\n1\n2\n3\n4\n5\n6\n7\nB",
         HEAD "@@ -1,4 +1,4 @@\n-a\n+A\n 1\n 2\n 3\n@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n\\ No newline at end of "
              "file\n+B\n\\ No newline at end of file\n");
    says("x\ny\n", "y\nz\n", HEAD "@@ -1,2 +1,2 @@\n-x\n y\n+z\n");
}

static void text_or_not(void **state) {
    (void)state;
    assert_true(diff_text_is_text("", 0));
    assert_true(diff_text_is_text("a\xc3\xa4\r\n", 5));
    assert_false(diff_text_is_text("a\0b", 3));
    assert_false(diff_text_is_text("\xff", 1));
    assert_false(diff_text_is_text("a\xc3", 2));
    assert_false(diff_text_is_text("\x89PNG\r\n", 6));
}

/* ---- a patch program ---- */

static const char *line_end(const char *p) {
    const char *end = strchr(p, '\n');
    return end ? end + 1 : p + strlen(p);
}

/* Every line of the patch must be where it says. */
static void apply(const char *old, const char *patch, struct buf *out) {
    const char *p = line_end(line_end(patch)), *from = old;
    int line = 1;
    while (*p) {
        int start, count = 1, new_start, new_count = 1, seen = 0, seen_new = 0;
        const char *q = p;
        assert_int_equal(sscanf(q, "@@ -%d", &start), 1);
        q += 4 + strspn(q + 4, "0123456789");
        if (*q == ',') count = (int)strtol(q + 1, (char **)&q, 10);
        assert_int_equal(sscanf(q, " +%d", &new_start), 1);
        q += 2 + strspn(q + 2, "0123456789");
        if (*q == ',') new_count = (int)strtol(q + 1, (char **)&q, 10);
        assert_memory_equal(q, " @@\n", 4);
        p = q + 4;
        for (int until = count ? start : start + 1; line < until; line++) {
            const char *end = line_end(from);
            buf_append(out, from, (size_t)(end - from));
            from = end;
        }
        while (*p && *p != '@') {
            const char *end = line_end(p);
            size_t n = (size_t)(end - p) - 1;
            bool bare = strncmp(end, "\\ No newline", 12) == 0;
            if (bare) n--;
            if (*p != '+') {
                if (strncmp(from, p + 1, n)) fail_msg("the patch does not fit at line %d", line);
                from += n;
                line++;
                seen++;
            }
            if (*p != '-') {
                buf_append(out, p + 1, n);
                seen_new++;
            }
            p = bare ? line_end(end) : end;
        }
        assert_int_equal(seen, count);
        assert_int_equal(seen_new, new_count);
    }
    buf_str(out, from);
}

/* Lines that an optimal diff would touch: the plain dynamic program. */
static int shortest(char **a, int n, char **b, int m) {
    int *row = calloc((size_t)m + 1, sizeof *row);
    for (int i = n - 1; i >= 0; i--) {
        int diagonal = 0;
        for (int j = m - 1; j >= 0; j--) {
            int below = row[j];
            row[j] = strcmp(a[i], b[j]) == 0 ? diagonal + 1 : row[j] > row[j + 1] ? row[j] : row[j + 1];
            diagonal = below;
        }
    }
    int common = row[0];
    free(row);
    return n + m - 2 * common;
}

static void join(struct buf *out, char **lines, int n, bool newline) {
    buf_clear(out);
    buf_str(out, "");
    for (int i = 0; i < n; i++) buf_printf(out, "%s%s", lines[i], i + 1 < n || newline ? "\n" : "");
}

static void random_edits(void **state) {
    (void)state;
    static char words[40][12];
    static char *a[400], *b[900];
    for (int i = 0; i < 40; i++) (void)snprintf(words[i], sizeof words[i], "w%d", i);
    for (int round = 0; round < 3000; round++) {
        int n = (int)dice(round % 10 ? 30 : 300), m = 0, variety = (int)dice(39) + 1, calm = (int)dice(20) + 1;
        for (int i = 0; i < n; i++) a[i] = words[dice((unsigned)variety)];
        for (int i = 0; i < n; i++) {
            unsigned what = dice((unsigned)calm + 3);
            if (what != 0) b[m++] = a[i];
            if (what == 1) b[m++] = words[dice(40)];
            if (what == 2) b[m - 1] = words[dice(40)];
        }
        struct buf before = {0}, after = {0}, got = {0};
        bool ends_a = dice(4), ends_b = ends_a;
        join(&before, a, n, ends_a);
        join(&after, b, m, ends_b);
        struct buf patch = unified(before.data, before.len, after.data, after.len);
        if (patch.len) {
            apply(before.data, patch.data, &got);
            assert_string_equal(got.data ? got.data : "", after.data);
            int touched = 0;
            for (const char *p = line_end(line_end(patch.data)); *p; p = line_end(p)) touched += *p == '+' || *p == '-';
            if (ends_a) assert_int_equal(touched, shortest(a, n, b, m));
        } else
            assert_string_equal(before.data, after.data);
        buf_free(&patch), buf_free(&before), buf_free(&after), buf_free(&got);
    }
}

/* The largest that is compared: nothing in common, and all in disorder. Right, and in bounded time. */
static void worst_cases(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct buf before = {0}, after = {0}, got = {0};
        for (int i = 0; before.len < DIFF_TEXT_MAX - 16; i++)
            buf_printf(&before, "%c\n", kind ? 'a' + (int)dice(2) : 'a');
        for (int i = 0; after.len < DIFF_TEXT_MAX - 16; i++)
            buf_printf(&after, "%c\n", kind == 2 ? 'a' + (int)dice(26) : kind ? 'a' + (int)dice(2) : 'b');
        int64_t start = monotonic_ms();
        struct buf patch = unified(before.data, before.len, after.data, after.len);
        int64_t took = monotonic_ms() - start;
        apply(before.data, patch.data, &got);
        assert_int_equal(got.len, after.len);
        assert_memory_equal(got.data, after.data, got.len);
        print_message("worst case %d: %lld ms\n", kind, (long long)took);
        assert_true(took < 20000);
        buf_free(&patch), buf_free(&before), buf_free(&after), buf_free(&got);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(known), cmocka_unit_test(text_or_not),
                                       cmocka_unit_test(random_edits), cmocka_unit_test(worst_cases)};
    return cmocka_run_group_tests_name("diff_text", tests, NULL, NULL);
}
