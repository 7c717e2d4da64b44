/* domain.h: the structures behind world.h, cell.h, execution.h, process.h and files.h. Private to this floor.
 *
 * Ownership: the world owns its cells (one reference while they are in its table), a cell owns its contexts, processes
 * and links, a context owns its executions. Nothing of these is freed from inside a call of the API floor: deletes,
 * restarts and ends happen on a later turn of the loop. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/id.h"
#include "cell/cell.h"
#include "cell/context_link.h"
#include "cell/deadline.h"
#include "cell/defer.h"
#include "cell/execution.h"
#include "cell/guest_link.h"
#include "cell/history.h"
#include "cell/process.h"
#include "cell/tail.h"
#include "cell/world.h"
#include "store/store.h"

#define DOMAIN_ID (5 + ID_HEX + 1) /* the longest prefix ("proc_") + digits + NUL */
#define LANGUAGE_PYTHON "python"
#define LANGUAGE_SHELL "shell"

struct counters {
    uint64_t created, create_failed, deleted, lost, paused, resumed, hibernated, woken, rolled_back, forked, merged, snapshots, executions, interrupted, timeouts, oom, context_restarts, processes,
        transfers, output_bytes, dropped_bytes;
};

struct world {
    struct world_config config;
    char *state_dir;
    struct deadlines *deadlines;
    struct defer_queue *defers;
    struct cell **buckets;
    size_t bucket_count, cell_count; /* alive ones, frozen ones among them */
    struct cell *oldest, *newest;
    uint32_t creating; /* asked of the driver, not answered yet */
    struct events *events;
    struct history history;
    struct counters counters;
    struct image_job *image_jobs; /* in the thread pool */
    struct json_object *adoptable; /* during start: rows of the store by id */
    struct fork *forks;            /* under way */
    struct merge *merging;
    struct json_object *merges;    /* during start: merges that were not finished, by the id that was taken over */
    bool closing;
};

/* FREEZING: being written to its Space, stopped. FROZEN: only the image exists; driver, guest and links are NULL, contexts are FROZEN. WAKING:
 * being made from the image. */
enum cell_status { CELL_RUNNING, CELL_PAUSING, CELL_PAUSED, CELL_FREEZING, CELL_FROZEN, CELL_WAKING, CELL_ENDING, CELL_ENDED };

/* Long operations of one cell (freeze, wake, snapshot, fork, merge) take turns: each begins when the one before is over, and looks at the
 * state of the cell then. A cell that is deleted meanwhile ends when the operation is over. Zeroed memory is an idle one. */
struct turn {
    struct turn *next;
    void (*go)(struct turn *);
    void (*drop)(struct turn *); /* the world closes: let go of everything without a word; NULL: nothing to let go of */
};

struct cell_waiter { /* somebody who waits for the end of a delete */
    struct cell_waiter *next;
    cell_done_cb cb;
    void *arg;
};

struct cell {
    struct world *world;
    struct cell *bucket_next, *older, *newer;
    unsigned refs;
    char id[CELL_ID_MAX];
    char owner[64];
    char template_id[TEMPLATE_ID_HEX + 1], template_name[72];
    char boot_mode[16];
    enum cell_status status;
    char reason[64];            /* why it ended */
    struct driver_cell *driver; /* NULL once gone */
    char driver_name[16], isolation[176]; /* of the driver whose cell it is, or was when it was frozen */
    struct guest_link *guest;
    char parent_id[CELL_ID_MAX], root_id[CELL_ID_MAX]; /* branches: "" for one that was not forked; root of its tree (itself) */
    bool persistent, freeze_on_timeout; /* freeze_on_timeout: an idle timeout or ttl freezes instead of deleting */
    char space_id[CELL_ID_MAX + 4];     /* "space_" + the id's hex; "" when not persistent */
    char image_id[CELL_ID_MAX];         /* the Space's newest image ("img_" + 32 hex); "" before the first freeze */
    int64_t frozen_at_ms;               /* wall clock of that image */
    uint64_t image_memory, image_disk;  /* its bytes */
    uint32_t image_frozen_ms;           /* how long the cell stood still for it */
    struct json_object *not_carried;    /* what that image does not have */
    int64_t ttl_ms;                     /* as it was given: a wake begins it anew when a timeout freezes; 0: none */
    int64_t freeze_again_ms;            /* monotonic: a freeze on timeout that failed is not tried again before */
    struct turn *turns, **turns_last;   /* that wait */
    struct turn *turn;                  /* whose go() was called */
    bool turn_taken, end_waits;
    bool merging;      /* one of two that are being merged: if it is lost meanwhile, that is looked at afterwards (lost_why) */
    bool rolling_back; /* it was lost and goes back to its image */
    char lost_why[64];
    struct turn rollback;
    struct deferred turn_later;
    unsigned holds; /* copies under way: nothing begins in its contexts until they are made */
    struct context *contexts[DRIVER_SLOTS];
    size_t unfinished; /* bytes that their links hold (context_link.h) */
    struct proc *procs; /* newest first */
    size_t proc_count, transfers;
    struct json_object *env, *metadata;
    struct cell_limits limits;
    int64_t created_ms, expires_ms; /* wall clock; expires 0: never */
    int64_t idle_timeout_ms;        /* 0: none */
    int64_t active_ms, paused_ms;   /* monotonic */
    double boot_ms;
    uint64_t oom_seen; /* oom_kills of the newest stats */
    uint64_t cpu_seen_us; /* by the newest look of use.c, since it was made or woken */
    struct tail log;
    struct log_follower *log_followers; /* log_follow.c */
    struct history_cell history;
    struct deadline life;
    struct deferred ending;
    struct cell_waiter *waiters;
};

