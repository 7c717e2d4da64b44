/* cell.h: the cells the keeper has: namespaces, layer, groups, contexts, and copies of the daemon's ends of every stream, so that the next
 * daemon gets them when this one dies. Single-threaded. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "keeper/image.h"
#include "wire/keeper_proto.h"

struct context {
    pid_t context, sentinel; /* 0: gone; the slot is free when both are */
    int language;
    int control_fd, stdout_fd, stderr_fd;
    int status; /* of the context, once reaped */
};

struct cell {
    bool used, dying;
    uint32_t serial;  /* tells this cell from earlier ones at the same index */
    char id[KEEPER_ID];
    char template_id[KEEPER_TEMPLATE];
    pid_t guest;      /* 0 once reaped */
    int guest_fd, slot_fd;
    struct keeper_limits limits;
    uint64_t oom_seen;
    uint64_t destroy_tag; /* of the request that waits for its end */
    bool destroy_asked;
    struct context context[KEEPER_SLOTS];
};
extern struct cell cells[KEEPER_CELLS_MAX];

/* What the server tells the daemon. */
void on_context_exit(struct cell *, int slot, enum keeper_fate, int code);
void on_cell_gone(struct cell *, enum keeper_fate);
void on_cell_removed(struct cell *); /* after cell_destroy; the entry is free already, its numbers still stand in it */

struct cell *cell_find(uint32_t index, uint32_t serial);
uint32_t cell_index(const struct cell *);
/* layer: the one whose files the cell starts with; NULL: an empty one. */
struct cell *cell_make(const char *id, const char *template_id, const struct keeper_limits *, const char *layer, struct err *);
/* Ferry a copy of the sentinel into the slot; im and language are its own; spare as for ferry(). */
int cell_fill(struct cell *, int slot, pid_t sentinel, pid_t spare, const struct image *im, int language, struct err *);
int cell_limit(struct cell *, const struct keeper_limits *, struct err *);
int cell_signal(struct cell *, int slot, int signo, struct err *);
int cell_stats(struct cell *, struct keeper_stats *, struct err *);
/* Kill everything; on_cell_removed follows when nothing is left. */
void cell_destroy(struct cell *);
/* A child ended. False when it belongs to no cell. */
bool cell_reaped(pid_t, int status);
/* Is this task a stopped sentinel of a cell? */
bool cell_has_sentinel(pid_t);
/* Try again to remove what was still busy. True while something waits. */
bool cell_sweep(void);
