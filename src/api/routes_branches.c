/* Copies of living sandboxes: fork, fork-tree, tree, promote, merge. */
#include <string.h>

#include "api/handlers.h"
#include "api/owners.h"
#include "api/trace/trace.h"
#include "base/id.h"
#include "cell/branch.h"
#include "cell/world.h"

/* The children belong to whoever forked: so their ends can be told to that key as well. */
static void own_children(struct request *rq, struct json_object *said) {
    struct json_object *ids = json_field(said, "children");
    for (size_t i = 0; rq->key_id[0] && i < json_object_array_length(ids); i++)
        owners_add(api_of(rq)->owners, json_object_get_string(json_object_array_get_idx(ids, i)), rq->key_id);
    trace_forked(rq, said);
}

static void forked(void *arg, struct err *e, struct json_object *said) {
    struct request *rq = arg;
    if (!e) own_children(rq, said);
    answer_created(rq, e, said);
}

void handle_fork(struct request *rq) {
    trace_start(rq, "cella.fork");
    cell_fork(rq->cell, rq->body, false, forked, request_hold(rq));
}

/* ---- the same, in the shape of a tree ---- */

static void copy_field(struct json_object *to, const char *key, struct json_object *from, const char *of) {
    struct json_object *v = json_field(from, of);
    json_set(to, key, v ? json_object_get(v) : NULL);
}

static struct json_object *tree_children(struct json_object *cells) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(cells); i++) {
        struct json_object *cell = json_object_array_get_idx(cells, i), *o = json_object_new_object();
        struct json_object *index = json_field(json_field(cell, "metadata"), "fork_index");
        copy_field(o, "id", cell, "id");
        json_set(o, "index", json_object_new_int(index ? json_object_get_int(index) : 0));
        json_set(o, "guest_ip", NULL);
        copy_field(o, "boot_ms", cell, "boot_ms");
        copy_field(o, "boot_mode", cell, "boot_mode");
        copy_field(o, "status", cell, "status");
        copy_field(o, "metadata", cell, "metadata");
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *tree_errors(struct json_object *errors) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(errors); i++) {
        struct json_object *error = json_object_array_get_idx(errors, i), *o = json_object_new_object();
        copy_field(o, "index", error, "index");
        copy_field(o, "err", error, "error");
        json_object_array_add(list, o);
    }
    return list;
}

static void forked_tree(void *arg, struct err *e, struct json_object *said) {
    static const char *const same[] = {"tree_id", "parent_id", "snapshot_id", "at", "not_carried", "frozen_ms"};
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
    } else {
        struct json_object *o = json_object_new_object();
        own_children(rq, said);
        for (size_t i = 0; i < sizeof same / sizeof *same; i++) copy_field(o, same[i], said, same[i]);
        json_set(o, "children", tree_children(json_field(said, "sandboxes")));
        json_set(o, "errors", tree_errors(json_field(said, "errors")));
        reply_json(rq, 201, o);
    }
    request_release(rq);
}

void handle_fork_tree(struct request *rq) {
    trace_start(rq, "cella.fork");
    cell_fork(rq->cell, rq->body, true, forked_tree, request_hold(rq));
}

void handle_tree(struct request *rq) {
    struct err e;
    struct json_object *tree = cell_tree(rq->cell, &e);
    if (tree) reply_json(rq, 200, tree);
    else reply_err(rq, &e);
}

void handle_promote(struct request *rq) { cell_promote(rq->cell, rq->body, answer_json, request_hold(rq)); }

/* The second sandbox of the path: the same rules as for the first. */
static struct cell *other_cell(struct request *rq, const char *id, struct err *e) {
    const char *owner = api_owner(rq);
    struct cell *cell = id_valid(id, "sbx_") ? cell_find(api_of(rq)->world, id, e) : NULL;
    if (cell && (!owner || strcmp(cell_owner(cell), owner) == 0)) return cell;
    bool ended = !cell && id_valid(id, "sbx_") && strcmp(e->code, ERR_GONE) == 0 && (!owner || owners_know(api_of(rq)->owners, id, owner));
    if (!ended) err_hint(e, ERR_NOT_FOUND, "GET /v1/sandboxes lists the ones there are", "the sandbox to merge is not found");
    return NULL;
}

void handle_merge(struct request *rq) {
    struct err e;
    struct cell *from = other_cell(rq, request_param(rq, 1), &e);
    if (from) cell_merge(rq->cell, from, answer_empty, request_hold(rq));
    else reply_err(rq, &e);
}
