#include "cell/diff_list.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cell/text.h"

#define ENTRY_VALUES 96 /* JSON values of one line, as text_parse_object counts them */

/* ---- lines ---- */

static struct json_object *member(struct json_object *o, const char *key) {
    struct json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static int64_t number(struct json_object *o, const char *key) {
    struct json_object *v = member(o, key);
    return json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : 0;
}

static const char *type_word(const char *word) {
    static const char *const words[] = {"file", "directory", "symlink"};
    for (size_t i = 0; word && i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i]) == 0) return words[i];
    return "other";
}

static char *copy(struct diff_list *l, const char *text) {
    char *s = strdup(text);
    if (!s) abort();
    l->bytes += strlen(text) + 1;
    return s;
}

static void facts_read(struct diff_list *l, struct json_object *o, struct diff_facts *f) {
    const char *target = text_field(o, "target");
    *f = (struct diff_facts){.target = target ? copy(l, target) : NULL,
                             .size = number(o, "size"),
                             .uid = number(o, "uid"),
                             .gid = number(o, "gid"),
                             .mode = (unsigned)number(o, "mode") & 07777,
                             .type = type_word(text_field(o, "type"))};
    if (f->size < 0) f->size = 0;
}

static int change_read(struct diff_list *l, struct json_object *o, struct err *err) {
    const char *path = text_field(o, "path"), *word = text_field(o, "change");
    enum diff_kind kind = !word                          ? DIFF_KINDS
                          : strcmp(word, "added") == 0   ? DIFF_ADDED
                          : strcmp(word, "removed") == 0 ? DIFF_REMOVED
                          : strcmp(word, "changed") == 0 ? DIFF_MODIFIED
                                                         : DIFF_KINDS;
    struct json_object *before = member(o, "before");
    if (!path || path[0] != '/' || kind == DIFF_KINDS ||
        (kind == DIFF_MODIFIED && !json_object_is_type(before, json_type_object)))
        return err_set(err, ERR_LOST, "the sandbox answered with something that is not a change");
    struct diff_change *c = &l->changes[l->n++];
    *c = (struct diff_change){.path = copy(l, path),
                              .kind = kind,
                              .inode = (uint64_t)number(o, "inode"),
                              .ctime_ns = number(o, "ctime_ns"),
                              .mtime_ns = number(o, "mtime_ns"),
                              .same_contents = json_object_get_boolean(member(o, "same_contents"))};
    facts_read(l, o, &c->now);
    if (kind == DIFF_MODIFIED) facts_read(l, before, &c->before);
    return 0;
}

int diff_list_add(struct diff_list *l, const char *line, size_t n, struct err *err) {
    if (l->n >= DIFF_CHANGES_MAX || l->bytes > DIFF_CHANGES_BYTES)
        return err_hint(err, ERR_TOO_LARGE, "Compare less: remove what is temporary, or list directories instead.",
                        "the sandbox changed more than %zu files of its template: too many to compare", l->n);
    struct json_object *o = text_parse_object(line, n, ENTRY_VALUES);
    if (!o) return err_set(err, ERR_LOST, "the sandbox answered with something that is not a change");
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->changes = realloc(l->changes, l->cap * sizeof *l->changes);
        if (!l->changes) abort();
    }
    l->bytes += sizeof *l->changes;
    int rc = change_read(l, o, err);
    json_object_put(o);
    return rc;
}

/* As strcmp, but "/" comes before every other byte, so that a directory is followed by what it holds. */
static int path_compare(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    unsigned x = *a == '/' ? 1 : *a ? (unsigned char)*a + 1u : 0, y = *b == '/' ? 1 : *b ? (unsigned char)*b + 1u : 0;
    return x < y ? -1 : x > y;
}

static int by_path(const void *a, const void *b) {
    return path_compare(((const struct diff_change *)a)->path, ((const struct diff_change *)b)->path);
}

void diff_list_sort(struct diff_list *l) {
    if (l->n) qsort(l->changes, l->n, sizeof *l->changes, by_path);
}

void diff_list_free(struct diff_list *l) {
    for (size_t i = 0; i < l->n; i++) {
        free(l->changes[i].path);
        free(l->changes[i].now.target);
        free(l->changes[i].before.target);
    }
    free(l->changes);
    *l = (struct diff_list){0};
}

