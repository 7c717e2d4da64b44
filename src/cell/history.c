#include "cell/history.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void drop(struct history *h, struct history_entry *e) {
    *(e->older ? &e->older->newer : &h->oldest) = e->newer;
    *(e->newer ? &e->newer->older : &h->newest) = e->older;
    *(e->cell_older ? &e->cell_older->cell_newer : &e->cell->oldest) = e->cell_newer;
    *(e->cell_newer ? &e->cell_newer->cell_older : &e->cell->newest) = e->cell_older;
    e->cell->count--;
    h->size -= e->size;
    json_object_put(e->execution);
    free(e);
}

void history_add(struct history *h, struct history_cell *cell, const char *id, struct json_object *execution,
                 size_t size) {
    struct history_entry *e = calloc(1, sizeof *e);
    if (!e) abort();
    bool keep = size <= HISTORY_ONE;
    *e = (struct history_entry){.older = h->newest,
                                .cell_older = cell->newest,
                                .cell = cell,
                                .execution = keep ? json_object_get(execution) : NULL,
                                .size = keep ? size : sizeof *e};
    (void)snprintf(e->id, sizeof e->id, "%s", id);
    *(h->newest ? &h->newest->newer : &h->oldest) = e;
    h->newest = e;
    *(cell->newest ? &cell->newest->cell_newer : &cell->oldest) = e;
    cell->newest = e;
    cell->count++;
    h->size += e->size;
    if (cell->count > HISTORY_PER_CELL) drop(h, cell->oldest);
    while (h->size > HISTORY_BYTES) drop(h, h->oldest);
}

struct history_entry *history_find(struct history_cell *cell, const char *id) {
    for (struct history_entry *e = cell->newest; e; e = e->cell_older)
        if (strcmp(e->id, id) == 0) return e;
    return NULL;
}

void history_move(struct history *h, struct history_cell *to, struct history_cell *of) {
    for (struct history_entry *e = of->oldest; e; e = e->cell_newer) e->cell = to;
    if (of->newest) {
        of->newest->cell_newer = to->oldest;
        *(to->oldest ? &to->oldest->cell_older : &to->newest) = of->newest;
        to->oldest = of->oldest;
        to->count += of->count;
    }
    *of = (struct history_cell){0};
    while (to->count > HISTORY_PER_CELL) drop(h, to->oldest);
}

void history_forget_cell(struct history *h, struct history_cell *cell) {
    while (cell->oldest) drop(h, cell->oldest);
}
