/* capture.h: a cell at one instant, kept in memory: a sentinel and an image per context, a snapshot of its layer. Cells are made from it like
 * from a template (cell.h); the first copy of a fork is made while the cell stands still, all others from that copy. Captures belong to the
 * daemon's connection. */
#pragma once
#include "keeper/cell.h"
#include "keeper/image.h"
#include "keeper/snapshot.h"

#define CAPTURES_MAX 16

struct captured {
    pid_t sentinel; /* 0: the slot was empty */
    int language;
    uint64_t zygote;
    struct image image; /* its threads are still stopped when the capture holds the cell */
};

struct capture {
    bool used, held;
    uint32_t serial;
    char layer[KEEPER_ID]; /* "cap_" + 32 hex, a layer of its own */
    char kept[KEEPER_ID];  /* what that layer is called since it is kept; "": it is not */
    char template_id[KEEPER_TEMPLATE];
    struct keeper_limits limits;
    struct captured slot[KEEPER_SLOTS];
    struct notes notes;
    struct { /* a child that puts itself together while memory is still being copied */
        char id[KEEPER_ID];
        bool last;
        struct cell *cell; /* NULL: none */
        struct snapshot thread;
    } ahead;
    struct dormant *machine; /* machine_copy.h; NULL: of a cell that is no machine. It has no slots here */
    bool oversize; /* the cell has more memory than its limit: what it inherited is not charged to it */
    uint64_t frozen_us; /* how long the contexts stood still */
};

struct capture_next { /* the child that will be asked for next, when that is known already: the work of its cell overlaps with the copy of the memory */
    const char *id;
    bool last;
};
/* Stop the cell's contexts, copy them and the layer, let them go on; hold: leave them stopped until the capture is dropped. serial: what it is
 * called from now on. next: NULL when nothing is known. NULL with *e; the cell is unharmed. */
struct capture *capture_cell(struct cell *, uint32_t serial, bool hold, const struct capture_next *, struct err *);
struct capture *capture_find(uint32_t serial);
/* A fresh entry for a capture of the cell, with a name for its layer; for capture_cell() and machine_capture(). */
struct capture *capture_entry(const struct cell *, uint32_t serial, struct err *);
/* A new cell with everything of the capture in it. last: made of the capture's own memory and layer, without further copies; the capture is gone
 * then, also after a failure. NULL with *e, then nothing is left of the cell. notes gets what the copy lacks beside the capture's own. */
struct cell *capture_make_cell(struct capture *, const char *id, bool last, const struct capture_next *, struct notes *, struct err *);
void capture_drop(struct capture *);
void captures_drop(void);
/* The layer is a kept one from now on, and called id. */
int capture_keep_layer(struct capture *, const char *id, struct err *);
/* The kept layer is a capture's own again and goes with it; false when no capture has it. */
bool capture_takes_back(const char *id, struct err *);
bool capture_has_sentinel(pid_t);
/* Does this thread stand still for a capture? */
bool capture_holds(pid_t);
/* A child or a stopped thread ended; false when it is no capture's sentinel. */
bool capture_reaped(pid_t);
