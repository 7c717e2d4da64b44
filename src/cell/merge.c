/* One cell takes another's place. The child's struct gets the parent's id and what belongs to the id (owner, metadata, time limits, Space); the parent's
 * struct ends under the child's id. This way round nothing that points at the child's contexts, processes and channels has to be told, and whoever waits
 * in the parent holds a struct that has ended.
 *
 * A row in the journal comes first, then the driver's rename, which is one step, then one transaction that writes the new rows and takes the journal's
 * away. The cell that is found under the parent's id tells the next daemon whether the rename happened: incarnation(). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "cell/branch_inside.h"
#include "cell/image.h"
#include "cell/text.h"

#define RETRY_MS 1000 /* after a transaction that failed: a full disk, most likely */

struct merge {
    struct merge *next;
    struct cell *into, *from;
    struct turn turn[2];
    bool held[2]; /* the turn of into, of from */
    bool into_first; /* two merges of the same two cells take the turns in the same order: that of their addresses */
    char journal_id[DOMAIN_ID], into_id[CELL_ID_MAX], from_id[CELL_ID_MAX];
    char image_id[CELL_ID_MAX]; /* of the child: it goes with the child's id; "": none */
    cell_done_cb cb;
    void *arg;
    struct err err;
    bool failed, swapped;
    struct deadline retry;
    struct deferred later;
};

static void merge_free(struct merge *m) {
    struct world *w = m->into->world;
    struct merge **at = &w->merging;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    deadline_unset(w->deadlines, &m->retry);
    defer_cancel(w->defers, &m->later);
    cell_release(m->into);
    cell_release(m->from);
    free(m);
}

static void lost_meanwhile(struct cell *c) {
    char why[sizeof c->lost_why];
    memcpy(why, c->lost_why, sizeof why);
    c->merging = false;
    c->lost_why[0] = 0;
    if (why[0]) cell_lost(c, why);
}

static void tell(struct merge *m) {
    if (m->cb) m->cb(m->arg, m->failed ? &m->err : NULL);
    m->cb = NULL;
    if (m->held[0]) cell_turn_over(m->into);
    if (m->held[1]) cell_turn_over(m->from);
    m->held[0] = m->held[1] = false;
}

static void give_up(struct merge *m) {
    m->failed = true;
    tell(m);
    merge_free(m);
}

/* ---- rows ---- */

static void reason_of(char out[64], const char *into_id) { (void)snprintf(out, 64, "merged into %s", into_id); }

/* The row of the id from now on: what belongs to the id is the parent's, what is in the cell the child's. */
static struct json_object *merged_row(struct json_object *into, struct json_object *from) {
    static const char *const inner[] = {"template_id", "template", "env", "memory_bytes", "disk_bytes", "cpu_millis", "pids_max", "open_files",
                                        "paused", "contexts", "incarnation"};
    struct json_object *o = json_object_new_object();
    json_object_object_foreach(into, key, value) json_object_object_add(o, key, json_object_get(value));
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
        struct json_object *v = NULL;
        json_object_object_del(o, inner[i]);
        if (json_object_object_get_ex(from, inner[i], &v)) json_object_object_add(o, inner[i], json_object_get(v));
    }
    return o;
}

static int write_journal(struct merge *m, struct err *err) {
    struct json_object *into = cell_row(m->into), *from = cell_row(m->from), *o = json_object_new_object();
    const struct driver_ops *ops = m->from->world->config.driver->ops;
    json_object_object_add(o, "op", json_object_new_string("merge"));
    json_object_object_add(o, "into", json_object_new_string(m->into->id));
    json_object_object_add(o, "from", json_object_new_string(m->from->id));
    json_object_object_add(o, "incarnation", json_object_new_uint64(ops->incarnation(m->from->driver)));
    json_object_object_add(o, "image", json_object_new_string(m->image_id));
    json_object_object_add(o, "row", merged_row(into, from));
    id_make(m->journal_id, "job_");
    int out = fault_error("domain.merge.journal", err);
    if (out == 0)
        out = store_journal_put(m->into->world->config.store, m->journal_id,
                                json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE), err);
    json_object_put(into);
    json_object_put(from);
    json_object_put(o);
    return out;
}

/* Executions that the parent's last daemon wrote down as running: nobody will finish them. */
struct killed {
    struct world *world;
    struct json_object *ids; /* id: context id */
};

static int collect_running(void *arg, const char *id, const char *json) {
    struct killed *k = arg;
    struct json_object *row = json_tokener_parse(json);
    const char *status = row ? text_field(row, "status") : NULL;
    if (status && strcmp(status, "running") == 0) json_object_object_add(k->ids, id, json_object_get(body_get(row, "context_id")));
    json_object_put(row);
    return 0;
}

