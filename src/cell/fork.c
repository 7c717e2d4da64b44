/* Copies of a living cell. The driver makes them; here they become cells of their own: contexts with the parent's ids and counts, what ran in the parent
 * as executions of their own, a row in the store before anybody hears of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "cell/branch_inside.h"
#include "cell/cell_spec.h"

#define CHILDREN_MAX 100

/* What ran in a context when the copy was asked for. No other execution begins in the parent until the copy is made (cell.holds): so the context in a
 * child is in the middle of this one, or has ended it, or has not read it yet. */
struct ran {
    bool any, svg, stop_on_input;
    char id[DOMAIN_ID];
    uint32_t number;
    enum execution_stop stop;
    unsigned shown;
    int64_t timeout_ms, left_ms, started_ms, started_us;
    struct json_object *body;
};

struct planned { /* one context of the parent at that moment */
    bool used, fresh /* it was just being made: nobody has spoken to it */;
    char id[DOMAIN_ID];
    const char *language;
    char *cwd;
    struct json_object *env;
    int64_t created_ms;
    bool ready, restart_unsaid;
    uint32_t last_number;
    uint64_t execution_count, restarts;
    struct ran ran;
};

struct fork {
    struct fork *next;
    struct turn turn;
    struct cell *parent;
    bool as_tree, turn_held, holding;
    unsigned wanted, asked;
    struct json_object *metadata; /* of every child, apart from its index in the tree */
    char tree_id[DOMAIN_ID];
    int64_t ttl_ms, idle_ms, began_us, at_ms;
    struct planned plan[DRIVER_SLOTS];
    struct cell *child[CHILDREN_MAX];
    struct json_object *lacks[CHILDREN_MAX]; /* the driver's not_carried */
    struct json_object *errors;
    struct err first; /* of the errors */
    bool any_error;
    uint64_t frozen_us;
    cell_json_cb cb;
    void *arg;
    struct deferred later;
};

/* ---- the request ---- */

static int parse_count(struct json_object *body, bool as_tree, unsigned *out, struct err *err) {
    int64_t n = -1, count = -1;
    if (body_int(body, "n", 1, CHILDREN_MAX, &n, err) < 0 || body_int(body, "count", 1, CHILDREN_MAX, &count, err) < 0) return -1;
    if (n > 0 && count > 0 && n != count) return err_set(err, ERR_INVALID, "n and count say different numbers of children");
    *out = n > 0 ? (unsigned)n : count > 0 ? (unsigned)count : as_tree ? 2 : 1;
    return 0;
}

static struct json_object *laid_over(struct json_object *below, struct json_object *above) {
    struct json_object *o = json_object_new_object();
    if (below) {
        json_object_object_foreach(below, name, value) json_object_object_add(o, name, json_object_get(value));
    }
    if (above) {
        json_object_object_foreach(above, key, v) json_object_object_add(o, key, json_object_get(v));
    }
    return o;
}

static int parse_metadata(struct fork *f, struct json_object *body, struct err *err) {
    struct json_object *given = NULL, *checked;
    if (cell_spec_metadata(body, &given, err) < 0) return -1;
    f->metadata = laid_over(f->parent->metadata, given);
    if (!given) return 0;
    struct json_object *whole = json_object_new_object();
    json_object_object_add(whole, "metadata", json_object_get(f->metadata));
    int out = cell_spec_metadata(whole, &checked, err);
    json_object_put(whole);
    return out;
}

static void tree_metadata(struct fork *f) {
    id_make(f->tree_id, "tree_");
    json_object_object_add(f->metadata, "fork_tree_id", json_object_new_string(f->tree_id));
    json_object_object_add(f->metadata, "fork_tree_role", json_object_new_string("child"));
    json_object_object_add(f->metadata, "fork_parent_id", json_object_new_string(f->parent->id));
}

