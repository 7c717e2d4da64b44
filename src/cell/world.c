#include "cell/world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cell/branch_inside.h"
#include "cell/domain.h"

#define MIB (1024ull * 1024)

void world_config_defaults(struct world_config *c) {
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint32_t cpus = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    *c = (struct world_config){
        /* A cell may take half of a small host, but what a data frame of everyday size needs. */
        .limits_default = {.memory_bytes = memory / 2 < 1024 * MIB ? memory / 2 : 1024 * MIB,
                           .disk_bytes = 2048 * MIB,
                           .cpu_millis = 1000,
                           .pids_max = 256,
                           .open_files = 1024},
        .limits_max = {.memory_bytes = memory,
                       .disk_bytes = 64 * 1024 * MIB,
                       .cpu_millis = cpus * 1000,
                       .pids_max = 4096,
                       .open_files = 65536},
        .cells_max = 1000,
        .ttl_default_ms = 0,
        .idle_timeout_default_ms = 0,
        .execute_timeout_default_ms = 300 * 1000,
        .timeout_grace_ms = 2000,
        .interrupt_grace_ms = 5000, /* a person may want to see it stop cleanly */
        .output_bytes_max = 1 * MIB,
    };
}

struct world *world_open(const struct world_config *config, struct err *err) {
    struct world *w = calloc(1, sizeof *w);
    if (!w) abort();
    w->config = *config;
    if (w->config.timeout_grace_ms <= 0) w->config.timeout_grace_ms = 2000;
    if (w->config.interrupt_grace_ms <= 0) w->config.interrupt_grace_ms = 5000;
    w->state_dir = strdup(config->state_dir);
    w->bucket_count = 256;
    w->buckets = calloc(w->bucket_count, sizeof *w->buckets);
    if (!w->state_dir || !w->buckets) abort();
    if (!config->loop || !config->driver || !config->store) {
        err_set(err, ERR_INTERNAL, "the world needs a loop, a driver and a store");
        free(w->buckets);
        free(w->state_dir);
        free(w);
        return NULL;
    }
    w->deadlines = deadlines_open(config->loop);
    w->defers = defer_open(config->loop);
    w->events = events_open(w);
    config->driver->ops->set_listener(config->driver, &(struct driver_listener){.on_context_exit = cell_on_context_exit,
                                                                                .on_cell_gone = cell_on_gone,
                                                                                .on_adopt = adopt_cell,
                                                                                .arg = w});
    return w;
}

void world_start(struct world *w, void (*done)(void *, struct err *), void *arg) { adopt_begin(w, done, arg); }

void world_close(struct world *w) {
    w->closing = true;
    for (struct cell *c = w->oldest; c; c = c->newer) cell_turns_drop(c); /* before what they belong to goes */
    image_jobs_forget(w);
    forks_forget(w);
    merges_forget(w);
    while (w->oldest) {
        struct cell *c = w->oldest;
        c->driver = NULL; /* nothing is asked of it any more */
        c->status = CELL_ENDED;
        struct guest_link *guest = c->guest;
        c->guest = NULL;
        if (guest) guest_link_close(guest, "the daemon ends");
        for (int i = 0; i < DRIVER_SLOTS; i++)
            if (c->contexts[i]) context_free(c->contexts[i]);
        world_remove(w, c);
    }
    w->config.driver->ops->close(w->config.driver);
    events_close(w->events);
    defer_close(w->defers);
    deadlines_close(w->deadlines);
    json_object_put(w->adoptable);
    json_object_put(w->merges);
    free(w->buckets);
    free(w->state_dir);
    free(w);
}

/* ---- the table of living cells ---- */

/* Ids are random hex: their digits are the hash. */
static struct cell **bucket(struct world *w, const char *id) {
    char digits[9] = {0};
    memcpy(digits, id + 4, 8);
    return &w->buckets[strtoul(digits, NULL, 16) % w->bucket_count];
}

static void grow(struct world *w) {
    size_t count = w->bucket_count * 4;
    struct cell **buckets = calloc(count, sizeof *buckets);
    if (!buckets) abort();
    free(w->buckets);
    w->buckets = buckets;
    w->bucket_count = count;
    for (struct cell *c = w->oldest; c; c = c->newer) {
        struct cell **at = bucket(w, c->id);
        c->bucket_next = *at;
        *at = c;
    }
}

