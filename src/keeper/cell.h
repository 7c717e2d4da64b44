/* cell.h: the cells the keeper has: namespaces, layer, groups, contexts, and copies of the daemon's ends of every stream, so that the next
 * daemon gets them when this one dies. Single-threaded. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "keeper/cell_start.h"
#include "keeper/image.h"
#include "wire/keeper_proto.h"

struct context {
    pid_t context, sentinel; /* 0: gone; the slot is free when both are */
    int language;
    uint64_t zygote; /* number of the zygote its memory descends from */
    bool waits;      /* put together from an image (thaw.h) and not let go yet: nobody hears of its end */
    int control_fd, stdout_fd, stderr_fd;
    int status; /* of the context, once reaped */
};

struct cell {
    bool used, dying;
    bool paused;      /* by KEEPER_CELL_FREEZE */
    uint32_t serial;  /* tells this cell from earlier ones at the same index; 0: a blank, made ahead, that is no cell yet */
    char id[KEEPER_ID];   /* what it is called; can change, and one that is dying may share it */
    char name[KEEPER_ID]; /* of its groups and its layer: "cel_" + 32 hex, for its whole life */
    char template_id[KEEPER_TEMPLATE];
    pid_t guest;      /* 0 once reaped */
    struct cell_blank blank; /* its socket is open until the guest stands */
    int guest_fd, slot_fd;
    struct keeper_limits limits;
    uint64_t oom_seen;
    uint64_t destroy_tag; /* of the request that waits for its end */
    bool destroy_asked;
    struct context context[KEEPER_SLOTS];
    struct machine *machine; /* machine.h; NULL: the cell is processes of this host. What is above from `guest` to `slot_fd`, and contexts, it does not have then */
};
extern struct cell cells[KEEPER_CELLS_MAX];

/* What the server tells the daemon. */
void on_context_exit(struct cell *, int slot, enum keeper_fate, int code);
void on_cell_gone(struct cell *, enum keeper_fate);
void on_cell_removed(struct cell *); /* after cell_destroy; the entry is free already, its numbers still stand in it */

struct cell *cell_find(uint32_t index, uint32_t serial);
uint32_t cell_index(const struct cell *);
bool cell_alive(const struct cell *); /* neither a blank nor dying */
struct cell *cell_called(const char *id);

struct cell_files { /* what the cell's layer starts as: nothing, or the files of another layer */
    const char *layer;
    bool take; /* the layer itself becomes the cell's (its old name is gone then), not a snapshot of it */
};
/* From a blank, or one made on the spot. The cell still puts itself together when this returns: cell_ready() waits for it. NULL with *e, then
 * nothing is left, or will be soon. */
struct cell *cell_make(const char *id, const char *template_id, const struct keeper_limits *, struct cell_files, struct err *);

bool cell_starting(const struct cell *);
/* Wait until the cell stands; at once when it does. After -1 the caller destroys it. */
int cell_ready(struct cell *, struct err *);
/* Make one blank that is missing. True while more are. */
bool cells_make_blank(void);
int cell_check_limits(const struct keeper_limits *, struct err *);

struct cell_memory { /* what a context is made of */
    pid_t sentinel, spare; /* spare as for ferry() */
    const struct image *image;
    int language;
    uint64_t zygote;
};
/* Ferry a copy of the sentinel into the slot, once the cell stands. notes (may be NULL) gets what it lacks. */
int cell_fill(struct cell *, int slot, const struct cell_memory *, struct notes *, struct err *);
/* It is called `id` from now on, also inside; the cell that had this id is destroyed in the same step, without an event. */
int cell_rename(struct cell *, const char *id, struct err *);
int cell_pause(struct cell *, bool on, struct err *);
int cell_limit(struct cell *, const struct keeper_limits *, struct err *);
int cell_signal(struct cell *, int slot, int signo, struct err *);
int cell_stats(struct cell *, struct keeper_stats *, struct err *);
/* Kill everything; on_cell_removed follows when nothing is left. */
void cell_destroy(struct cell *);
/* The daemon's connection ended: nobody waits for an end any more. */
void cells_forget_requests(void);
/* A child ended. False when it belongs to no cell. */
bool cell_reaped(pid_t, int status);
/* Is this task a stopped sentinel of a cell? */
bool cell_has_sentinel(pid_t);
/* Try again to remove what was still busy. True while something waits. */
bool cell_sweep(void);

/* For whoever makes cells: a number that tells this one from all others at its index. */
uint32_t cell_next_serial(void);
/* For cell_make.c and machine.c: a fresh entry with a name, or NULL; a blank, or NULL, and how many there are; give an entry back whose processes are gone. */
struct cell *cell_entry(void);
struct cell *cell_waiting(int *count);
void cell_clear(struct cell *);