static int parse(struct fork *f, struct json_object *body, struct err *err) {
    bool ttl_said, idle_said;
    f->ttl_ms = f->parent->ttl_ms;
    f->idle_ms = f->parent->idle_timeout_ms;
    if (parse_count(body, f->as_tree, &f->wanted, err) < 0 || parse_metadata(f, body, err) < 0 ||
        cell_spec_times(body, &f->ttl_ms, &f->idle_ms, &ttl_said, &idle_said, err) < 0)
        return -1;
    if (f->as_tree) tree_metadata(f);
    if (f->parent->world->config.driver->ops->fork) return 0;
    return err_hint(err, ERR_UNSUPPORTED, "Start the daemon with the process driver (`cella up`).",
                    "the driver \"%s\" cannot copy a living sandbox", f->parent->world->config.driver->ops->name);
}

/* ---- the parent at this moment ---- */

static void plan_execution(struct ran *r, struct execution *x) {
    *r = (struct ran){.any = true,
                      .svg = x->svg,
                      .stop_on_input = x->stop_on_input,
                      .number = x->number,
                      .stop = x->stop,
                      .shown = x->shown,
                      .timeout_ms = x->timeout_ms,
                      .left_ms = execution_left_ms(x, monotonic_ms()),
                      .started_ms = x->started_ms,
                      .started_us = x->started_us,
                      .body = json_object_get(x->body)};
    memcpy(r->id, x->id, sizeof r->id);
}

static void plan_context(struct planned *p, struct context *k) {
    *p = (struct planned){.used = true,
                          .fresh = k->state == CONTEXT_MAKING,
                          .language = k->language,
                          .cwd = k->cwd ? strdup(k->cwd) : NULL,
                          .env = json_object_get(k->env),
                          .created_ms = k->created_ms,
                          .ready = k->ready,
                          .restart_unsaid = k->restart_unsaid,
                          .last_number = k->last_number,
                          .execution_count = k->execution_count,
                          .restarts = k->restarts};
    memcpy(p->id, k->id, sizeof p->id);
    if (k->running && k->running->stage == STAGE_RUNNING) plan_execution(&p->ran, k->running);
}

static void make_plan(struct fork *f) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *k = f->parent->contexts[i];
        if (k && !k->deleting) plan_context(&f->plan[i], k);
    }
}

static void go_on(struct fork *f) {
    struct cell *c = f->parent;
    if (!f->holding) return;
    f->holding = false;
    if (--c->holds) return;
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i]) context_next(c->contexts[i]);
}

/* ---- a child ---- */

static void run_on(struct context *k, const struct ran *r) {
    struct execution *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct execution){.context = k,
                            .stage = STAGE_RUNNING,
                            .collect = true,
                            .told_start = true,
                            .stored = true,
                            .svg = r->svg,
                            .stop_on_input = r->stop_on_input,
                            .number = r->number,
                            .shown = r->shown,
                            .timeout_ms = r->timeout_ms,
                            .started_ms = r->started_ms,
                            .started_us = r->started_us,
                            .body = json_object_get(r->body)};
    id_make(x->id, "exe_");
    memcpy(x->forked_from, r->id, sizeof x->forked_from);
    k->running = x;
    execution_arm(x, r->left_ms);
}

static void close_ends(const struct context_ends *e) {
    if (e->control_fd >= 0) close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd);
}

/* It had a context there, and the copy has none: it died in the last moment before the copy. */
static void came_without(struct context *k, const struct ran *r) {
    k->state = CONTEXT_LOST;
    k->restart_unsaid = true;
    if (!r->any) return;
    run_on(k, r);
    struct execution *x = steal_ptr(&k->running);
    execution_finish(x, "lost", execution_error("ContextLost", "", "the context ended in the moment in which the sandbox was copied"));
}

