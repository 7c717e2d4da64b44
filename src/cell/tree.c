/* Who was forked from whom: rows in the store that outlive the cells, and the tree made of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/branch_inside.h"
#include "cell/text.h"

static void add_text(struct json_object *o, const char *key, const char *s) {
    json_object_object_add(o, key, s && *s ? json_object_new_string(s) : NULL);
}

const char *branch_root(const struct cell *c) { return c->root_id[0] ? c->root_id : c->id; }

static int put_row(struct world *w, const char *id, const char *root_id, struct json_object *row, struct err *err) {
    return store_branch_put(w->config.store, id, root_id, json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), err);
}

int branch_put(struct cell *c, struct err *err) {
    struct json_object *row = json_object_new_object();
    add_text(row, "root_id", branch_root(c));
    add_text(row, "parent_id", c->parent_id);
    json_object_object_add(row, "created_ms", json_object_new_int64(c->created_ms));
    json_object_object_add(row, "metadata", json_object_get(c->metadata));
    int out = put_row(c->world, c->id, branch_root(c), row, err);
    json_object_put(row);
    return out;
}

static struct json_object *get_row(struct world *w, const char *id) {
    char *text = NULL;
    struct json_object *row = store_branch_get(w->config.store, id, &text) == 1 ? json_tokener_parse(text) : NULL;
    free(text);
    return row;
}

void branch_ended(struct world *w, const char *id, struct json_object *metadata, const char *reason) {
    struct err err;
    struct json_object *row = get_row(w, id);
    const char *root = row ? text_field(row, "root_id") : NULL;
    if (root) {
        json_object_object_add(row, "ended_ms", json_object_new_int64(wall_ms()));
        add_text(row, "reason", reason);
        if (metadata) json_object_object_add(row, "metadata", json_object_get(metadata));
        char root_id[CELL_ID_MAX];
        (void)snprintf(root_id, sizeof root_id, "%s", root);
        if (put_row(w, id, root_id, row, &err) < 0) log_warn("%s: %s", id, err.text); /* the tree then lacks the hour of its end */
    }
    json_object_put(row);
}

bool branch_related(struct world *w, const struct cell *into, const struct cell *from) {
    if (!from->parent_id[0] || strcmp(branch_root(into), branch_root(from)) != 0) return false;
    if (strcmp(from->parent_id, into->parent_id) == 0) return true;
    char id[CELL_ID_MAX];
    (void)snprintf(id, sizeof id, "%s", from->parent_id);
    for (int i = 0; i < 100000 && id[0]; i++) { /* the bound is for a damaged database */
        if (strcmp(id, into->id) == 0) return true;
        struct json_object *row = get_row(w, id);
        const char *parent = row ? text_field(row, "parent_id") : NULL;
        (void)snprintf(id, sizeof id, "%s", parent ? parent : "");
        json_object_put(row);
    }
    return false;
}

/* ---- the tree as JSON ---- */

struct growing {
    struct world *world;
    struct json_object *nodes; /* by id, in the order of their creation */
};

static const char *state_word(const struct cell *c) {
    switch (c->status) {
    case CELL_RUNNING:
    case CELL_FREEZING: return "running";
    case CELL_PAUSING:
    case CELL_PAUSED: return "paused";
    case CELL_FROZEN:
    case CELL_WAKING: return "hibernated";
    case CELL_ENDING:
    case CELL_ENDED: break;
    }
    return "ended";
}

static void add_time(struct json_object *o, const char *key, int64_t wall) {
    char text[32];
    format_time(text, wall);
    json_object_object_add(o, key, wall ? json_object_new_string(text) : NULL);
}

static struct json_object *node(const char *id, struct cell *c, struct json_object *row) {
    struct json_object *o = json_object_new_object(), *metadata = c ? c->metadata : body_get(row, "metadata");
    const char *reason = row ? text_field(row, "reason") : NULL;
    add_text(o, "id", id);
    add_text(o, "state", c ? state_word(c) : "ended");
    add_text(o, "reason", c ? c->reason : reason);
    add_text(o, "parent_id", c ? c->parent_id : text_field(row, "parent_id"));
    add_time(o, "created_at", c ? c->created_ms : json_object_get_int64(body_get(row, "created_ms")));
    add_time(o, "ended_at", c ? 0 : json_object_get_int64(body_get(row, "ended_ms")));
    json_object_object_add(o, "metadata", metadata ? json_object_get(metadata) : json_object_new_object());
    json_object_object_add(o, "children", json_object_new_array());
    return o;
}

static int add_row(void *arg, const char *id, const char *json) {
    struct growing *g = arg;
    char reason[64];
    struct json_object *row = json_tokener_parse(json);
    struct cell *c = world_lookup(g->world, id);
    if (row && !c && !body_get(row, "ended_ms")) {
        /* Its end was not written here: it is in the cell's own row, or it never came to life. */
        if (store_cell_ended(g->world->config.store, id, reason, sizeof reason))
            add_text(row, "reason", reason);
        else {
            json_object_put(row);
            return 0;
        }
    }
    if (row) json_object_object_add(g->nodes, id, node(id, c, row));
    json_object_put(row);
    return 0;
}

