/* capture.h: a cell at one instant, kept in memory: a sentinel and an image per context, a snapshot of its layer. Cells are made from it like
 * from a template (cell.h); the first copy of a fork is made while the cell stands still, all others from that copy. */
#pragma once
#include "keeper/cell.h"
#include "keeper/image.h"

#define CAPTURES_MAX 16

struct captured {
    pid_t sentinel; /* 0: the slot was empty */
    int language;
    struct image image;
};

struct capture {
    bool used;
    uint32_t serial;
    char layer[KEEPER_ID]; /* "sbx_" + 32 hex, a layer of its own */
    char template_id[KEEPER_TEMPLATE];
    struct keeper_limits limits;
    struct captured slot[KEEPER_SLOTS];
    uint64_t frozen_us; /* how long the contexts stood still */
};

/* Stop the cell's contexts, copy them and the layer, let them go on. serial: what it is called from now on. NULL with *e; the cell is unharmed. */
struct capture *capture_cell(const struct cell *, uint32_t serial, struct err *);
struct capture *capture_find(uint32_t serial);
/* A new cell with everything of the capture in it. NULL with *e, then nothing is left of it. */
struct cell *capture_make_cell(struct capture *, const char *id, struct err *);
void capture_drop(struct capture *);
bool capture_has_sentinel(pid_t);
/* A child ended; false when it is no capture's sentinel. */
bool capture_reaped(pid_t);
