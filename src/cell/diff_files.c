/* The files of a diff: two lists of changes, and digests where those do not decide. */
#include <stdlib.h>
#include <string.h>

#include "cell/branch_inside.h"
#include "cell/diff_inside.h"

#define BATCH_PATHS 1000              /* of one digest (guest_proto.h) */
#define BATCH_BYTES (256u * 1024)     /* of its paths: the request has 1 MiB, and JSON may make two bytes of one */
#define DIGEST_BYTES_MAX (8ull << 30) /* of one side and diff: some 40 s of a processor */
#define FORK_SLACK_MS 60000           /* between the instant at which a copy was taken and the time its record says */

/* ---- digests ---- */

static void batch_begin(struct diff *d);

static const char *digest_at(struct json_object *reply, size_t i) {
    struct json_object *list = NULL;
    if (!json_object_object_get_ex(reply, "digests", &list) || !json_object_is_type(list, json_type_array) ||
        i >= json_object_array_length(list))
        return NULL;
    struct json_object *v = json_object_array_get_idx(list, i);
    return json_object_is_type(v, json_type_string) && json_object_get_string_len(v) == 64 ? json_object_get_string(v)
                                                                                           : NULL;
}

static void batch_end(struct diff *d) {
    size_t i = 0;
    for (size_t at = d->batch_from; at < d->batch_to; at++) {
        struct diff_entry *e = &d->entries.list[at];
        if (!e->undecided) continue;
        const char *a = digest_at(d->digests[MINE], i), *b = digest_at(d->digests[THEIRS], i);
        e->unread = !a || !b;
        diff_entry_decide(e, a && b && strcmp(a, b) == 0);
        i++;
    }
    for (int s = 0; s < SIDES; s++) {
        json_object_put(d->digests[s]);
        d->digests[s] = NULL;
    }
    d->batch_from = d->batch_to;
    batch_begin(d);
}

static void on_digest(struct diff *d, int side, struct err *err) {
    if (err) {
        diff_fail(d, err);
        return;
    }
    d->digests[side] = json_object_get(d->asks[side].reply);
    if (--d->asking == 0) batch_end(d);
}

static void on_my_digest(struct diff_ask *a, struct err *err) {
    on_digest(container_of(a, struct diff, asks[MINE]), MINE, err);
}
static void on_their_digest(struct diff_ask *a, struct err *err) {
    on_digest(container_of(a, struct diff, asks[THEIRS]), THEIRS, err);
}

/* The next files that only their contents can tell apart. */
static struct json_object *batch_paths(struct diff *d) {
    struct json_object *paths = json_object_new_array();
    size_t bytes = 0;
    for (d->batch_to = d->batch_from; d->batch_to < d->entries.n; d->batch_to++) {
        struct diff_entry *e = &d->entries.list[d->batch_to];
        if (!e->undecided) continue;
        if (d->digested + (uint64_t)e->now->size > DIGEST_BYTES_MAX) {
            diff_entry_decide(e, false);
            e->unread = true;
            continue;
        }
        size_t n = strlen(e->path);
        if (json_object_array_length(paths) == BATCH_PATHS || bytes + n > BATCH_BYTES) break;
        bytes += n;
        d->digested += (uint64_t)e->now->size;
        json_object_array_add(paths, json_object_new_string(e->path));
    }
    return paths;
}

static void batch_begin(struct diff *d) {
    struct json_object *paths = batch_paths(d);
    if (json_object_array_length(paths) == 0) {
        json_object_put(paths);
        diff_entries_pack(&d->entries);
        diff_contents_begin(d);
        return;
    }
    d->asking = SIDES;
    for (int s = 0; s < SIDES; s++) {
        struct json_object *op = json_object_new_object();
        json_object_object_add(op, "op", json_object_new_string("digest"));
        json_object_object_add(op, "paths", json_object_get(paths));
        d->asks[s].line = NULL;
        d->asks[s].bytes_max = 0;
        d->asks[s].done = s == MINE ? on_my_digest : on_their_digest;
        diff_ask(&d->asks[s], d->cells[s], op);
    }
    json_object_put(paths);
}

/* ---- when two cells were one ---- */

static int earlier_birth(void *arg, const char *id, const char *json) {
    int64_t *first_ms = arg;
    struct json_object *row = json_tokener_parse(json), *born = body_get(row, "created_ms");
    (void)id;
    if (body_get(row, "parent_id") && json_object_get_int64(born) < *first_ms) *first_ms = json_object_get_int64(born);
    json_object_put(row);
    return 0;
}

/* A file of both that was last changed before the first fork of their tree is the same one: that is certain, whoever
 * was forked from whom, merged into whom, or has ended since. A later one may have been written on both sides within
 * one tick of the clock, with equal times: contents decide. 0: they are of no tree. */
static int64_t shared_until_ns(const struct diff *d) {
    const struct cell *a = d->cells[MINE], *b = d->cells[THEIRS];
    int64_t first_ms = INT64_MAX;
    struct err err;
    if (!b || strcmp(branch_root(a), branch_root(b)) != 0) return 0;
    if (store_branch_each(a->world->config.store, branch_root(a), earlier_birth, &first_ms, &err) < 0) return 0;
    return first_ms == INT64_MAX ? 0 : (first_ms - FORK_SLACK_MS) * 1000000;
}

/* ---- lists ---- */

static void on_list(struct diff *d, int side, struct err *err) {
    if (err) {
        diff_fail(d, err);
        return;
    }
    diff_list_sort(&d->lists[side]);
    if (--d->asking) return;
    diff_compare(&d->lists[MINE], d->cells[THEIRS] ? &d->lists[THEIRS] : NULL, shared_until_ns(d), &d->entries);
    batch_begin(d);
}

static void on_my_list(struct diff_ask *a, struct err *err) {
    on_list(container_of(a, struct diff, asks[MINE]), MINE, err);
}
static void on_their_list(struct diff_ask *a, struct err *err) {
    on_list(container_of(a, struct diff, asks[THEIRS]), THEIRS, err);
}

static bool my_line(struct diff_ask *a, const char *line, size_t n, struct err *err) {
    return diff_list_add(&container_of(a, struct diff, asks[MINE])->lists[MINE], line, n, err) == 0;
}
static bool their_line(struct diff_ask *a, const char *line, size_t n, struct err *err) {
    return diff_list_add(&container_of(a, struct diff, asks[THEIRS])->lists[THEIRS], line, n, err) == 0;
}

void diff_files_begin(struct diff *d) {
    for (int s = 0; s < SIDES; s++) {
        if (!d->cells[s]) continue;
        struct json_object *op = json_object_new_object();
        json_object_object_add(op, "op", json_object_new_string("changes"));
        d->asks[s].line = s == MINE ? my_line : their_line;
        d->asks[s].done = s == MINE ? on_my_list : on_their_list;
        d->asking++;
        diff_ask(&d->asks[s], d->cells[s], op);
    }
}
