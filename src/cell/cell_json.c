/* Cells as JSON: for the API, and as rows of the store. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cell/domain.h"
#include "cell/text.h"

#define MIB (1024 * 1024)

static void add(struct json_object *o, const char *key, struct json_object *v) { json_object_object_add(o, key, v); }
static void add_text(struct json_object *o, const char *key, const char *s) { add(o, key, json_object_new_string(s)); }
static void add_int(struct json_object *o, const char *key, int64_t v) { add(o, key, json_object_new_int64(v)); }

static void add_time(struct json_object *o, const char *key, int64_t wall) {
    char text[32];
    format_time(text, wall);
    add(o, key, wall ? json_object_new_string(text) : NULL);
}

static struct json_object *limits_json(const struct cell_limits *l) {
    struct json_object *o = json_object_new_object();
    add_int(o, "memory_mb", (int64_t)(l->memory_bytes / MIB));
    add(o, "cpus", text_number(l->cpu_millis / 1000.0));
    add_int(o, "pids", l->pids_max);
    add_int(o, "disk_mb", (int64_t)(l->disk_bytes / MIB));
    add_int(o, "open_files", l->open_files);
    return o;
}

static struct json_object *env_names(struct cell *c) {
    struct json_object *list = json_object_new_array();
    if (!c->env) return list;
    json_object_object_foreach(c->env, name, value) {
        (void)value;
        json_object_array_add(list, json_object_new_string(name));
    }
    return list;
}

const char *cell_status_word(const struct cell *c) {
    static const char *const words[] = {
        [CELL_RUNNING] = "running",  [CELL_PAUSING] = "paused", [CELL_PAUSED] = "paused",  [CELL_FREEZING] = "hibernating",
        [CELL_FROZEN] = "hibernated", [CELL_WAKING] = "waking", [CELL_ENDING] = "deleted", [CELL_ENDED] = "deleted",
    };
    return words[c->status];
}

/* Until the ttl or, when nothing happens, the idle timeout ends or freezes it: the earlier of the two. A frozen one is not idle, and one that a
 * timeout has frozen has reached its end. */
const char *cell_time_left(struct cell *c, double *seconds) {
    double left = -1;
    bool frozen = c->status == CELL_FROZEN;
    if (c->status >= CELL_ENDING) return NULL;
    if (c->expires_ms && !(frozen && c->freeze_on_timeout)) {
        left = (double)(c->expires_ms - wall_ms()) / 1000;
        if (left < 0) left = 0;
    }
    if (c->idle_timeout_ms && !frozen) {
        double idle = cell_busy(c) ? (double)c->idle_timeout_ms / 1000
                                   : (double)(c->active_ms + c->idle_timeout_ms - monotonic_ms()) / 1000;
        if (idle < 0) idle = 0;
        if (left < 0 || idle < left) left = idle;
    }
    *seconds = left;
    return c->freeze_on_timeout ? "freeze" : "delete";
}

struct json_object *cell_remaining(struct cell *c) {
    double left = -1;
    (void)cell_time_left(c, &left);
    return left < 0 ? NULL : text_number(left);
}

struct json_object *cell_describe(struct cell *c) {
    struct json_object *o = json_object_new_object(), *network = json_object_new_object();
    int contexts = 0;
    for (int i = 0; i < DRIVER_SLOTS; i++) contexts += c->contexts[i] != NULL;
    add_text(o, "id", c->id);
    add_text(o, "template", c->template_name);
    add_text(o, "template_id", c->template_id);
    add_text(o, "status", cell_status_word(c));
    add_text(o, "driver", c->driver_name);
    add_text(o, "isolation", c->isolation);
    add(o, "boot_ms", text_number(c->boot_ms));
    add_text(o, "boot_mode", c->boot_mode);
    add(o, "cpu", text_number(c->limits.cpu_millis / 1000.0));
    add_int(o, "memory_mb", (int64_t)(c->limits.memory_bytes / MIB));
    add(o, "limits", limits_json(&c->limits));
    add(o, "metadata", c->metadata ? json_object_get(c->metadata) : json_object_new_object());
    add(o, "env", env_names(c));
    add_time(o, "created_at", c->created_ms);
    add_time(o, "expires_at", c->expires_ms);
    add(o, "idle_timeout_seconds", c->idle_timeout_ms ? text_number((double)c->idle_timeout_ms / 1000) : NULL);
    add(o, "remaining_seconds", cell_remaining(c));
    add_text(o, "on_timeout", c->freeze_on_timeout ? "freeze" : "delete");
    add(o, "persistent", json_object_new_boolean(c->persistent));
    add(o, "space_id", c->space_id[0] ? json_object_new_string(c->space_id) : NULL);
    add(o, "parent_id", c->parent_id[0] ? json_object_new_string(c->parent_id) : NULL);
    add_time(o, "hibernated_at", cell_asleep(c) ? c->frozen_at_ms : 0);
    add_int(o, "contexts", contexts);
    add_text(network, "mode", "none");
    add(o, "network", network);
    return o;
}

