/* world.h: everything the domain knows, in one place: cells, templates, events. One world per daemon.
 *
 * Thread: the whole domain belongs to the loop thread; no call blocks (SQLite writes are WAL without fsync per commit;
 * what must survive a power cut is synced by the store). Callbacks run on the loop thread, never from inside the call
 * that took them, exactly once unless said otherwise.
 * JSON: functions that return a json_object return a new reference (the caller puts it). Objects handed in are borrowed. */
#pragma once
#include <uv.h>

#include "base/err.h"
#include "cell/use.h"
#include "driver/driver.h"

struct json_object;
struct store;
struct world;

struct world_config {
    uv_loop_t *loop;
    struct driver *driver;   /* the world owns it from here on */
    struct store *store;     /* borrowed */
    const char *state_dir;   /* templates are read below it */
    struct cell_limits limits_default, limits_max;
    uint32_t cells_max;             /* alive at once */
    int64_t ttl_default_ms;         /* 0: no limit */
    int64_t idle_timeout_default_ms; /* 0: none */
    int64_t execute_timeout_default_ms;
    int64_t timeout_grace_ms;        /* between SIGINT and SIGKILL after a timeout; 0: 2 s */
    int64_t interrupt_grace_ms;      /* the same after an interrupt that was asked for; 0: 5 s */
    uint64_t output_bytes_max;      /* kept and sent per stream and execution; the rest is counted as dropped */
    use_cb used;                    /* the accounts (use.h); NULL: none are kept. Must not call the domain */
    void *used_arg;
};

/* Defaults for a host with this much memory; every field set. */
void world_config_defaults(struct world_config *);
struct world *world_open(const struct world_config *, struct err *);
/* Take over the cells that survived the last daemon, then call done. Requests are served only afterwards. */
void world_start(struct world *, void (*done)(void *arg, struct err *), void *arg);
/* Let go of the cells (they live on) and free everything, without another callback. Holders of cells (cell_hold) and of
 * subscriptions let go before. */
void world_close(struct world *);

/* Counters and gauges for /metrics: {"cells":{"running":n,…},"created_total":n,…,"driver":{…}}. */
struct json_object *world_metrics(struct world *);

/* Events, newest last, kept in a bounded ring and in the store: {"ts","sandbox_id","type":"sandbox.created","code","message","metadata"}.
 * A subscriber hears every later event until unsubscribed. */
typedef void (*world_event_cb)(void *arg, struct json_object *event);
struct world_subscription;
struct world_subscription *world_subscribe(struct world *, const char *cell_id_or_null, world_event_cb, void *arg);
void world_unsubscribe(struct world_subscription *);
struct json_object *world_events(struct world *, const char *cell_id_or_null, int tail);