enum context_state { CONTEXT_MAKING, CONTEXT_LIVE, CONTEXT_LOST, CONTEXT_FROZEN };

struct context {
    struct cell *cell;
    int slot;
    char id[DOMAIN_ID];
    const char *language;
    enum context_state state;
    struct context_link *link; /* while LIVE */
    struct context_rest rest;  /* while FROZEN: half a message that it had sent */
    bool ready;                /* it said so: SIGINT has a handler now */
    bool interrupt_at_ready;
    bool taking_over; /* HELLO was sent, STATUS has not come */
    bool dying;       /* SIGKILL was sent, its exit has not come */
    bool early_exit;  /* its exit came while it was MAKING */
    enum context_fate early_fate;
    int early_code;
    bool deleting;
    bool restart_unsaid; /* it was restarted and no execution told so yet */
    unsigned failed_starts;
    const char *broken; /* how it broke the protocol */
    char *cwd;
    struct json_object *env;
    int64_t created_ms;
    uint32_t last_number;
    uint64_t execution_count, restarts;
    struct execution *running, *queue, **queue_last;
    struct inspection *inspections; /* inspect.h: the first one runs when `inspecting` is its number */
    uint32_t inspecting;            /* number of the question that the context works at, asked for or not any more; 0: none */
    size_t queued;
    struct deadline settle; /* after an interrupt: do not start the next one while the signal may be under way */
    struct deadline eof;    /* the stream ended: the exit must follow */
    cell_json_cb restart_cb;
    cell_done_cb delete_cb;
    void *restart_arg, *delete_arg;
    struct deferred later;
};

enum execution_stage { STAGE_QUEUED, STAGE_RUNNING, STAGE_RESTARTING, STAGE_DONE };
enum execution_stop { STOP_NONE, STOP_INTERRUPT, STOP_TIMEOUT, STOP_KILL };

struct output {
    struct buf kept;
    uint64_t passed, dropped;
};

struct execution {
    struct context *context;
    struct execution *next;
    char id[DOMAIN_ID];
    char forked_from[DOMAIN_ID]; /* "": it was started here */
    uint32_t number;
    enum execution_stage stage;
    enum execution_stop stop;
    execution_cb cb; /* NULL after detach */
    void *arg;
    bool collect, stop_on_input, svg, paused, told_start, clock_held, wants_input, stored, context_restarted,
        restart_lost, has_exit_code, known /* no frame of it was missed */, stop_at_wake;
    bool after_restart_of_daemon;
    unsigned shown, replayed; /* results handed on; the same among what the context sends again */
    struct json_object *body; /* holds the code: a context frozen before it read it gets it again */
    int64_t timeout_ms, started_ms /* wall */, started_us /* monotonic */, slept_ms /* while its cell was hibernated */;
    struct output out[2];
    struct json_object *results, *error;
    size_t results_bytes;
    uint64_t results_dropped;
    int64_t execution_count;
    int exit_code;
    const char *exit; /* the word, once known */
    struct deadline clock, store_at;
    struct deferred later;
};

/* ---- world.c ---- */
void world_add(struct world *, struct cell *);
void world_remove(struct world *, struct cell *);
struct cell *world_lookup(struct world *, const char *id);
/* events.c: type like "sandbox.created"; code and message may be NULL; metadata is taken over or NULL. */
void world_event(struct world *, const char *cell_id, const char *type, const char *code, const char *message,
                 struct json_object *metadata);
