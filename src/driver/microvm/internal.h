/* internal.h: shared by the files of the microVM driver; nobody else includes it. */
#pragma once
#include <stdbool.h>
#include <uv.h>

#include "driver/driver.h"
#include "driver/keeper/keeper_ask.h"
#include "driver/keeper/kept_layers.h"
#include "driver/microvm/context_pump.h"
#include "driver/microvm/machine_link.h"
#include "driver/microvm/microvm_driver.h"
#include "driver/work.h"

/* How long a guest that works may take to answer. It is asked for little (stop, go on, who you are), but it may be emulated, and busy. */
#define ANSWER_MS 20000
#define BECOME_MS 60000 /* the first thing a copy does: its memory comes from the disk, its caches are empty */
#define RESET_MS (30ll * 24 * 3600 * 1000) /* a machine that was paused when it was found answers when it goes on */
#define STATS_MS 2000 /* the keeper's own numbers are there by then; what the guest adds can be older */
/* Children of one fork that the keeper and their guests work at together. */
#define COPIES_AHEAD 4

struct slot {
    struct driver_cell *cell; /* whose it is */
    struct context_pump *pump;
    int conn;            /* its connection, before the cell is handed out; -1: none */
    bool exited;         /* the guest said so; told when the pump is at its end */
    enum context_fate fate;
    int code;
};

struct driver_cell {
    const struct driver_ops *ops; /* first (driver.h) */
    struct microvm *driver;
    struct driver_cell *next, *previous; /* in the driver's list */
    unsigned refs;                       /* operations under way, and the list */
    bool listed, out, dying, gone;       /* out: the domain has it; gone: it ended by itself */
    bool silent;                         /* the driver was closed: nobody hears what the guest answers */
    uint32_t index, serial;
    char id[CELL_ID_MAX];
    char template_id[TEMPLATE_ID_HEX + 1];
    char base[CELL_ID_MAX]; /* "bas_…": what its memory is kept relative to */
    struct cell_limits limits;
    bool limits_unknown; /* it was taken over: its guest knows them */
    struct machine_link *link;
    struct slot slot[DRIVER_SLOTS];
    int guest_fd;                          /* before it is handed out */
    struct context_ends ends[DRIVER_SLOTS]; /* the same */
    unsigned holds;       /* HOLDs that were not taken back */
    bool paused;          /* by pause() */
    int64_t ended_ms;     /* when its control connection hung up; 0: it did not */
    bool maybe_paused;    /* taken over, and it has not answered yet */
    uint32_t held;        /* by freeze(): the capture that holds it; 0: none */
    uint32_t pids;        /* as it last said */
    uint64_t oom_kills;
    struct driver_cell *pool_next;
    struct pool *pool; /* it waits there */
};

struct create;

struct pool { /* what is kept of one template */
    struct pool *next;
    struct microvm *driver;
    char template_id[TEMPLATE_ID_HEX + 1];
    struct driver_cell *filled;
    unsigned filled_count;
    bool wanted; /* somebody created from it, or asked for it to be warm */
    bool refilling;
    unsigned failures;
};

struct microvm {
    struct driver base;
    uv_loop_t *loop;
    struct keeper_client *keeper;
    struct driver_listener listener;
    struct microvm_config config; /* its texts are copies */
    struct keeper_report report;
    struct driver_cell *cells;
    struct template *templates; /* bake.c */
    struct pool *pools;
    struct kept_layers *keeping;
    uv_timer_t refill_timer, ended_timer;
    uv_idle_t turn;
    struct later *later, **later_last;
    unsigned pool_target;
    bool keeper_lost, closing;
    int handles;
    struct works works;
    uint32_t last_capture;
    uint64_t from_pool, made, bakes, bakes_failed, forks, copies;
    int64_t bake_ms_last;
};

/* ---- microvm_driver.c ---- */
void microvm_free_last(void *driver); /* when it closes and nothing of it is under way */
/* Call back on a later turn of the loop; not at all when the driver closes. */
void microvm_later(struct microvm *, void (*turn)(void *arg), void *arg);
uint32_t microvm_capture_number(struct microvm *);
void microvm_capture_drop(struct microvm *, uint32_t capture);

