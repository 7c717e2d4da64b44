#include "cell/diff_text.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cell/text.h"

#define CONTEXT_LINES 3
#define EFFORT                                                                                                         \
    512 /* edits that are tried between two points: two texts of 131,072 lines without a common one take 0.1 s then */

struct line {
    const char *at;
    size_t n; /* with its line feed */
};
struct side {
    struct line *lines;
    int n;
    int *ids;     /* equal lines of both sides have the same number */
    bool *edited; /* removed, or added */
};
struct compare {
    struct side side[2];
    int *forward, *backward; /* furthest x on each diagonal x - y; index 0 is in the middle of the memory */
};
struct point {
    int x, y;
};

static void *allocate(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p) abort();
    return p;
}

bool diff_text_is_text(const void *bytes, size_t n) {
    struct buf clean = {0};
    if (n && memchr(bytes, 0, n)) return false;
    text_append_utf8(&clean, bytes, n);
    bool same = clean.len == n && (n == 0 || memcmp(clean.data, bytes, n) == 0);
    buf_free(&clean);
    return same;
}

/* ---- lines ---- */

static void split(struct side *s, const char *text, size_t n) {
    size_t cap = 0;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (text + at)) + 1 : n - at;
        if ((size_t)s->n == cap) {
            cap = cap ? 2 * cap : 256;
            s->lines = realloc(s->lines, cap * sizeof *s->lines);
            if (!s->lines) abort();
        }
        s->lines[s->n++] = (struct line){text + at, len};
        at += len;
    }
    s->ids = allocate((size_t)s->n, sizeof *s->ids);
    s->edited = allocate((size_t)s->n, sizeof *s->edited);
}

static int by_bytes(const void *a, const void *b) {
    const struct line *x = *(const struct line *const *)a, *y = *(const struct line *const *)b;
    int order = memcmp(x->at, y->at, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* Sorted once, lines are compared as numbers from here on; no choice of lines makes that slow, as it could a hash. */
static void number_lines(struct compare *c) {
    size_t n = 0, all = (size_t)c->side[0].n + (size_t)c->side[1].n;
    struct line **sorted = allocate(all, sizeof *sorted);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < c->side[s].n; i++) sorted[n++] = &c->side[s].lines[i];
    if (n) qsort(sorted, n, sizeof *sorted, by_bytes);
    int id = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && by_bytes(&sorted[i - 1], &sorted[i])) id++;
        bool first = sorted[i] >= c->side[0].lines && sorted[i] < c->side[0].lines + c->side[0].n;
        struct side *s = &c->side[!first];
        s->ids[sorted[i] - s->lines] = id;
    }
    free(sorted);
}

/* ---- Myers ---- */

/* The point that forward paths of this many edits came closest to the end with. */
static struct point furthest(const struct compare *c, int low, int high, struct point to) {
    struct point best = {0, 0};
    int reach = INT_MIN;
    for (int d = low; d <= high; d += 2) {
        int x = c->forward[d] < to.x ? c->forward[d] : to.x, y = x - d;
        if (y > to.y) {
            y = to.y;
            x = y + d;
        }
        if (x + y > reach) {
            reach = x + y;
            best = (struct point){x, y};
        }
    }
    return best;
}

/* A point that a shortest way between two corners goes through: forward from one, backward from the other, an edit a
 * round on every diagonal, until they meet. Both corners differ in their first and last lines. */
static struct point middle(struct compare *c, struct point from, struct point to) {
    const int *a = c->side[0].ids, *b = c->side[1].ids;
    int *f = c->forward, *k = c->backward, least = from.x - to.y, most = to.x - from.y, start = from.x - from.y,
        end = to.x - to.y;
    int flow = start, fhigh = start, klow = end, khigh = end;
    bool odd = (start - end) & 1;
    f[start] = from.x;
    k[end] = to.x;
    for (int edits = 1;; edits++) {
        flow > least ? (void)(f[--flow - 1] = -1) : (void)flow++;
        fhigh < most ? (void)(f[++fhigh + 1] = -1) : (void)fhigh--;
        for (int d = fhigh; d >= flow; d -= 2) {
            int x = f[d - 1] < f[d + 1] ? f[d + 1] : f[d - 1] + 1, y = x - d;
            while (x < to.x && y < to.y && a[x] == b[y]) x++, y++;
            f[d] = x;
            if (odd && klow <= d && d <= khigh && k[d] <= x) return (struct point){x, y};
        }
        klow > least ? (void)(k[--klow - 1] = INT_MAX) : (void)klow++;
        khigh < most ? (void)(k[++khigh + 1] = INT_MAX) : (void)khigh--;
        for (int d = khigh; d >= klow; d -= 2) {
            int x = k[d - 1] < k[d + 1] ? k[d - 1] : k[d + 1] - 1, y = x - d;
            while (x > from.x && y > from.y && a[x - 1] == b[y - 1]) x--, y--;
            k[d] = x;
            if (!odd && flow <= d && d <= fhigh && x <= f[d]) return (struct point){x, y};
        }
        if (edits >= EFFORT) return furthest(c, flow, fhigh, to);
    }
}