struct events *events_open(struct world *);
void events_close(struct events *);

/* turn.c: go() is called on a later turn of the loop, when it is this one's; turn_over() ends it. The caller holds the cell. */
void cell_turn(struct cell *, struct turn *, void (*go)(struct turn *));
void cell_turn_over(struct cell *);
void cell_turns_drop(struct cell *);

/* ---- adopt.c ---- */
void adopt_begin(struct world *, void (*done)(void *, struct err *), void *arg);
void adopt_cell(void *world, struct driver_cell *, const char *template_id, int guest_fd,
                const struct context_ends[DRIVER_SLOTS]);
/* What a context answered to HELLO. */
void adopt_frame(struct context *, uint16_t type, uint16_t flags, uint32_t execution, struct json_object *);

/* ---- cell.c, lifecycle.c, cell_json.c ---- */
struct cell *cell_new(struct world *, const char *id);
void cell_set_driver(struct cell *, struct driver_cell *);
void cell_open_guest(struct cell *, int fd, bool taken_over);
int cell_save(struct cell *, struct err *);
struct json_object *cell_row(struct cell *);
int cell_from_row(struct cell *, struct json_object *row);
/* 0 when it can run something now; conflict when paused, gone when it ended. */
int cell_usable(struct cell *, struct err *);
int cell_gone_error(struct err *, const char *id, const char *reason);
bool cell_busy(const struct cell *);
struct json_object *cell_remaining(struct cell *); /* seconds, or NULL: no limit */
void cell_set_persistence(struct cell *, bool persistent, bool freeze_on_timeout); /* not saved */
void cell_arm(struct cell *);                      /* set the life deadline anew */
/* Begin the end on the next turn. The reason stays. */
void cell_end(struct cell *, const char *reason);
void cell_end_go(struct cell *); /* turn.c: the operation that the end waited for is over */
void cell_on_gone(void *world, struct driver_cell *, enum cell_fate);
void cell_on_context_exit(void *world, struct driver_cell *, int slot, enum context_fate, int code);
void cell_clocks_hold(struct cell *); /* pause: timeouts of executions and processes stand still */
void cell_clocks_go(struct cell *, int64_t slept_ms);

/* log_follow.c: output for the log and for who follows it; and the end of that. */
void cell_log_put(struct cell *, bool is_err, const void *bytes, size_t n);
void cell_log_end(struct cell *);

/* It ended without being asked to: with an image it is frozen again (sandbox.rolled_back), else lost. */
void cell_lost(struct cell *, const char *reason);
/* 0 when n more cells may live; limit_reached otherwise. Frozen ones do not count. */
int world_room(struct world *, size_t n, struct err *);
void image_jobs_forget(struct world *); /* image.c: the world closes */

/* ---- use.c: what it used goes to the accounts ---- */
void cell_used(struct cell *, enum use, uint64_t n);
void cell_cpu_look(struct cell *);   /* right before its driver_cell is destroyed: the driver answers in order */
void cell_cpu_settle(struct cell *); /* the driver_cell is gone */

/* ---- freeze.c, wake.c, rollback.c, copy.c ---- */
bool cell_can_freeze(const struct cell *);
void cell_freeze_on_timeout(struct cell *, bool idle);
/* Its contexts as a row of cell_row() has them, FROZEN. What ran then: is nobody's any more, goes on as the same execution, or as a new one that
 * is `forked_from` it. */
enum copy_running { RUNNING_DROPPED, RUNNING_SAME, RUNNING_NEW };
void cell_contexts_from_row(struct cell *, struct json_object *cell_row, enum copy_running);
/* Give a cell's FROZEN contexts the streams of a copy; slots that nobody knows are closed and killed. Takes the descriptors. */
void cell_attach_copy(struct cell *, const struct driver_copy *);
void cell_copy_close(const struct driver_copy *); /* its descriptors, when nobody wants it */
/* not_carried of a driver with context ids instead of slots. New reference. */
struct json_object *cell_not_carried(struct cell *, struct json_object *driver_list);
/* Close guest and contexts' streams: what is open in the cell ends with this sentence, executions stay. */
void cell_let_go(struct cell *, const char *why);
/* At the start: only its image is there. said_so: its row says that it was frozen, else it is rolled back. */
void cell_frozen_alone(struct cell *, bool said_so);
/* It runs again after `slept_ms`: clocks, what waits, interrupts that came meanwhile. */
void cell_go_on(struct cell *, int64_t slept_ms);
void cell_keep_running_records(struct cell *); /* what runs, into the store */