const char *cell_tag(const struct cell *c, const char *name) {
    struct json_object *value;
    bool has = c->metadata && json_object_object_get_ex(c->metadata, name, &value) && json_object_is_type(value, json_type_string);
    return has ? json_object_get_string(value) : NULL;
}

void cell_each(struct world *w, bool (*visit)(void *arg, struct cell *), void *arg) {
    for (struct cell *c = w->oldest; c; c = c->newer)
        if (c->status < CELL_ENDING && !visit(arg, c)) return;
}

static bool matches(struct cell *c, struct json_object *wanted) {
    if (!wanted) return true;
    json_object_object_foreach(wanted, name, value) {
        struct json_object *has;
        if (!c->metadata || !json_object_object_get_ex(c->metadata, name, &has) || !json_object_equal(has, value))
            return false;
    }
    return true;
}

struct json_object *cell_list(struct world *w, struct json_object *metadata, const char *state, const char *owner) {
    struct json_object *list = json_object_new_array();
    for (struct cell *c = w->oldest; c; c = c->newer)
        if (c->status < CELL_ENDING && (!owner || strcmp(owner, c->owner) == 0) && matches(c, metadata) &&
            (!state || strcmp(state, cell_status_word(c)) == 0))
            json_object_array_add(list, cell_describe(c));
    return list;
}

/* ---- rows ---- */

static struct json_object *context_rows(struct cell *c) {
    struct json_object *list = json_object_new_array();
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct context *x = c->contexts[i];
        if (!x || x->deleting) continue;
        struct json_object *o = json_object_new_object();
        add_text(o, "id", x->id);
        add_int(o, "slot", x->slot);
        add_text(o, "language", x->language);
        add_int(o, "created_ms", x->created_ms);
        if (x->cwd) add_text(o, "cwd", x->cwd);
        if (x->env) add(o, "env", json_object_get(x->env));
        add_int(o, "last_number", x->last_number);
        add_int(o, "execution_count", (int64_t)x->execution_count);
        add_int(o, "restarts", (int64_t)x->restarts);
        if (x->running && x->running->stage == STAGE_RUNNING) {
            struct json_object *run = execution_row(x->running);
            add_text(run, "id", x->running->id);
            add_int(run, "left_ms", execution_left_ms(x->running, c->status == CELL_RUNNING ? monotonic_ms() : c->paused_ms));
            add(o, "running", run);
        }
        json_object_array_add(list, o);
    }
    return list;
}

struct json_object *cell_row(struct cell *c) {
    struct json_object *o = json_object_new_object();
    add_text(o, "owner", c->owner);
    add_text(o, "template_id", c->template_id);
    add_text(o, "template", c->template_name);
    add_text(o, "boot_mode", c->boot_mode);
    add_text(o, "driver", c->driver_name);
    add_text(o, "isolation", c->isolation);
    add(o, "boot_ms", text_number(c->boot_ms));
    add_int(o, "created_ms", c->created_ms);
    add_int(o, "expires_ms", c->expires_ms);
    add_int(o, "idle_timeout_ms", c->idle_timeout_ms);
    add_int(o, "memory_bytes", (int64_t)c->limits.memory_bytes);
    add_int(o, "disk_bytes", (int64_t)c->limits.disk_bytes);
    add_int(o, "cpu_millis", c->limits.cpu_millis);
    add_int(o, "pids_max", c->limits.pids_max);
    add_int(o, "open_files", c->limits.open_files);
    if (c->env) add(o, "env", json_object_get(c->env));
    if (c->metadata) add(o, "metadata", json_object_get(c->metadata));
    add_int(o, "ttl_ms", c->ttl_ms);
    if (c->parent_id[0]) add_text(o, "parent_id", c->parent_id);
    if (c->root_id[0]) add_text(o, "root_id", c->root_id);
    if (c->space_id[0]) add_text(o, "space_id", c->space_id);
    if (c->image_id[0]) add_text(o, "image_id", c->image_id);
    if (c->persistent) add(o, "persistent", json_object_new_boolean(true));
    if (c->freeze_on_timeout) add(o, "freeze_on_timeout", json_object_new_boolean(true));
    add(o, "paused", json_object_new_boolean(c->status == CELL_PAUSED));
    if (c->status == CELL_FREEZING) add_text(o, "state", "freezing");
    if (c->status == CELL_FROZEN || c->status == CELL_WAKING) add_text(o, "state", "hibernated");
    const struct driver_ops *ops = c->world->config.driver->ops;
    if (c->driver && ops->incarnation) add(o, "incarnation", json_object_new_uint64(ops->incarnation(c->driver)));
    add(o, "contexts", context_rows(c));
    return o;
}