static void compare(struct compare *c, struct point from, struct point to) {
    const int *a = c->side[0].ids, *b = c->side[1].ids;
    for (;;) {
        while (from.x < to.x && from.y < to.y && a[from.x] == b[from.y]) from.x++, from.y++;
        while (from.x < to.x && from.y < to.y && a[to.x - 1] == b[to.y - 1]) to.x--, to.y--;
        if (from.x == to.x || from.y == to.y) break;
        struct point at = middle(c, from, to);
        compare(c, from, at);
        from = at;
    }
    for (int x = from.x; x < to.x; x++) c->side[0].edited[x] = true;
    for (int y = from.y; y < to.y; y++) c->side[1].edited[y] = true;
}

/* ---- hunks ---- */

static void put_line(struct buf *out, char mark, const struct line *l) {
    buf_append(out, &mark, 1);
    buf_append(out, l->at, l->n);
    if (l->at[l->n - 1] != '\n') buf_str(out, "\n\\ No newline at end of file\n");
}

static void put_range(struct buf *out, char mark, int from, int n) {
    buf_printf(out, "%c%d", mark, n ? from + 1 : from);
    if (n != 1) buf_printf(out, ",%d", n);
}

static void put_lines(const struct compare *c, struct point from, struct point to, struct buf *out) {
    const struct side *a = &c->side[0], *b = &c->side[1];
    buf_str(out, "@@ ");
    put_range(out, '-', from.x, to.x - from.x);
    buf_str(out, " ");
    put_range(out, '+', from.y, to.y - from.y);
    buf_str(out, " @@\n");
    while (from.x < to.x || from.y < to.y)
        if (from.x < to.x && a->edited[from.x])
            put_line(out, '-', &a->lines[from.x++]);
        else if (from.y < to.y && b->edited[from.y])
            put_line(out, '+', &b->lines[from.y++]);
        else {
            put_line(out, ' ', &a->lines[from.x++]);
            from.y++;
        }
}

/* Changes no more than two contexts apart share a hunk. */
static void put_hunks(const struct compare *c, struct buf *out) {
    const struct side *a = &c->side[0], *b = &c->side[1];
    struct point at = {0, 0}, from = {0, 0}, to = {0, 0};
    bool open = false;
    while (at.x < a->n || at.y < b->n) {
        bool removed = at.x < a->n && a->edited[at.x], added = at.y < b->n && b->edited[at.y];
        if (!removed && !added) {
            at.x++, at.y++;
            continue;
        }
        if (open && at.x - to.x > 2 * CONTEXT_LINES) {
            put_lines(c, from, (struct point){to.x + CONTEXT_LINES, to.y + CONTEXT_LINES}, out);
            open = false;
        }
        if (!open) {
            int lead =
                at.x < CONTEXT_LINES ? at.x : CONTEXT_LINES; /* lines before a change are in both: y has as many */
            if (at.y < lead) lead = at.y;
            from = (struct point){at.x - lead, at.y - lead};
            open = true;
        }
        while (at.x < a->n && a->edited[at.x]) at.x++;
        while (at.y < b->n && b->edited[at.y]) at.y++;
        to = at;
    }
    int rest = a->n - to.x < CONTEXT_LINES ? a->n - to.x : CONTEXT_LINES;
    if (open) put_lines(c, from, (struct point){to.x + rest, to.y + rest}, out);
}

static void put_name(struct buf *out, const char *head, const char *path) {
    buf_str(out, head);
    for (; *path; path++) {
        char shown = (unsigned char)*path < 0x20 || *path == 0x7f ? '?' : *path;
        buf_append(out, &shown, 1);
    }
    buf_str(out, "\n");
}

void diff_text_unified(const char *path, const char *before, size_t before_n, const char *after, size_t after_n,
                       struct buf *out) {
    struct compare c = {0};
    if (before_n == after_n && (before_n == 0 || memcmp(before, after, before_n) == 0)) return;
    split(&c.side[0], before, before_n);
    split(&c.side[1], after, after_n);
    number_lines(&c);
    size_t diagonals = (size_t)c.side[0].n + (size_t)c.side[1].n + 3;
    int *memory = allocate(2 * diagonals, sizeof *memory);
    c.forward = memory + c.side[1].n + 1;
    c.backward = c.forward + diagonals;
    compare(&c, (struct point){0, 0}, (struct point){c.side[0].n, c.side[1].n});
    put_name(out, "--- a", path);
    put_name(out, "+++ b", path);
    put_hunks(&c, out);
    free(memory);
    for (int s = 0; s < 2; s++) {
        free(c.side[s].lines);
        free(c.side[s].ids);
        free(c.side[s].edited);
    }
}