/* ---- context.c, context_life.c ---- */
struct context *context_new(struct cell *, int slot, const char *language, const char *id);
struct context *context_find(struct cell *, const char *id, struct err *);
/* The context that runs a language by default; a shell is made on first use. */
struct context *context_for(struct cell *, const char *context_id, const char *language, struct err *);
void context_attach(struct context *, const struct context_ends *, bool taken_over); /* takes the descriptors */
/* The same for a copy of a context, or one that comes back from an image: it keeps its counts. */
void context_attach_copy(struct context *, const struct context_ends *);
void context_open_link(struct context *, const struct context_ends *); /* takes the descriptors; nothing is said yet */
void context_put_environment(struct context *, struct json_object *env);
void context_put_settings(struct context *); /* environment and directory it begins with */
void context_freeze(struct context *); /* take in what it sent, close its streams; executions stay */
void context_make(struct context *);
void context_kill(struct context *);
void context_next(struct context *);   /* start what waits, when nothing runs */
void context_settle(struct context *); /* the next one starts a moment later: an interrupt may still be under way */
void context_exited(struct context *, enum context_fate, int code);
void context_broken(struct context *, const char *why);
void context_free(
    struct context *); /* what it has ends without a word: only when the world closes or after context_end_all */
void context_end_all(struct context *, const char *exit, const char *why); /* running and queued */
const char *language_name(const char *word);                               /* NULL: unknown */

/* ---- execution.c, execution_stop.c, execution_end.c, execution_json.c ---- */
void execution_dispatch(struct execution *);
void execution_on_output(struct execution *, bool is_err, const void *bytes, size_t n);
void execution_on_frame(struct execution *, uint16_t type, struct json_object *);
void execution_emit(struct execution *, enum execution_event, struct json_object *, const void *bytes, size_t n);
/* The end: END is delivered, the record is kept, the memory freed. error may be NULL and is taken over. */
void execution_finish(struct execution *, const char *exit, struct json_object *error);
/* Not delivered, not kept: the world closes. */
void execution_free(struct execution *);
struct json_object *execution_error(const char *name, const char *traceback, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
struct json_object *execution_json(struct execution *); /* the Execution of execution.h */
struct json_object *execution_row(struct execution *);  /* while it runs: what a later daemon needs */
bool execution_add_result(struct execution *, struct json_object *frame, bool is_main); /* false: not a MIME bundle */
void execution_arm(struct execution *, int64_t timeout_ms);
int64_t execution_left_ms(struct execution *, int64_t now_ms); /* of its timeout */
void execution_ready(struct execution *); /* its context is there: the timeout counts from here */
int execution_stop(struct execution *, enum execution_stop);
void execution_save(struct execution *);
void execution_unqueue(struct execution *);
/* The word for an execution whose context said it is done. Sets the error where the word needs one. */
const char *execution_word(struct execution *, const char *status);
struct json_object *execution_clean_error(struct json_object *frame); /* {name, value, traceback}, all strings */

/* ---- process.c ---- */
void procs_free(struct cell *);
void procs_clocks(struct cell *, bool hold, int64_t slept_ms);
bool procs_alive(const struct cell *);

/* ---- body.c: fields of a request. All: 0, or -1 with invalid_request naming the field. Missing and null leave *out
 * alone. ---- */
int body_text(struct json_object *, const char *key, const char **out, struct err *);
int body_bool(struct json_object *, const char *key, bool *out, struct err *);
int body_int(struct json_object *, const char *key, int64_t low, int64_t high, int64_t *out, struct err *);
/* Seconds, fractions allowed, greater than 0 and at most a year, into milliseconds (at least 1). */
int body_seconds(struct json_object *, const char *key, int64_t *out_ms, struct err *);
/* {string: string}; names: environment names (not empty, no '='). NULL when missing. Borrowed. */
int body_map(struct json_object *, const char *key, bool names, struct json_object **out, struct err *);
struct json_object *body_get(struct json_object *, const char *key); /* NULL when missing or null */
void format_time(char out[32], int64_t wall_ms);                     /* RFC 3339, UTC, milliseconds */

/* ---- template.c ---- */
/* Limits the manifest names, over the ones in *limits; cached by id (templates are immutable). */
void template_limits(struct world *, const char *template_id, struct cell_limits *limits);
