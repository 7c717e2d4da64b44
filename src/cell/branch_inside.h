/* branch_inside.h: shared by fork.c, tree.c, merge.c and the places where cells begin and end; nobody else. */
#pragma once
#include "cell/branch.h"
#include "cell/domain.h"

/* ---- tree.c: rows of the tree (store_branch_*) ---- */
/* Root of the tree that the cell is in. Borrowed. */
const char *branch_root(const struct cell *);
/* Written before the first child's row; a cell that was never forked has none. */
int branch_put(struct cell *, struct err *);
/* The cell or row is over. Costs one look-up for a cell that is in no tree. */
void branch_ended(struct world *, const char *id, struct json_object *metadata_or_null, const char *reason);
/* from is below into, or both have one parent. */
bool branch_related(struct world *, const struct cell *into, const struct cell *from);

/* ---- fork.c, merge.c: the world closes, nobody hears of them again ---- */
void forks_forget(struct world *);
void merges_forget(struct world *);

/* merge.c: the cell was merged, and the store does not know it yet. */
bool merge_unwritten(struct world *, const char *id, char reason[64]);

/* ---- merge.c: at the start of the daemon ---- */
/* Before rows are matched to cells: the merges that the last daemon did not finish. */
int merge_recover_begin(struct world *, struct err *);
/* A cell was found under this id. When it is one that took the id over, the store is brought up to date; the row that counts is returned (borrowed). */
struct json_object *merge_recover_cell(struct world *, struct driver_cell *, struct json_object *row);
void merge_recover_end(struct world *); /* every cell was looked at */
