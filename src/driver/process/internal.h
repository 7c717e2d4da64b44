/* internal.h: shared by the files of the process driver; nobody else includes it. */
#pragma once
#include <stdbool.h>
#include <uv.h>

#include "driver/driver.h"
#include "driver/keeper/keeper_ask.h"
#include "driver/keeper/kept_layers.h"
#include "driver/work.h"

enum cell_place { PLACE_EMPTY, PLACE_FILLED, PLACE_OUT }; /* two pools; handed to the domain */

struct driver_cell {
    const struct driver_ops *ops; /* first (driver.h) */
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
    uint32_t held;       /* by freeze(): the capture that holds it; 0: none */
    struct thaw *making; /* it is made from an image and nobody has it yet */
    bool gone;           /* it ended while it was made */
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
    bool keeper_lost, closing;
    char *bases, *key_file;  /* process_driver_images(); NULL: no images */
    struct base_view *views; /* base.h */
    struct need *needs, *need_active;
    struct kept_layers *keeping;
    struct works works;
    uint32_t last_capture; /* numbers of captures are this side's choice */
    uint64_t from_filled, from_empty, made, refills, forks, copies;
};

/* ---- pool.c ---- */
struct pool *pool_of(struct process_driver *, const char *template_id); /* made when missing */
void pool_create(struct process_driver *, const char *template_id, const struct cell_limits *, driver_create_done, void *arg);
void pool_warm(struct process_driver *, const char *template_id, driver_done, void *arg);
/* Take a cell out of its pool (it died). */
void pool_forget(struct driver_cell *);
void pool_refill_all(struct process_driver *);
void pool_close_all(struct process_driver *);

/* ---- fork.c ---- */
uint32_t process_capture_number(struct process_driver *);
/* One answer's descriptors as KEEPER_EVENT_FOUND lists them; the empty slots have -1. */
void process_take_streams(uint32_t slots, const int *fds, size_t n, int *guest_fd, struct context_ends ends[DRIVER_SLOTS]);
void process_fork(struct driver_cell *, unsigned n, driver_child_done each, driver_fork_done done, void *arg);
void process_rename(struct driver_cell *, const char *id, driver_done, void *arg);
uint64_t process_incarnation(const struct driver_cell *);

/* ---- freeze.c, thaw.c ---- */
void process_freeze(struct driver_cell *, const char *image_id, const char *dir, bool hold, driver_image_done done, void *arg);
void process_release(struct driver_cell *, driver_done, void *arg);
void process_capture_drop(struct process_driver *, uint32_t capture);
void process_thaw(struct driver *, const char *image_id, const char *dir, const char *cell_id, const struct cell_limits *, driver_copy_done done, void *arg);
/* A context ended before the cell was handed out: told afterwards. */
void process_thaw_exit(struct driver_cell *, int slot, enum context_fate, int code);

/* ---- process_driver.c ---- */
struct driver_cell *process_cell_new(struct process_driver *, const char *template_id, const struct cell_limits *);
void process_cell_free(struct driver_cell *);
/* By the keeper's numbers, or by what it is called; NULL: not there (any more). */
struct driver_cell *process_cell_by(struct process_driver *, uint32_t index, uint32_t serial);
struct driver_cell *process_cell_named(struct process_driver *, const char *id);
struct keeper_request process_cell_request(const struct driver_cell *, uint32_t op);
/* Make sure the template's interpreter of this language is warm, then call back. */
void zygote_ensure(struct process_driver *, const char *template_id, uint32_t language, void (*done)(void *arg, struct err *, bool cold), void *arg);
