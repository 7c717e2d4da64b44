#include "api/compat/tables.h"

#include <string.h>

#include "api/compat/containers.h"

static int find_in(const struct route_table *table, struct request *rq, char allow[static 64], struct err *e) {
    if (route_find(table->rows, table->count, rq->method, rq->path, &rq->match, allow, e) == 0) return 1;
    return strcmp(e->code, ERR_NOT_FOUND) == 0 ? 0 : -1;
}

int compat_find(struct request *rq, char allow[static 64], struct err *e) {
    int found = find_in(&containers_routes, rq, allow, e);
    if (found) containers_claim(rq);
    return found ? found : find_in(&pandastack_routes, rq, allow, e);
}
