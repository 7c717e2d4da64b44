/* history.h: finished executions that can still be asked for: the last 100 of a cell, and of all cells together as many
 * as HISTORY_BYTES hold; the oldest go first. Private to this floor. Zeroed structs are empty ones. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define HISTORY_PER_CELL 100
#define HISTORY_BYTES (16u << 20) /* of all cells; an Execution without output takes some 2.5 KB as json-c objects */
#define HISTORY_ONE (2u << 20)    /* larger ones are not kept: only their id is */

struct json_object;
struct history_entry {
    struct history_entry *older, *newer;           /* in the world */
    struct history_entry *cell_older, *cell_newer; /* in the cell */
    struct history_cell *cell;
    struct json_object *execution; /* NULL: it was too large to keep */
    size_t size;
    char id[40];
};
struct history_cell {
    struct history_entry *oldest, *newest;
    size_t count;
};
struct history {
    struct history_entry *oldest, *newest;
    size_t size;
};

/* Takes a reference of its own. size: about how many bytes the object holds. */
void history_add(struct history *, struct history_cell *, const char *id, struct json_object *execution, size_t size);
struct history_entry *history_find(struct history_cell *, const char *id); /* NULL: not there */
/* What `of` has becomes the older part of what `to` has. */
void history_move(struct history *, struct history_cell *to, struct history_cell *of);
void history_forget_cell(struct history *, struct history_cell *);