static void take_context(struct cell *c, int slot, const struct planned *p, const struct context_ends *ends) {
    struct context *k = context_new(c, slot, p->language, p->id);
    k->cwd = p->cwd ? strdup(p->cwd) : NULL;
    k->env = json_object_get(p->env);
    k->created_ms = p->created_ms;
    k->restarts = p->restarts;
    k->execution_count = p->execution_count;
    k->last_number = p->last_number;
    k->ready = p->ready;
    k->restart_unsaid = p->restart_unsaid;
    if (ends->control_fd < 0) {
        came_without(k, &p->ran);
        return;
    }
    if (p->fresh) {
        context_attach(k, ends, false);
        return;
    }
    if (p->ran.any) run_on(k, &p->ran);
    context_attach_copy(k, ends);
    /* The signal may have been under way; a second one does no harm. */
    if (k->running && p->ran.stop != STOP_NONE) (void)execution_stop(k->running, p->ran.stop);
}

static struct cell *child_new(struct fork *f, unsigned index, const struct driver_copy *copy) {
    struct cell *p = f->parent;
    struct world *w = p->world;
    struct cell *c = cell_new(w, w->config.driver->ops->id(copy->cell));
    cell_set_driver(c, copy->cell);
    memcpy(c->owner, p->owner, sizeof c->owner);
    memcpy(c->template_id, p->template_id, sizeof c->template_id);
    memcpy(c->template_name, p->template_name, sizeof c->template_name);
    memcpy(c->parent_id, p->id, sizeof c->parent_id);
    (void)snprintf(c->root_id, sizeof c->root_id, "%s", branch_root(p));
    (void)snprintf(c->boot_mode, sizeof c->boot_mode, "fork");
    c->limits = p->limits;
    c->env = json_object_get(p->env);
    c->metadata = laid_over(f->metadata, NULL);
    if (f->as_tree) {
        char text[16];
        (void)snprintf(text, sizeof text, "%u", index);
        json_object_object_add(c->metadata, "fork_index", json_object_new_string(text));
    }
    c->created_ms = wall_ms();
    c->active_ms = monotonic_ms();
    c->ttl_ms = f->ttl_ms;
    c->expires_ms = f->ttl_ms ? c->created_ms + f->ttl_ms : 0;
    c->idle_timeout_ms = f->idle_ms;
    c->boot_ms = (double)(monotonic_us() - f->began_us) / 1000;
    world_add(w, c);
    cell_open_guest(c, copy->guest_fd, false);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        if (f->plan[i].used) {
            take_context(c, i, &f->plan[i], &copy->ends[i]);
        } else if (copy->ends[i].control_fd >= 0) { /* it was being deleted */
            close_ends(&copy->ends[i]);
            w->config.driver->ops->context_signal(c->driver, i, SIGKILL);
        }
    }
    return c;
}

/* The branch before the cell: a row of the tree without a cell is one that never came to life, and is not shown. */
static int child_save(struct cell *c, struct err *err) {
    if (fault_error("domain.fork.save", err) < 0 || branch_put(c, err) < 0 || cell_save(c, err) < 0) return -1;
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->contexts[i] && c->contexts[i]->running) execution_save(c->contexts[i]->running);
    return 0;
}

static void add_error(struct fork *f, unsigned index, const struct err *e) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "index", json_object_new_int((int)index));
    json_object_object_add(o, "error", json_object_new_string(e->text));
    json_object_object_add(o, "code", json_object_new_string(e->code));
    json_object_object_add(o, "hint", e->hint ? json_object_new_string(e->hint) : NULL);
    json_object_array_add(f->errors, o);
    if (!f->any_error) f->first = *e;
    f->any_error = true;
}

static void on_child(void *arg, unsigned index, struct err *e, const struct driver_copy *copy) {
    struct fork *f = arg;
    struct world *w = f->parent->world;
    struct err err;
    w->creating--;
    go_on(f);
    if (e) {
        w->counters.create_failed++;
        add_error(f, index, e);
        return;
    }
    fault_point("domain.fork.child_made");
    struct cell *c = child_new(f, index, copy);
    if (child_save(c, &err) < 0) {
        w->counters.create_failed++;
        cell_end(c, "the database could not be written");
        add_error(f, index, &err);
        return;
    }
    fault_point("domain.fork.child_saved");
    w->counters.created++;
    w->counters.forked++;
    cell_used(c, USE_FORKED, 1);
    cell_arm(c);
    f->child[index] = cell_hold(c);
    f->lacks[index] = json_object_get(copy->not_carried);
    struct json_object *about = json_object_new_object();
    json_object_object_add(about, "template", json_object_new_string(c->template_name));
    json_object_object_add(about, "boot_mode", json_object_new_string(c->boot_mode));
    json_object_object_add(about, "parent_id", json_object_new_string(c->parent_id));
    world_event(w, c->id, "sandbox.created", NULL, NULL, about);
}

