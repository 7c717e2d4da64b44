/* live.h: executions that a request of this daemon started and that have not ended: how …/executions/{eid}/input and
 * /interrupt find the handle that the domain gave to the starter. Intrusive list; loop thread only. */
#pragma once
#include "api/api.h"

struct execution;

struct live {
    struct live *next, *prev;
    struct execution *ex; /* NULL: not in the list */
    struct cell *cell;    /* for comparing only */
};

void live_add(struct api *, struct live *, struct execution *, struct cell *);
void live_remove(struct api *, struct live *); /* harmless when not in the list */
/* The running or queued execution of that cell with that id, or NULL. */
struct execution *live_find(struct api *, struct cell *, const char *execution_id);
