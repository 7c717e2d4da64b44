/* Unified diffs of the text files that differ: both sides are read one file after the other, and compared in the thread
 * pool. */
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "cell/diff_inside.h"
#include "cell/diff_text.h"

#define READ_MAX (64ull << 20)   /* bytes read for one diff */
#define WRITTEN_MAX (4ull << 20) /* bytes of diffs in one answer */

struct text_work {
    uv_work_t work;
    struct diff *diff; /* NULL: cancelled. Loop thread only */
    char *path;
    struct buf sides[SIDES], out;
    bool binary;
};

static void next_file(struct diff *d);

static void work_free(struct text_work *t) {
    free(t->path);
    buf_free(&t->sides[MINE]);
    buf_free(&t->sides[THEIRS]);
    buf_free(&t->out);
    free(t);
}

static void run(uv_work_t *work) {
    struct text_work *t = container_of(work, struct text_work, work);
    const struct buf *after = &t->sides[MINE], *before = &t->sides[THEIRS];
    t->binary = !diff_text_is_text(before->data, before->len) || !diff_text_is_text(after->data, after->len);
    if (!t->binary) diff_text_unified(t->path, before->data, before->len, after->data, after->len, &t->out);
}

static void ran(uv_work_t *work, int status) {
    (void)status; /* never cancelled */
    struct text_work *t = container_of(work, struct text_work, work);
    struct diff *d = t->diff;
    if (d) {
        struct diff_entry *e = &d->entries.list[d->text_at++];
        d->work = NULL;
        e->binary = t->binary;
        if (!t->binary && d->text_written + t->out.len > WRITTEN_MAX)
            e->text_omitted = true;
        else if (!t->binary && t->out.len) {
            d->text_written += t->out.len;
            e->text = t->out.data;
            t->out = (struct buf){0};
        }
    }
    work_free(t);
    if (d) next_file(d);
}

void diff_contents_cancel(struct diff *d) {
    if (d->work) d->work->diff = NULL;
    d->work = NULL;
}

/* Both sides are there, or could not be read (gone since it was listed). */
static void compare(struct diff *d) {
    struct diff_entry *e = &d->entries.list[d->text_at];
    if (d->asks[MINE].failed || d->asks[THEIRS].failed) {
        e->text_omitted = true;
        d->text_at++;
        next_file(d);
        return;
    }
    struct text_work *t = calloc(1, sizeof *t);
    if (!t || !(t->path = strdup(e->path))) abort();
    t->diff = d;
    for (int s = 0; s < SIDES; s++) {
        t->sides[s] = d->asks[s].bytes;
        d->asks[s].bytes = (struct buf){0};
    }
    d->work = t;
    (void)uv_queue_work(d->cells[MINE]->world->config.loop, &t->work, run, ran); /* fails only without a function */
}

static void on_read(struct diff *d, int side, struct err *err) {
    d->asks[side].failed = err != NULL;
    if (--d->asking == 0) compare(d);
}

static void on_mine(struct diff_ask *a, struct err *err) {
    on_read(container_of(a, struct diff, asks[MINE]), MINE, err);
}
static void on_theirs(struct diff_ask *a, struct err *err) {
    on_read(container_of(a, struct diff, asks[THEIRS]), THEIRS, err);
}

static void read_side(struct diff *d, int side, const char *path) {
    bool template = side == THEIRS && !d->cells[THEIRS];
    struct json_object *op = json_object_new_object();
    json_object_object_add(op, "op", json_object_new_string("read"));
    json_object_object_add(op, "path", json_object_new_string(path));
    json_object_object_add(op, "user", json_object_new_string("root"));
    json_object_object_add(op, "view", json_object_new_string(template ? "template" : "root"));
    struct diff_ask *a = &d->asks[side];
    a->line = NULL;
    a->bytes_max = DIFF_TEXT_MAX; /* it may have grown since it was listed */
    a->done = side == MINE ? on_mine : on_theirs;
    diff_ask(a, template ? d->cells[MINE] : d->cells[side], op);
}

static bool is_candidate(const struct diff_entry *e) {
    return e->kind == DIFF_MODIFIED && strcmp(e->now->type, "file") == 0 && e->now->type == e->before->type &&
           !e->contents_same;
}

/* Small things are decided on the spot; a file that has to be read ends the loop, and its end begins it anew. */
static void next_file(struct diff *d) {
    for (; d->text_at < d->entries.n && d->text_at < DIFF_SHOWN; d->text_at++) {
        struct diff_entry *e = &d->entries.list[d->text_at];
        if (!is_candidate(e)) continue;
        uint64_t sum = (uint64_t)e->now->size + (uint64_t)e->before->size;
        if (e->now->size > DIFF_TEXT_MAX || e->before->size > DIFF_TEXT_MAX) {
            e->binary = true;
            continue;
        }
        if (d->text_read + sum > READ_MAX || d->text_written >= WRITTEN_MAX) {
            e->text_omitted = true;
            continue;
        }
        d->text_read += sum;
        d->asking = SIDES;
        for (int s = 0; s < SIDES; s++) read_side(d, s, e->path);
        return;
    }
    diff_files_over(d);
}

void diff_contents_begin(struct diff *d) {
    if (d->options.text)
        next_file(d);
    else
        diff_files_over(d);
}
