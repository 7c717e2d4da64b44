/* fork, merge, snapshot. None of them can be stopped half way: a cancelled one ends, and is not answered. */
#include <string.h>

#include "api/json_text.h"
#include "api/mcp/call.h"
#include "api/mcp/content.h"
#include "api/mcp/tools.h"
#include "api/owners.h"
#include "api/trace/span.h"
#include "cell/branch.h"
#include "cell/snapshot.h"

static void copy(struct json_object *to, struct json_object *from, const char *name) {
    struct json_object *v = json_field(from, name);
    if (v) json_set(to, name, json_object_get(v));
}

static void forked(void *arg, struct err *e, struct json_object *said) {
    static const char *const same[] = {"children", "errors", "not_carried"};
    struct call *c = arg;
    if (e) {
        call_fail(c, e);
        return;
    }
    struct json_object *o = json_object_new_object(), *children = json_field(said, "children");
    for (size_t i = 0; call_owner(c) && i < json_object_array_length(children); i++)
        owners_add(c->mcp->api->owners, json_object_get_string(json_object_array_get_idx(children, i)), c->key_id);
    json_set_text(o, "parent", c->placed);
    span_number(c->span, "cella.children", (long long)json_object_array_length(children));
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) copy(o, said, same[i]);
    call_finish(c, content_json(o));
}

void tool_fork(struct call *c) {
    struct err e;
    long long count = 1;
    if (json_get_int(c->arguments, "count", 1, 16, &count, &e) < 0) {
        call_refuse(c, &e);
        return;
    }
    struct json_object *body = call_cell_spec(c);
    json_object_object_del(body, "persistent"); /* children are as the parent is */
    json_set_int(body, "count", count);
    cell_fork(c->cell, body, false, forked, c);
    json_object_put(body);
}

static void merged(void *arg, struct err *e) {
    struct call *c = arg;
    if (e) {
        call_fail(c, e);
        return;
    }
    struct json_object *o = json_object_new_object();
    json_set_text(o, "sandbox", c->placed);
    json_set(o, "merged", json_object_get(json_field(c->arguments, "winner")));
    call_finish(c, content_json(o));
}

void tool_merge(struct call *c) {
    struct err e;
    const char *id;
    if (json_get_text(c->arguments, "winner", &id, &e) < 0 ||
        (!id && err_set(&e, ERR_INVALID, "\"winner\" must be a string") < 0)) {
        call_refuse(c, &e);
        return;
    }
    struct cell *winner = call_cell(c, id, &e);
    if (winner)
        cell_merge(c->cell, winner, merged, c);
    else
        call_fail(c, &e);
}

static void snapped(void *arg, struct err *e, struct json_object *snapshot) {
    static const char *const same[] = {"snapshot_id", "name", "sandbox_id", "created_at", "size_bytes", "not_carried"};
    struct call *c = arg;
    if (e) {
        call_fail(c, e);
        return;
    }
    struct json_object *o = json_object_new_object();
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) copy(o, snapshot, same[i]);
    call_finish(c, content_json(o));
}

void tool_snapshot(struct call *c) {
    struct json_object *body = json_object_new_object();
    copy(body, c->arguments, "name");
    snapshot_create(c->cell, body, snapped, c);
    json_object_put(body);
}