struct json_object *cell_tree(struct cell *c, struct err *err) {
    struct growing g = {c->world, json_object_new_object()};
    const char *root_id = branch_root(c);
    if (store_branch_each(c->world->config.store, root_id, add_row, &g, err) < 0) {
        json_object_put(g.nodes);
        return NULL;
    }
    struct json_object *root = body_get(g.nodes, root_id);
    if (!root) { /* never forked, or so old that its row is gone */
        struct cell *r = world_lookup(c->world, root_id);
        struct json_object *none = json_object_new_object();
        root = node(root_id, r, none);
        json_object_put(none);
        json_object_object_add(g.nodes, root_id, root);
    }
    json_object_object_foreach(g.nodes, id, each) {
        if (each == root) continue;
        const char *parent_id = text_field(each, "parent_id");
        struct json_object *parent = parent_id ? body_get(g.nodes, parent_id) : NULL;
        (void)id;
        json_object_array_add(body_get(parent ? parent : root, "children"), json_object_get(each));
    }
    struct json_object *out = json_object_new_object();
    add_text(out, "sandbox_id", c->id);
    json_object_object_add(out, "tree", json_object_get(root));
    json_object_put(g.nodes);
    return out;
}

/* ---- promote ---- */

struct promotion {
    struct cell *winner;
    cell_json_cb cb;
    void *arg;
    struct json_object *answer;
    unsigned pending;
    bool failed;
    struct err err;
    struct deferred later;
};

struct sibling {
    struct promotion *promotion;
    char id[CELL_ID_MAX];
};

static void promoted(struct promotion *p) {
    if (!p->failed) {
        struct json_object *about = json_object_new_object();
        json_object_object_add(about, "tree_id", json_object_get(body_get(p->answer, "tree_id")));
        json_object_object_add(about, "deleted", json_object_get(body_get(p->answer, "deleted")));
        world_event(p->winner->world, p->winner->id, "sandbox.promoted", NULL, NULL, about);
    }
    p->cb(p->arg, p->failed ? &p->err : NULL, p->failed ? NULL : p->answer);
    json_object_put(p->answer);
    cell_release(p->winner);
    free(p);
}

static void on_turn(struct deferred *d) { promoted(container_of(d, struct promotion, later)); }

static void on_deleted(void *arg, struct err *err) {
    struct sibling *s = arg;
    struct promotion *p = s->promotion;
    if (err)
        json_object_object_add(body_get(p->answer, "failures"), s->id, json_object_new_string(err->text));
    else
        json_object_array_add(body_get(p->answer, "deleted"), json_object_new_string(s->id));
    free(s);
    if (--p->pending == 0) promoted(p);
}

static const char *tree_of(const struct cell *c) { return c->metadata ? text_field(c->metadata, "fork_tree_id") : NULL; }

/* Children of one fork: the same parent, and, where it was a fork-tree, the same tree. */
static bool siblings(const struct cell *a, const struct cell *b, const char *tree_id) {
    const char *other = tree_of(b);
    if (a == b || b->status >= CELL_ENDING || strcmp(a->parent_id, b->parent_id) != 0) return false;
    return !tree_id || (other && strcmp(tree_id, other) == 0);
}

static void clean_up(struct promotion *p, const char *tree_id) {
    struct world *w = p->winner->world;
    for (struct cell *c = w->oldest; c; c = c->newer) {
        if (!siblings(p->winner, c, tree_id)) continue;
        struct sibling *s = calloc(1, sizeof *s);
        if (!s) abort();
        s->promotion = p;
        memcpy(s->id, c->id, sizeof s->id);
        p->pending++;
        cell_delete(c, "another branch was promoted", on_deleted, s); /* answers on a later turn */
    }
}

static int parse_promotion(struct cell *winner, struct json_object *body, bool *clean, struct err *err) {
    const char *wanted = NULL, *tree_id = tree_of(winner);
    if (body_text(body, "tree_id", &wanted, err) < 0 || body_bool(body, "cleanup_siblings", clean, err) < 0) return -1;
    if (!winner->parent_id[0]) return err_set(err, ERR_CONFLICT, "the sandbox %s was not forked from another one", winner->id);
    if (wanted && (!tree_id || strcmp(wanted, tree_id) != 0))
        return err_set(err, ERR_CONFLICT, "the sandbox %s does not belong to the tree %.60s", winner->id, wanted);
    return 0;
}

void cell_promote(struct cell *winner, struct json_object *body, cell_json_cb cb, void *arg) {
    bool clean = false;
    struct promotion *p = calloc(1, sizeof *p);
    if (!p) abort();
    *p = (struct promotion){.winner = cell_hold(winner), .cb = cb, .arg = arg, .answer = json_object_new_object()};
    p->failed = parse_promotion(winner, body, &clean, &p->err) < 0;
    const char *tree_id = tree_of(winner);
    add_text(p->answer, "winner", winner->id);
    add_text(p->answer, "tree_id", tree_id);
    json_object_object_add(p->answer, "deleted", json_object_new_array());
    json_object_object_add(p->answer, "failures", json_object_new_object());
    if (!p->failed && clean) clean_up(p, tree_id);
    if (!p->pending) defer(winner->world->defers, &p->later, on_turn);
}