static int end_running_rows(struct world *w, const char *cell_id, struct err *err) {
    struct killed k = {w, json_object_new_object()};
    int out = store_execution_each(w->config.store, cell_id, collect_running, &k, err);
    json_object_object_foreach(k.ids, id, context_id) {
        struct json_object *row = json_object_new_object(), *o = json_object_new_object();
        json_object_object_add(o, "id", json_object_new_string(id));
        json_object_object_add(o, "context_id", json_object_get(context_id));
        json_object_object_add(o, "results", json_object_new_array());
        json_object_object_add(o, "stdout", json_object_new_string(""));
        json_object_object_add(o, "stderr", json_object_new_string(""));
        json_object_object_add(o, "error", execution_error("SandboxEnded", "", "merged: another branch took this sandbox's place"));
        json_object_object_add(o, "exit", json_object_new_string("killed"));
        json_object_object_add(row, "status", json_object_new_string("finished"));
        json_object_object_add(row, "execution", o);
        if (out == 0) out = store_execution_put(w->config.store, id, cell_id, json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), err);
        json_object_put(row);
    }
    json_object_put(k.ids);
    return out;
}

struct names {
    const char *journal_id, *into_id, *from_id, *image_id;
};

/* Everything that the merge changes in the store, in one commit. row NULL: the cell is gone meanwhile, and its row says so. */
static int write_merged(struct world *w, struct names n, struct json_object *row, struct err *err) {
    struct store *s = w->config.store;
    char reason[64];
    reason_of(reason, n.into_id);
    if (fault_error("domain.merge.store", err) < 0) return -1;
    store_begin_durable(s);
    if (end_running_rows(w, n.into_id, err) == 0 && store_execution_move(s, n.from_id, n.into_id, err) == 0 &&
        (!row || store_cell_put(s, n.into_id, json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), err) == 0) &&
        store_cell_delete(s, n.from_id, reason, err) == 0 && (!n.image_id[0] || store_image_delete(s, n.image_id, err) == 0) &&
        store_journal_delete(s, n.journal_id, err) == 0) {
        branch_ended(w, n.from_id, NULL, reason);
        if (store_commit_durable(s, err) < 0) return -1;
        image_discard(w, n.image_id);
        return 0;
    }
    store_rollback(s);
    return -1;
}

/* ---- the swap ---- */

#define SWAP(field)                                                                                                    \
    do {                                                                                                               \
        __typeof__(a->field) swap_;                                                                                    \
        memcpy(&swap_, &a->field, sizeof swap_);                                                                       \
        memcpy(&a->field, &b->field, sizeof swap_);                                                                    \
        memcpy(&b->field, &swap_, sizeof swap_);                                                                       \
    } while (0)

/* What belongs to an id, not to what is in the cell. */
static void swap_identity(struct cell *a, struct cell *b) {
    SWAP(id);
    SWAP(owner);
    SWAP(boot_mode);
    SWAP(boot_ms);
    SWAP(parent_id);
    SWAP(root_id);
    SWAP(persistent);
    SWAP(freeze_on_timeout);
    SWAP(space_id);
    SWAP(image_id);
    SWAP(frozen_at_ms);
    SWAP(image_memory);
    SWAP(image_disk);
    SWAP(image_frozen_ms);
    SWAP(not_carried);
    SWAP(metadata);
    SWAP(created_ms);
    SWAP(expires_ms);
    SWAP(ttl_ms);
    SWAP(idle_timeout_ms);
}

static void move_waiters(struct cell *to, struct cell *of) {
    struct cell_waiter **at = &to->waiters;
    while (*at) at = &(*at)->next;
    *at = steal_ptr(&of->waiters);
}

/* What ran or waited there, while the cell still has its id: the records are the id's. */
static void end_executions(struct cell *into) {
    enum cell_status status = into->status;
    into->status = CELL_RUNNING; /* for the records to be kept */
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (into->contexts[i]) context_end_all(into->contexts[i], "killed", "merged: another branch took this sandbox's place");
    into->status = status;
}

/* The parent's struct, which has the child's id now, ends without another word to driver and store. */
static void end_old(struct merge *m) {
    struct cell *old = m->into;
    deadline_unset(old->world->deadlines, &old->life);
    old->status = CELL_ENDED;
    old->end_waits = false;
    defer_cancel(old->world->defers, &old->ending);
    reason_of(old->reason, m->into_id);
    struct guest_link *guest = old->guest;
    old->guest = NULL;
    if (guest) guest_link_close(guest, old->reason);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (old->contexts[i]) context_free(old->contexts[i]);
    cell_log_end(old);
}