void world_add(struct world *w, struct cell *c) {
    if (w->cell_count >= w->bucket_count * 2) grow(w);
    struct cell **at = bucket(w, c->id);
    c->bucket_next = *at;
    *at = c;
    struct cell *after = w->newest; /* adopted cells come in any order: the list stays in the order of creation */
    while (after && after->created_ms > c->created_ms) after = after->older;
    c->older = after;
    c->newer = after ? after->newer : w->oldest;
    *(c->newer ? &c->newer->older : &w->newest) = c;
    *(after ? &after->newer : &w->oldest) = c;
    w->cell_count++;
}

void world_remove(struct world *w, struct cell *c) {
    struct cell **at = bucket(w, c->id);
    while (*at && *at != c) at = &(*at)->bucket_next;
    if (!*at) return;
    *at = c->bucket_next;
    *(c->older ? &c->older->newer : &w->oldest) = c->newer;
    *(c->newer ? &c->newer->older : &w->newest) = c->older;
    w->cell_count--;
    cell_release(c);
}

struct cell *world_lookup(struct world *w, const char *id) {
    if (!id_valid(id, "sbx_")) return NULL;
    for (struct cell *c = *bucket(w, id); c; c = c->bucket_next)
        if (strcmp(c->id, id) == 0) return c;
    return NULL;
}

int world_room(struct world *w, size_t n, struct err *err) {
    if (w->cell_count + w->creating + n <= w->config.cells_max) return 0;
    size_t alive = w->creating;
    for (struct cell *c = w->oldest; c; c = c->newer) alive += c->status != CELL_FROZEN;
    if (alive + n <= w->config.cells_max) return 0;
    return err_hint(err, ERR_LIMIT, "Delete sandboxes that are not used, or give them an idle timeout.",
                    "%zu sandboxes are alive, the limit of this host is %u", alive, w->config.cells_max);
}

/* ---- numbers ---- */

static void number(struct json_object *o, const char *key, uint64_t v) {
    json_object_object_add(o, key, json_object_new_uint64(v));
}

struct json_object *world_metrics(struct world *w) {
    uint64_t by_status[CELL_ENDED + 1] = {0}, executing = 0, queued = 0, processes = 0;
    for (struct cell *c = w->oldest; c; c = c->newer) {
        by_status[c->status]++;
        processes += c->proc_count;
        for (int i = 0; i < DRIVER_SLOTS; i++)
            if (c->contexts[i]) executing += c->contexts[i]->running != NULL, queued += c->contexts[i]->queued;
    }
    struct json_object *o = json_object_new_object(), *cells = json_object_new_object();
    number(cells, "running", by_status[CELL_RUNNING]);
    number(cells, "paused", by_status[CELL_PAUSED] + by_status[CELL_PAUSING]);
    number(cells, "hibernating", by_status[CELL_FREEZING]);
    number(cells, "hibernated", by_status[CELL_FROZEN]);
    number(cells, "waking", by_status[CELL_WAKING]);
    number(cells, "ending", by_status[CELL_ENDING]);
    number(cells, "creating", w->creating);
    json_object_object_add(o, "cells", cells);
    number(o, "executions_running", executing);
    number(o, "executions_queued", queued);
    number(o, "process_records", processes);
    number(o, "created_total", w->counters.created);
    number(o, "create_failed_total", w->counters.create_failed);
    number(o, "deleted_total", w->counters.deleted);
    number(o, "lost_total", w->counters.lost);
    number(o, "paused_total", w->counters.paused);
    number(o, "resumed_total", w->counters.resumed);
    number(o, "hibernated_total", w->counters.hibernated);
    number(o, "woken_total", w->counters.woken);
    number(o, "rolled_back_total", w->counters.rolled_back);
    number(o, "snapshots_total", w->counters.snapshots);
    number(o, "forked_total", w->counters.forked);
    number(o, "merged_total", w->counters.merged);
    number(o, "executions_total", w->counters.executions);
    number(o, "executions_interrupted_total", w->counters.interrupted);
    number(o, "executions_timeout_total", w->counters.timeouts);
    number(o, "oom_total", w->counters.oom);
    number(o, "context_restarts_total", w->counters.context_restarts);
    number(o, "processes_total", w->counters.processes);
    number(o, "transfers_total", w->counters.transfers);
    number(o, "output_bytes_total", w->counters.output_bytes);
    number(o, "dropped_bytes_total", w->counters.dropped_bytes);
    json_object_object_add(o, "driver", w->config.driver->ops->report(w->config.driver));
    return o;
}
