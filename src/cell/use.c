#include "cell/use.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cell/domain.h"

void cell_used(struct cell *c, enum use use, uint64_t n) {
    const struct world_config *config = &c->world->config;
    if (config->used && n) config->used(config->used_arg, c->owner, use, n);
}

uint64_t cell_cpu_us(const struct cell *c) { return c->cpu_seen_us; }

/* ---- the end of a cell ---- */

static void on_last_look(void *arg, struct err *err, const struct cell_stats *s) {
    struct cell *c = arg;
    if (!err && s->cpu_us > c->cpu_seen_us) c->cpu_seen_us = s->cpu_us;
    cell_release(c);
}

void cell_cpu_look(struct cell *c) {
    if (c->world->config.used && c->driver) c->world->config.driver->ops->stats(c->driver, on_last_look, cell_hold(c));
}

void cell_cpu_settle(struct cell *c) {
    uint64_t us = c->cpu_seen_us;
    c->cpu_seen_us = 0;
    cell_used(c, USE_CPU_US, us);
}

/* ---- all that live ---- */

struct look {
    struct world *world;
    struct cell **cells; /* held */
    size_t count, at;
    void (*done)(void *arg);
    void *arg;
    struct deferred later;
};

static void next(struct look *);

static void on_look(void *arg, struct err *err, const struct cell_stats *s) {
    struct look *l = arg;
    struct cell *c = l->cells[l->at++];
    /* One that ended meanwhile was told to the accounts with its last look, which came after this one. */
    if (!err && c->driver && c->status < CELL_ENDING && s->cpu_us > c->cpu_seen_us) c->cpu_seen_us = s->cpu_us;
    cell_release(c);
    next(l);
}

static void next(struct look *l) {
    for (; l->at < l->count; l->at++) {
        struct cell *c = l->cells[l->at];
        if (c->driver && c->status < CELL_ENDING) {
            l->world->config.driver->ops->stats(c->driver, on_look, l);
            return;
        }
        cell_release(c);
    }
    l->done(l->arg);
    free(l->cells);
    free(l);
}

static void begin(struct deferred *d) { next(container_of(d, struct look, later)); }

void world_look_at_cpu(struct world *w, const char *owner, void (*done)(void *arg), void *arg) {
    struct look *l = calloc(1, sizeof *l);
    if (!l) abort();
    *l = (struct look){.world = w, .done = done, .arg = arg, .cells = calloc(w->cell_count + 1, sizeof *l->cells)};
    if (!l->cells) abort();
    for (struct cell *c = w->oldest; c; c = c->newer)
        if (c->driver && (!owner || strcmp(owner, c->owner) == 0)) l->cells[l->count++] = cell_hold(c);
    defer(w->defers, &l->later, begin);
}