int cell_save(struct cell *c, struct err *err) {
    struct json_object *row = cell_row(c);
    int out = store_cell_put(c->world->config.store, c->id,
                             json_object_to_json_string_ext(row, JSON_C_TO_STRING_NOSLASHESCAPE), err);
    json_object_put(row);
    return out;
}

static int64_t get_int(struct json_object *o, const char *key) { return json_object_get_int64(body_get(o, key)); }

static void get_text(struct json_object *o, const char *key, char *out, size_t size) {
    const char *s = text_field(o, key);
    (void)snprintf(out, size, "%s", s ? s : "");
}

int cell_from_row(struct cell *c, struct json_object *row) {
    get_text(row, "owner", c->owner, sizeof c->owner);
    get_text(row, "template_id", c->template_id, sizeof c->template_id);
    get_text(row, "template", c->template_name, sizeof c->template_name);
    get_text(row, "boot_mode", c->boot_mode, sizeof c->boot_mode);
    get_text(row, "driver", c->driver_name, sizeof c->driver_name);
    get_text(row, "isolation", c->isolation, sizeof c->isolation);
    if (!c->driver_name[0]) (void)snprintf(c->driver_name, sizeof c->driver_name, "process"); /* written before there was another */
    c->boot_ms = json_object_get_double(body_get(row, "boot_ms"));
    c->created_ms = get_int(row, "created_ms");
    c->expires_ms = get_int(row, "expires_ms");
    c->idle_timeout_ms = get_int(row, "idle_timeout_ms");
    c->limits = (struct cell_limits){.memory_bytes = (uint64_t)get_int(row, "memory_bytes"),
                                     .disk_bytes = (uint64_t)get_int(row, "disk_bytes"),
                                     .cpu_millis = (uint32_t)get_int(row, "cpu_millis"),
                                     .pids_max = (uint32_t)get_int(row, "pids_max"),
                                     .open_files = (uint32_t)get_int(row, "open_files")};
    c->env = json_object_get(body_get(row, "env"));
    c->metadata = json_object_get(body_get(row, "metadata"));
    c->ttl_ms = get_int(row, "ttl_ms");
    get_text(row, "parent_id", c->parent_id, sizeof c->parent_id);
    get_text(row, "root_id", c->root_id, sizeof c->root_id);
    get_text(row, "space_id", c->space_id, sizeof c->space_id);
    get_text(row, "image_id", c->image_id, sizeof c->image_id);
    c->persistent = json_object_get_boolean(body_get(row, "persistent"));
    c->freeze_on_timeout = json_object_get_boolean(body_get(row, "freeze_on_timeout"));
    c->status = json_object_get_boolean(body_get(row, "paused")) ? CELL_PAUSED : CELL_RUNNING;
    c->active_ms = c->paused_ms = monotonic_ms();
    return hex_valid(c->template_id, TEMPLATE_ID_HEX) && c->created_ms > 0 ? 0 : -1;
}

/* ---- stats ---- */

struct stats_call {
    struct cell *cell;
    cell_json_cb cb;
    void *arg;
    struct err err;
    struct deferred later;
};

static void stats_done(struct stats_call *x, struct err *err, struct json_object *o) {
    x->cb(x->arg, err, o);
    json_object_put(o);
    cell_release(x->cell);
    free(x);
}

static void stats_refused(struct deferred *d) {
    struct stats_call *x = container_of(d, struct stats_call, later);
    stats_done(x, &x->err, NULL);
}

static void on_stats(void *arg, struct err *err, const struct cell_stats *s) {
    struct stats_call *x = arg;
    struct cell *c = x->cell;
    if (err) {
        stats_done(x, err, NULL);
        return;
    }
    c->oom_seen = s->oom_kills;
    struct json_object *o = json_object_new_object();
    add_int(o, "memory_bytes", (int64_t)s->memory_bytes);
    add_int(o, "memory_peak_bytes", (int64_t)s->memory_peak_bytes);
    add_int(o, "memory_limit_bytes", (int64_t)c->limits.memory_bytes);
    add_int(o, "cpu_us", (int64_t)s->cpu_us);
    add_int(o, "pids", s->pids);
    add_int(o, "disk_bytes", (int64_t)s->disk_bytes);
    add_int(o, "disk_limit_bytes", (int64_t)c->limits.disk_bytes);
    add_int(o, "oom_kills", (int64_t)s->oom_kills);
    add(o, "uptime_seconds", text_number((double)(wall_ms() - c->created_ms) / 1000));
    stats_done(x, NULL, o);
}

void cell_stats(struct cell *c, cell_json_cb cb, void *arg) {
    struct stats_call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct stats_call){.cell = cell_hold(c), .cb = cb, .arg = arg};
    if (c->status >= CELL_ENDING || !c->driver) {
        if (cell_usable(c, &x->err) == 0) cell_gone_error(&x->err, c->id, c->reason);
        defer(c->world->defers, &x->later, stats_refused);
    } else
        c->world->config.driver->ops->stats(c->driver, on_stats, x);
}