/* ---- the answer ---- */

static bool holds_entry(struct json_object *list, struct json_object *entry) {
    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        if (json_object_array_get_idx(list, i) == entry) return true;
    return false;
}

static struct json_object *lack_json(struct fork *f, struct json_object *entry, const struct cell *of) {
    struct json_object *o = json_object_new_object(), *slot = body_get(entry, "context_slot");
    int64_t i = slot ? json_object_get_int64(slot) : -1;
    json_object_object_add(o, "kind", json_object_get(body_get(entry, "kind")));
    json_object_object_add(o, "context_id", i >= 0 && i < DRIVER_SLOTS && f->plan[i].used ? json_object_new_string(f->plan[i].id) : NULL);
    json_object_object_add(o, "fd", json_object_get(body_get(entry, "fd")));
    json_object_object_add(o, "pid", json_object_get(body_get(entry, "pid")));
    json_object_object_add(o, "text", json_object_get(body_get(entry, "text")));
    if (of) json_object_object_add(o, "sandbox_id", json_object_new_string(of->id));
    return o;
}

/* What all children lack is told once: the driver hands the same entries to each. The rest is told with the child's id. */
static struct json_object *not_carried(struct fork *f) {
    struct json_object *out = json_object_new_array(), *common = NULL;
    unsigned first = 0;
    while (first < f->asked && !f->child[first]) first++;
    if (first < f->asked) common = f->lacks[first];
    for (size_t n = 0; common && n < json_object_array_length(common); n++) {
        struct json_object *entry = json_object_array_get_idx(common, n);
        bool all = true;
        for (unsigned i = first; i < f->asked && all; i++) all = !f->child[i] || f->lacks[i] == common || holds_entry(f->lacks[i], entry);
        json_object_array_add(out, lack_json(f, entry, all ? NULL : f->child[first]));
    }
    for (unsigned i = first + 1; i < f->asked; i++)
        for (size_t n = 0; f->lacks[i] && f->lacks[i] != common && n < json_object_array_length(f->lacks[i]); n++) {
            struct json_object *entry = json_object_array_get_idx(f->lacks[i], n);
            if (!holds_entry(common, entry)) json_object_array_add(out, lack_json(f, entry, f->child[i]));
        }
    return out;
}

static struct json_object *answer(struct fork *f) {
    struct json_object *o = json_object_new_object(), *ids = json_object_new_array(), *cells = json_object_new_array();
    char time[32];
    format_time(time, f->at_ms);
    for (unsigned i = 0; i < f->asked; i++) {
        if (!f->child[i]) continue;
        json_object_array_add(ids, json_object_new_string(f->child[i]->id));
        json_object_array_add(cells, cell_describe(f->child[i]));
    }
    json_object_object_add(o, "parent_id", json_object_new_string(f->parent->id));
    if (f->as_tree) json_object_object_add(o, "tree_id", json_object_new_string(f->tree_id));
    json_object_object_add(o, "children", ids);
    json_object_object_add(o, "sandboxes", cells);
    json_object_object_add(o, "errors", json_object_get(f->errors));
    json_object_object_add(o, "not_carried", not_carried(f));
    json_object_object_add(o, "frozen_ms", json_object_new_double((double)f->frozen_us / 1000));
    json_object_object_add(o, "snapshot_id", NULL);
    json_object_object_add(o, "at", json_object_new_string(time));
    return o;
}