static void swap(struct merge *m) {
    struct cell *into = m->into, *from = m->from;
    struct world *w = into->world;
    bool end_asked = into->status == CELL_ENDING;
    char reason[sizeof into->reason];
    memcpy(reason, into->reason, sizeof reason);
    into->driver = NULL;
    end_executions(into);
    cell_cpu_settle(into);
    cell_hold(into);
    cell_hold(from);
    world_remove(w, into);
    world_remove(w, from);
    swap_identity(into, from);
    world_add(w, from); /* with the reference that was taken above */
    history_move(&w->history, &from->history, &into->history);
    if (from->status == CELL_ENDING) { /* somebody deleted the child meanwhile: its id is gone, as asked */
        from->status = CELL_RUNNING;
        from->reason[0] = 0;
        from->end_waits = false;
        into->status = CELL_ENDED;
        struct cell_waiter *theirs = steal_ptr(&from->waiters);
        move_waiters(from, into);
        into->waiters = theirs;
    } else
        move_waiters(from, into);
    end_old(m);
    for (struct cell_waiter *x; (x = into->waiters);) { /* of the child's delete */
        into->waiters = x->next;
        if (x->cb) x->cb(x->arg, NULL);
        free(x);
    }
    if (end_asked) cell_end(from, reason);               /* the id was to be deleted: with what it names now */
    cell_touch(from);
    cell_arm(from);
    cell_release(into);
}

static void events(struct merge *m) {
    struct world *w = m->into->world;
    struct json_object *about = json_object_new_object();
    char reason[64];
    reason_of(reason, m->into_id);
    json_object_object_add(about, "from", json_object_new_string(m->from_id));
    world_event(w, m->into_id, "sandbox.merged", NULL, NULL, about);
    world_event(w, m->from_id, "sandbox.deleted", NULL, reason, NULL);
    w->counters.merged++;
}

static void on_retry(struct deadline *d);

/* The cells have changed places; a database that cannot be written now will be later, and the journal tells the next daemon. */
static bool try_store(struct merge *m) {
    struct cell *c = m->from;
    struct err err;
    struct json_object *row = c->status < CELL_ENDED ? cell_row(c) : NULL;
    int out = write_merged(c->world, (struct names){m->journal_id, m->into_id, m->from_id, m->image_id}, row, &err);
    json_object_put(row);
    if (out == 0) return true;
    log_error("%s: the merge is not written yet: %s", m->into_id, err.text);
    deadline_set(c->world->deadlines, &m->retry, monotonic_ms() + RETRY_MS, on_retry);
    return false;
}

static void on_retry(struct deadline *d) {
    struct merge *m = container_of(d, struct merge, retry);
    if (try_store(m)) merge_free(m);
}

static void on_renamed(void *arg, struct err *e) {
    struct merge *m = arg;
    struct err err;
    if (e) {
        if (store_journal_delete(m->into->world->config.store, m->journal_id, &err) < 0) log_error("%s", err.text);
        m->err = *e;
        lost_meanwhile(m->into);
        lost_meanwhile(m->from);
        give_up(m);
        return;
    }
    fault_point("domain.merge.renamed");
    m->into->lost_why[0] = 0; /* its end is what was asked for */
    m->into->merging = false;
    swap(m);
    m->swapped = true;
    events(m);
    lost_meanwhile(m->from);
    bool stored = try_store(m);
    fault_point("domain.merge.stored");
    tell(m);
    if (stored) merge_free(m);
}

/* ---- its turn ---- */

static int check(struct merge *m, struct err *err) {
    struct cell *into = m->into, *from = m->from;
    const struct driver_ops *ops = into->world->config.driver->ops;
    if (cell_usable(from, err) < 0 || (into->status != CELL_PAUSED && cell_usable(into, err) < 0)) return -1;
    if (!ops->rename || !ops->incarnation)
        return err_hint(err, ERR_UNSUPPORTED, "Start the daemon with the process driver (`cella up`).", "the driver \"%s\" cannot merge sandboxes",
                        ops->name);
    if (branch_related(into->world, into, from)) return 0;
    return err_hint(err, ERR_CONFLICT, "GET …/tree shows which sandboxes belong together.",
                    "%s is neither a descendant nor a sibling of %s", from->id, into->id);
}