/* ---- cell.c: the life of a cell ---- */
struct driver_cell *machine_cell_new(struct microvm *, const char *template_id, const struct cell_limits *);
struct driver_cell *machine_cell_hold(struct driver_cell *);
void machine_cell_release(struct driver_cell *);
/* Out of the list: its streams close, requests to it fail; freed with the last hold. */
void machine_cell_end(struct driver_cell *);
struct driver_cell *machine_cell_by(struct microvm *, uint32_t index, uint32_t serial);
struct driver_cell *machine_cell_named(struct microvm *, const char *id);
struct keeper_request machine_request(const struct driver_cell *, uint32_t op);
void machine_destroy(struct driver_cell *, driver_done, void *arg); /* done may be NULL */
/* Ask the guest. The cell is held until the answer. */
void machine_ask(struct driver_cell *, struct machine_message *, int64_t timeout_ms, machine_answer, void *arg);
/* Stop and go on, counted: GO is said when the last HOLD was taken back. */
void machine_hold(struct driver_cell *, machine_answer, void *arg);
void machine_go(struct driver_cell *);
/* Its control connection hung up: the keeper says in a moment why, else it is lost. */
void machine_ended_soon(struct driver_cell *);
/* It ended by itself. */
void machine_gone(struct driver_cell *, enum cell_fate);

/* ---- arrive.c: from the keeper's answer to a cell that can be handed out ---- */
/* control, guest, one connection for each bit of slots, lowest first. False: not that (the fds are closed). */
bool machine_take_fds(struct driver_cell *, uint32_t slots, const int *fds, size_t n);
/* A copy becomes its own: IDENTITY, streams for its contexts. On failure the cell is destroyed before the callback. */
void machine_become(struct driver_cell *, void (*done)(void *arg, struct err *, struct driver_cell *), void *arg);
/* Make the streams of one slot from its connection. */
int machine_open_slot(struct driver_cell *, int slot, int conn, bool carried, struct context_ends *, struct err *);
/* The domain gets everything; the cell is out. machine_told() right after the domain's callback. */
void machine_hand_out(struct driver_cell *, int *guest_fd, struct context_ends ends[DRIVER_SLOTS]);
void machine_told(struct driver_cell *);
void machine_context_exit(struct driver_cell *, int slot, enum context_fate, int code);

/* ---- bake.c ---- */
typedef void (*template_done)(void *arg, struct err *, const char *layer, bool cold);
/* The template's machine stands and can be copied; layer: its base. cold: it had to be baked. */
void template_need(struct microvm *, const char *template_id, template_done, void *arg);
/* The base of the machine that stands, NULL: none does. */
const char *template_ready(struct microvm *, const char *template_id);
/* It does not stand any more (the keeper said so). */
void template_forget(struct microvm *, const char *template_id);
void templates_forget(struct microvm *);
void templates_close(struct microvm *);
/* An event of a machine that is being baked. */
bool template_event(struct microvm *, const struct keeper_reply *);
struct json_object *templates_report(struct microvm *);

/* ---- pool.c ---- */
void machine_create(struct driver *, const char *template_id, const struct cell_limits *, driver_create_done, void *arg);
void machine_warm(struct driver *, const char *template_id, driver_done, void *arg);
void machine_pool_forget(struct driver_cell *);
void machine_refill(struct microvm *);
void machine_pools_close(struct microvm *);

/* ---- the rest of the contract ---- */
void machine_fork(struct driver_cell *, unsigned n, driver_child_done, driver_fork_done, void *arg);
void machine_rename(struct driver_cell *, const char *id, driver_done, void *arg);
void machine_freeze(struct driver_cell *, const char *image_id, const char *dir, bool hold, driver_image_done, void *arg);
void machine_release_held(struct driver_cell *, driver_done, void *arg);
void machine_thaw(struct driver *, const char *image_id, const char *dir, const char *cell_id, const struct cell_limits *, driver_copy_done, void *arg);
void machine_adopt(struct driver *, driver_done, void *arg);
void machine_found(struct microvm *, const struct keeper_reply *, const int *fds, size_t n);
void machine_context_make(struct driver_cell *, int slot, const char *language, driver_context_done, void *arg);
void machine_context_signal(struct driver_cell *, int slot, int signo);
void machine_set_limits(struct driver_cell *, const struct cell_limits *, driver_done, void *arg);
void machine_pause(struct driver_cell *, driver_done, void *arg);
void machine_resume(struct driver_cell *, driver_done, void *arg);
/* The machine itself stops (still) or runs, whatever its processes do. */
void machine_stand(struct driver_cell *, bool still, driver_done, void *arg);
void machine_stats(struct driver_cell *, driver_stats_done, void *arg);
/* Limits that no machine of this driver can give: invalid_request. */
int machine_limits_check(const struct microvm *, const struct cell_limits *, struct err *);