static void tell_event(struct fork *f, struct json_object *said) {
    struct json_object *about = json_object_new_object();
    json_object_object_add(about, "children", json_object_get(body_get(said, "children")));
    json_object_object_add(about, "failed", json_object_new_int64((int64_t)json_object_array_length(f->errors)));
    json_object_object_add(about, "frozen_ms", json_object_get(body_get(said, "frozen_ms")));
    world_event(f->parent->world, f->parent->id, "sandbox.forked", NULL, NULL, about);
}

static void fork_free(struct fork *f) {
    struct world *w = f->parent->world;
    struct fork **at = &w->forks;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    defer_cancel(w->defers, &f->later);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        free(f->plan[i].cwd);
        json_object_put(f->plan[i].env);
        json_object_put(f->plan[i].ran.body);
    }
    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        if (f->child[i]) cell_release(f->child[i]);
        json_object_put(f->lacks[i]);
    }
    json_object_put(f->metadata);
    json_object_put(f->errors);
    cell_release(f->parent);
    free(f);
}

static void fork_over(struct fork *f) {
    bool any = false;
    go_on(f);
    for (unsigned i = 0; i < f->asked; i++) any = any || f->child[i];
    struct json_object *said = any ? answer(f) : NULL;
    if (any) tell_event(f, said);
    f->cb(f->arg, any ? NULL : &f->first, said);
    json_object_put(said);
    if (f->turn_held) cell_turn_over(f->parent);
    fork_free(f);
}

static void on_done(void *arg, struct err *e, uint64_t frozen_us) {
    struct fork *f = arg;
    f->frozen_us = frozen_us;
    if (e) { /* nothing was copied: no child was heard of */
        f->parent->world->creating -= f->asked;
        f->parent->world->counters.create_failed += f->asked;
        if (!f->any_error) f->first = *e;
        f->any_error = true;
    }
    fault_point("domain.fork.saved");
    fork_over(f);
}

/* ---- its turn ---- */

static void fail(struct fork *f, const struct err *e) {
    f->first = *e;
    f->any_error = true;
    fork_over(f);
}

/* As many as there is room for; the others are told as errors. */
static void take_room(struct fork *f) {
    struct world *w = f->parent->world;
    struct err err;
    f->asked = f->wanted;
    while (f->asked && world_room(w, f->asked, &err) < 0) f->asked--;
    for (unsigned i = f->asked; i < f->wanted; i++) {
        (void)world_room(w, f->asked + 1, &err);
        add_error(f, i, &err);
    }
}

static void on_turn(struct turn *t) {
    struct fork *f = container_of(t, struct fork, turn);
    struct cell *c = f->parent;
    struct err err;
    f->turn_held = true;
    f->began_us = monotonic_us();
    f->at_ms = wall_ms();
    if (cell_usable(c, &err) < 0) {
        fail(f, &err);
        return;
    }
    take_room(f);
    if (!f->asked) {
        fork_over(f);
        return;
    }
    /* The root of a tree is written down when it becomes one. */
    if (fault_error("domain.fork.root", &err) < 0 || (!c->root_id[0] && branch_put(c, &err) < 0)) {
        fail(f, &err);
        return;
    }
    make_plan(f);
    c->holds++;
    f->holding = true;
    c->world->creating += f->asked;
    cell_touch(c);
    c->world->config.driver->ops->fork(c->driver, f->asked, on_child, on_done, f);
    fault_point("domain.fork.asked");
}

static void on_refused(struct deferred *d) { fork_over(container_of(d, struct fork, later)); }

void cell_fork(struct cell *c, struct json_object *body, bool as_tree, cell_json_cb cb, void *arg) {
    struct fork *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct fork){.next = c->world->forks, .parent = cell_hold(c), .as_tree = as_tree, .errors = json_object_new_array(), .cb = cb, .arg = arg};
    c->world->forks = f;
    if (parse(f, body, &f->first) < 0)
        defer(c->world->defers, &f->later, on_refused);
    else
        cell_turn(c, &f->turn, on_turn);
}

void forks_forget(struct world *w) {
    while (w->forks) fork_free(w->forks);
}
