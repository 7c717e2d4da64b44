#include "cell/diff_variables.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>

#include "cell/text.h"

enum kind { ADDED, REMOVED, CHANGED, UNKNOWN, KINDS };

struct result {
    struct json_object *lists[KINDS];
    size_t total;
};

static struct json_object *member(struct json_object *o, const char *key) {
    struct json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static struct json_object *list_of(struct json_object *answer) {
    struct json_object *list = answer ? member(answer, "variables") : NULL;
    return json_object_is_type(list, json_type_array) ? list : NULL;
}

static size_t length_of(struct json_object *list) { return list ? json_object_array_length(list) : 0; }

/* By name; a name that comes twice counts once, the last one. */
static struct json_object *by_name(struct json_object *list) {
    struct json_object *o = json_object_new_object();
    for (size_t i = 0; i < length_of(list); i++) {
        struct json_object *v = json_object_array_get_idx(list, i);
        const char *name = json_object_is_type(v, json_type_object) ? text_field(v, "name") : NULL;
        if (name) json_object_object_add(o, name, json_object_get(v));
    }
    return o;
}

static void put_text(struct json_object *o, const char *key, struct json_object *v, const char *from) {
    const char *text = text_field(v, from);
    json_object_object_add(o, key, json_object_new_string(text ? text : ""));
}

static struct json_object *shown(const char *name, struct json_object *v) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(name));
    put_text(o, "type", v, "type");
    put_text(o, "value", v, "value");
    return o;
}

static void put(struct result *r, enum kind kind, struct json_object *taken) {
    if (r->total++ < DIFF_VARIABLES_MAX)
        json_object_array_add(r->lists[kind], taken);
    else
        json_object_put(taken);
}

static bool same_text(struct json_object *a, struct json_object *b, const char *key) {
    const char *x = text_field(a, key), *y = text_field(b, key);
    return x == y || (x && y && strcmp(x, y) == 0);
}

static void compare(struct result *r, const char *name, struct json_object *mine, struct json_object *theirs) {
    bool digests = text_field(mine, "digest") && text_field(theirs, "digest");
    bool alike = same_text(mine, theirs, "type") &&
                 (digests ? same_text(mine, theirs, "digest") : same_text(mine, theirs, "value"));
    if (alike && digests) return;
    if (alike) {
        put(r, UNKNOWN, json_object_new_string(name));
        return;
    }
    struct json_object *o = shown(name, mine);
    put_text(o, "type_before", theirs, "type");
    put_text(o, "value_before", theirs, "value");
    put(r, CHANGED, o);
}

/* A name of one side: the other has none of it, or has it among those it skipped. */
static void put_alone(struct result *r, const char *name, struct json_object *v, enum kind kind, bool other_is_whole) {
    if (other_is_whole)
        put(r, kind, shown(name, v));
    else
        put(r, UNKNOWN, json_object_new_string(name));
}

static int64_t skipped(struct json_object *answer) {
    struct json_object *n = answer ? member(answer, "skipped") : NULL;
    return json_object_is_type(n, json_type_int) ? json_object_get_int64(n) : 0;
}

struct json_object *diff_variables(struct json_object *mine, struct json_object *theirs) {
    static const char *const words[KINDS] = {"added", "removed", "changed", "unknown"};
    struct json_object *o = json_object_new_object(), *a = by_name(list_of(mine)), *b = by_name(list_of(theirs)),
                       *other, *cut = NULL;
    struct result r = {0};
    bool all_mine = skipped(mine) == 0, all_theirs = skipped(theirs) == 0;
    for (int k = 0; k < KINDS; k++) json_object_object_add(o, words[k], r.lists[k] = json_object_new_array());
    json_object_object_foreach(a, name, v) {
        if (json_object_object_get_ex(b, name, &other))
            compare(&r, name, v, other);
        else
            put_alone(&r, name, v, ADDED, all_theirs);
    }
    json_object_object_foreach(b, gone, w) {
        if (!json_object_object_get_ex(a, gone, &other)) put_alone(&r, gone, w, REMOVED, all_mine);
    }
    json_object_put(a);
    json_object_put(b);
    json_object_object_add(o, "skipped", json_object_new_int64(skipped(mine) + skipped(theirs)));
    if (r.total > DIFF_VARIABLES_MAX) {
        cut = json_object_new_object();
        json_object_object_add(cut, "shown", json_object_new_int(DIFF_VARIABLES_MAX));
        json_object_object_add(cut, "total", json_object_new_uint64(r.total));
    }
    json_object_object_add(o, "truncated", cut);
    return o;
}
