/* The answer's JSON: how files differ. */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "cell/diff_list.h"

static void add_text(struct json_object *o, const char *key, const char *value) {
    json_object_object_add(o, key, json_object_new_string(value));
}

static void add_mode(struct json_object *o, const char *key, unsigned mode) {
    char text[8];
    (void)snprintf(text, sizeof text, "%04o", mode);
    add_text(o, key, text);
}

/* Only what differs is told twice. */
static void add_before(struct json_object *o, const struct diff_entry *e) {
    const struct diff_facts *a = e->now, *b = e->before;
    json_object_object_add(o, "size_before", json_object_new_int64(b->size));
    if (a->type != b->type) add_text(o, "type_before", b->type);
    if (b->target) add_text(o, "target_before", b->target);
    if (a->mode != b->mode) {
        add_mode(o, "permissions", a->mode);
        add_mode(o, "permissions_before", b->mode);
    }
    if (a->uid != b->uid || a->gid != b->gid) {
        json_object_object_add(o, "uid", json_object_new_int64(a->uid));
        json_object_object_add(o, "uid_before", json_object_new_int64(b->uid));
        json_object_object_add(o, "gid", json_object_new_int64(a->gid));
        json_object_object_add(o, "gid_before", json_object_new_int64(b->gid));
    }
    if (strcmp(a->type, "file") == 0 && a->type == b->type)
        json_object_object_add(o, "same_contents", e->unread ? NULL : json_object_new_boolean(e->contents_same));
}

static struct json_object *entry_json(const struct diff_entry *e) {
    struct json_object *o = json_object_new_object();
    add_text(o, "path", e->path);
    add_text(o, "type", e->now->type);
    json_object_object_add(o, "size", json_object_new_int64(e->now->size));
    if (e->now->target) add_text(o, "target", e->now->target);
    if (e->kind == DIFF_MODIFIED) add_before(o, e);
    if (e->text) add_text(o, "text_diff", e->text);
    if (e->binary) json_object_object_add(o, "binary", json_object_new_boolean(true));
    if (e->text_omitted) json_object_object_add(o, "text_omitted", json_object_new_boolean(true));
    return o;
}

struct json_object *diff_entries_json(const struct diff_entries *d, size_t most) {
    static const char *const words[DIFF_KINDS] = {"added", "removed", "modified"};
    struct json_object *o = json_object_new_object(), *counts = json_object_new_object(), *cut = NULL,
                       *lists[DIFF_KINDS];
    int64_t sums[DIFF_KINDS] = {0};
    for (int k = 0; k < DIFF_KINDS; k++) json_object_object_add(o, words[k], lists[k] = json_object_new_array());
    for (size_t i = 0; i < d->n; i++) {
        sums[d->list[i].kind]++;
        if (i < most) json_object_array_add(lists[d->list[i].kind], entry_json(&d->list[i]));
    }
    for (int k = 0; k < DIFF_KINDS; k++) json_object_object_add(counts, words[k], json_object_new_int64(sums[k]));
    json_object_object_add(o, "counts", counts);
    if (d->n > most) {
        cut = json_object_new_object();
        json_object_object_add(cut, "shown", json_object_new_uint64(most));
        json_object_object_add(cut, "total", json_object_new_uint64(d->n));
    }
    json_object_object_add(o, "truncated", cut);
    return o;
}