static void on_both_turns(struct merge *m) {
    struct world *w = m->into->world;
    memcpy(m->into_id, m->into->id, sizeof m->into_id);
    memcpy(m->from_id, m->from->id, sizeof m->from_id);
    memcpy(m->image_id, m->from->image_id, sizeof m->image_id);
    if (check(m, &m->err) < 0 || write_journal(m, &m->err) < 0) {
        give_up(m);
        return;
    }
    fault_point("domain.merge.journaled");
    m->into->merging = m->from->merging = true;
    cell_cpu_look(m->into); /* it ends in the same step */
    w->config.driver->ops->rename(m->from->driver, m->into->id, on_renamed, m);
}

static void on_second(struct turn *t) {
    struct merge *m = container_of(t, struct merge, turn[1]);
    m->held[0] = m->held[1] = true;
    on_both_turns(m);
}

static void on_first(struct turn *t) {
    struct merge *m = container_of(t, struct merge, turn[0]);
    m->held[m->into_first ? 0 : 1] = true;
    cell_turn(m->into_first ? m->from : m->into, &m->turn[1], on_second);
}

static void on_refused(struct deferred *d) { give_up(container_of(d, struct merge, later)); }

void cell_merge(struct cell *into, struct cell *from, cell_done_cb cb, void *arg) {
    struct merge *m = calloc(1, sizeof *m);
    if (!m) abort();
    *m = (struct merge){.next = into->world->merging, .into = cell_hold(into), .from = cell_hold(from), .cb = cb, .arg = arg};
    into->world->merging = m;
    m->into_first = (uintptr_t)into < (uintptr_t)from;
    if (into == from) {
        err_set(&m->err, ERR_INVALID, "a sandbox cannot be merged into itself");
        defer(into->world->defers, &m->later, on_refused);
    } else
        cell_turn(m->into_first ? into : from, &m->turn[0], on_first);
}

bool merge_unwritten(struct world *w, const char *id, char reason[64]) {
    for (struct merge *m = w->merging; m; m = m->next)
        if (m->swapped && strcmp(m->from_id, id) == 0) return reason_of(reason, m->into_id), true;
    return false;
}

void merges_forget(struct world *w) {
    while (w->merging) merge_free(w->merging);
}

/* ---- after a crash ---- */

static int keep_journal(void *arg, const char *id, const char *json) {
    struct json_object *row = json_tokener_parse(json);
    const char *op = row ? text_field(row, "op") : NULL, *into = row ? text_field(row, "into") : NULL;
    if (op && into && strcmp(op, "merge") == 0) {
        json_object_object_add(row, "journal_id", json_object_new_string(id));
        json_object_object_add(arg, into, json_object_get(row)); /* one merge at a time is under way for an id */
    }
    json_object_put(row);
    return 0;
}

int merge_recover_begin(struct world *w, struct err *err) {
    w->merges = json_object_new_object();
    return store_journal_each(w->config.store, keep_journal, w->merges, err);
}

struct json_object *merge_recover_cell(struct world *w, struct driver_cell *dc, struct json_object *row) {
    const struct driver_ops *ops = w->config.driver->ops;
    const char *id = ops->id(dc);
    struct json_object *job = w->merges ? body_get(w->merges, id) : NULL;
    const char *from = job ? text_field(job, "from") : NULL, *journal_id = job ? text_field(job, "journal_id") : NULL;
    const char *image = job ? text_field(job, "image") : NULL;
    struct err err;
    if (!from || !journal_id || !ops->incarnation) return row;
    uint64_t renamed = json_object_get_uint64(body_get(job, "incarnation"));
    if (ops->incarnation(dc) != renamed) return row; /* it is the old one: the rename did not happen */
    /* The row may be newer than the journal, when the merge was done and could not be written at once. */
    if (!row || json_object_get_uint64(body_get(row, "incarnation")) != renamed) row = body_get(job, "row");
    if (!row) return NULL;
    log_info("%s: the merge of %s is completed", id, from);
    if (write_merged(w, (struct names){journal_id, id, from, image ? image : ""}, row, &err) == 0)
        world_event(w, id, "sandbox.merged", NULL, "completed by the daemon that took over", NULL);
    else {
        log_error("%s: the merge is not written yet: %s", id, err.text);
        json_object_object_add(job, "keep", json_object_new_boolean(true));
    }
    json_object_object_del(w->adoptable, from);
    json_object_object_add(w->adoptable, id, json_object_get(row));
    return row;
}

void merge_recover_end(struct world *w) {
    struct err err;
    json_object_object_foreach(w->merges, into, job) {
        const char *journal_id = text_field(job, "journal_id");
        (void)into;
        if (!body_get(job, "keep") && journal_id && store_journal_delete(w->config.store, journal_id, &err) < 0) log_error("%s", err.text);
    }
    json_object_put(w->merges);
    w->merges = NULL;
}
