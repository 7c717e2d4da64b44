#include "api/live.h"

#include <string.h>

#include "cell/execution.h"

void live_add(struct api *api, struct live *l, struct execution *ex, struct cell *cell) {
    *l = (struct live){.next = api->lives, .ex = ex, .cell = cell};
    if (l->next) l->next->prev = l;
    api->lives = l;
}

void live_remove(struct api *api, struct live *l) {
    if (!l->ex) return;
    if (l->prev)
        l->prev->next = l->next;
    else
        api->lives = l->next;
    if (l->next) l->next->prev = l->prev;
    l->ex = NULL;
}

struct execution *live_find(struct api *api, struct cell *cell, const char *id) {
    for (struct live *l = api->lives; l; l = l->next)
        if (l->cell == cell && strcmp(execution_id(l->ex), id) == 0) return l->ex;
    return NULL;
}