/* ---- comparison ---- */

static struct diff_entry *entry(struct diff_entries *out, enum diff_kind kind, const struct diff_change *c,
                                const struct diff_facts *now, const struct diff_facts *before) {
    if (out->n == out->cap) {
        out->cap = out->cap ? 2 * out->cap : 64;
        out->list = realloc(out->list, out->cap * sizeof *out->list);
        if (!out->list) abort();
    }
    struct diff_entry *e = &out->list[out->n++];
    *e = (struct diff_entry){.path = c->path, .kind = kind, .now = now, .before = before};
    return e;
}

/* The other side has what the template has. */
static void only_mine(const struct diff_change *c, struct diff_entries *out) {
    struct diff_entry *e = entry(out, c->kind, c, &c->now, c->kind == DIFF_MODIFIED ? &c->before : NULL);
    e->contents_same = c->same_contents;
}

/* This side has what the template has: the same change, seen from the other end. */
static void only_theirs(const struct diff_change *c, struct diff_entries *out) {
    if (c->kind != DIFF_MODIFIED) {
        (void)entry(out, c->kind == DIFF_ADDED ? DIFF_REMOVED : DIFF_ADDED, c, &c->now, NULL);
        return;
    }
    entry(out, DIFF_MODIFIED, c, &c->before, &c->now)->contents_same = c->same_contents;
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

static void in_both(const struct diff_change *a, const struct diff_change *b, int64_t shared_until_ns,
                    struct diff_entries *out) {
    if (a->kind == DIFF_REMOVED && b->kind == DIFF_REMOVED) return;
    if (a->kind == DIFF_REMOVED || b->kind == DIFF_REMOVED) {
        (void)entry(out, a->kind == DIFF_REMOVED ? DIFF_REMOVED : DIFF_ADDED, a,
                    a->kind == DIFF_REMOVED ? &b->now : &a->now, NULL);
        return;
    }
    const struct diff_facts *x = &a->now, *y = &b->now;
    bool file = strcmp(x->type, "file") == 0,
         shape = x->type == y->type && same_text(x->target, y->target) && (!file || x->size == y->size);
    bool rights = (x->mode == y->mode || strcmp(x->type, "symlink") == 0) && x->uid == y->uid && x->gid == y->gid;
    bool one_file = a->inode == b->inode && a->ctime_ns == b->ctime_ns && a->mtime_ns == b->mtime_ns &&
                    a->ctime_ns < shared_until_ns;
    bool known_same = !file || one_file || (a->same_contents && b->same_contents) || x->size == 0;
    if (shape && rights && known_same) return;
    struct diff_entry *e = entry(out, DIFF_MODIFIED, a, x, y);
    e->undecided = shape && !known_same;
    e->contents_same = shape && file && known_same;
}

void diff_compare(const struct diff_list *mine, const struct diff_list *theirs, int64_t shared_until_ns,
                  struct diff_entries *out) {
    size_t i = 0, j = 0, m = theirs ? theirs->n : 0;
    while (i < mine->n || j < m) {
        const struct diff_change *a = i < mine->n ? &mine->changes[i] : NULL, *b = j < m ? &theirs->changes[j] : NULL;
        int order = !a ? 1 : !b ? -1 : path_compare(a->path, b->path);
        if (order < 0)
            only_mine(a, out);
        else if (order > 0)
            only_theirs(b, out);
        else
            in_both(a, b, shared_until_ns, out);
        i += order <= 0;
        j += order >= 0;
    }
}

static bool same_rights(const struct diff_entry *e) {
    return e->now->mode == e->before->mode && e->now->uid == e->before->uid && e->now->gid == e->before->gid;
}

void diff_entry_decide(struct diff_entry *e, bool same) {
    e->undecided = false;
    e->contents_same = same;
    if (same && same_rights(e)) e->kind = DIFF_KINDS; /* none: packed away */
}

void diff_entries_pack(struct diff_entries *d) {
    size_t kept = 0;
    for (size_t i = 0; i < d->n; i++)
        if (d->list[i].kind != DIFF_KINDS) d->list[kept++] = d->list[i];
    d->n = kept;
}

void diff_entries_free(struct diff_entries *d) {
    for (size_t i = 0; i < d->n; i++) free(d->list[i].text);
    free(d->list);
    *d = (struct diff_entries){0};
}
