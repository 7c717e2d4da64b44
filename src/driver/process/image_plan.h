/* image_plan.h: what has to be done to a fresh copy of a warm interpreter so that its memory becomes the image's. Pure; any thread.
 *
 * Areas that fit stay as they are, with the pages that the copy shares with every other; the rest is unmapped and mapped anew. Then pages are written, and
 * last the protections are set. */
#pragma once
#include "driver/process/base.h"
#include "driver/process/image_format.h"
#include "wire/keeper_proto.h"

#define PLAN_FD 3 /* the lowest free descriptor of a context that holds its streams only */

struct call_tables { /* for KEEPER_THAW_CALLS, in order */
    struct keeper_calls *table;
    size_t tables;
};

struct page_write {
    uint64_t address, bytes;
    uint64_t offset; /* DATA: of the image's file */
    uint32_t kind;   /* enum run_kind */
};

struct thaw_plan {
    struct call_tables before, after; /* of writing the pages */
    struct page_write *write; /* ascending addresses; those of DATA have ascending offsets too */
    size_t writes, space;
    uint64_t write_bytes;
};

/* now: the copy's memory. want: the image's. view: of the interpreter that the copy is of, seen from the image's base. */
int thaw_plan_make(struct thaw_plan *, const struct memory_map *now, const struct memory_index *want, const struct base_view *view, struct err *);
void thaw_plan_free(struct thaw_plan *);
/* Do the results of a table say that everything was done? A call that may fail is marked in the table. */
int thaw_calls_check(const struct keeper_calls *, struct err *);
/* After `before`: are the files that are mapped the ones the image was made with? */
int thaw_files_check(const struct memory_map *now, const struct memory_index *want, struct err *);
