/* use.h: what sandboxes used, told to whoever keeps the accounts (world_config.used). Every kind is told when it is over or
 * done, once, so the sums of several daemons one after another are right. Loop thread only. */
#pragma once
#include <stdint.h>

struct cell;
struct world;

enum use {
    USE_CREATED,      /* sandboxes made by a create, from a snapshot too */
    USE_FORKED,       /* sandboxes made as children of a fork */
    USE_EXECUTIONS,   /* that ended, however they ended */
    USE_EXECUTION_US, /* time they took, without waiting in the queue */
    USE_COMMANDS,     /* processes that somebody asked for */
    USE_CPU_US,       /* of everything in a sandbox; told when it ends or is hibernated */
    USES
};

/* owner: id of the API key, or "". */
typedef void (*use_cb)(void *arg, const char *owner, enum use, uint64_t n);

/* Look at the living cells of this owner (NULL: all), one after another, so that cell_cpu_us() knows them; then done. */
void world_look_at_cpu(struct world *, const char *owner, void (*done)(void *arg), void *arg);
/* What a living cell used by the last look, and is not told to `used` yet. */
uint64_t cell_cpu_us(const struct cell *);
