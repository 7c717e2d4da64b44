/* internal.h: shared by the files of the process driver; nobody else includes it. */
#pragma once
#include <stdbool.h>
#include <uv.h>

#include "driver/driver.h"
#include "driver/process/keeper_client.h"

enum cell_place { PLACE_EMPTY, PLACE_FILLED, PLACE_OUT }; /* two pools; handed to the domain */

struct driver_cell {
    struct process_driver *driver;
    struct driver_cell *next, *previous; /* in the driver's list of all cells */
    struct driver_cell *pool_next;
    struct pool *pool;
    enum cell_place place;
    bool dying;
    uint32_t index, serial;
    char id[CELL_ID_MAX];
    char template_id[TEMPLATE_ID_HEX + 1];
    struct cell_limits limits;
    /* while pooled: what the keeper gave */
    int guest_fd;
    struct context_ends python;
};

struct create; /* one create() on its way */

/* What is kept ready of one template. */
struct pool {
    struct pool *next;
    struct process_driver *driver;
    char template_id[TEMPLATE_ID_HEX + 1];
    bool ready, starting;      /* its Python zygote */
    struct driver_cell *filled, *empty;
    unsigned filled_count, empty_count;
    struct create *waiting;    /* creates that wait for the zygote */
    struct warm *warming;      /* warm() calls that do */
    bool refilling;            /* one refill request is under way */
    unsigned failures;         /* refills that failed in a row: it pauses */
};

struct process_driver {
    struct driver base;
    uv_loop_t *loop;
    struct keeper_client *keeper;
    struct driver_listener listener;
    struct driver_cell *cells;
    struct pool *pools;
    struct ensure *ensuring; /* zygotes that are asked for */
    struct create *handed_first, *handed_last; /* creates served from a pool, delivered on the next turn */
    uv_idle_t turn;
    uv_timer_t refill_timer;
    int handles;
    struct keeper_report report;
    unsigned filled_target, empty_target;
    struct cell_limits pool_limits;
    bool keeper_lost;
    uint64_t from_filled, from_empty, made, refills;
};

/* ---- pool.c ---- */
struct pool *pool_of(struct process_driver *, const char *template_id); /* made when missing */
void pool_create(struct process_driver *, const char *template_id, const struct cell_limits *, driver_create_done, void *arg);
void pool_warm(struct process_driver *, const char *template_id, driver_done, void *arg);
/* Take a cell out of its pool (it died). */
void pool_forget(struct driver_cell *);
void pool_refill_all(struct process_driver *);
void pool_close_all(struct process_driver *);

/* ---- process_driver.c ---- */
struct driver_cell *process_cell_new(struct process_driver *, const char *template_id, const struct cell_limits *);
void process_cell_free(struct driver_cell *);
struct keeper_request process_cell_request(const struct driver_cell *, uint32_t op);
struct keeper_limits limits_to_keeper(const struct cell_limits *);
/* Make sure the template's interpreter of this language is warm, then call back. */
void zygote_ensure(struct process_driver *, const char *template_id, uint32_t language, void (*done)(void *arg, struct err *, bool cold), void *arg);
