/* inspect.h: asking a Python context for its variables (CONTEXT_INSPECT). Private to this floor; loop thread.
 *
 * A question takes its turn like an execution, before those that wait, and is none: no history, no event, no count. It
 * gives up after INSPECT_WAIT_MS behind what runs (conflict), and again after INSPECT_RUN_MS of its own, when it is
 * interrupted; it never kills a context. A context that is frozen, restarted or gone ends its questions. */
#pragma once
#include "cell/domain.h"

#define INSPECT_WAIT_MS 10000
#define INSPECT_RUN_MS 30000 /* the kernel itself skips what it has not looked at after 20 s */

struct inspection {
    struct inspection *next;
    struct context *context; /* NULL: over */
    struct deadline clock;
    struct deferred later;
    struct json_object *variables;
    struct err err;
    bool asked, failed;
    /* Once, on a later turn of the loop. variables: {"variables": [..], "skipped": n}, borrowed; NULL with err. */
    void (*done)(struct inspection *, struct err *, struct json_object *variables);
};

/* done is set by the caller, everything else zero. The memory is the caller's and stays until done, or
 * inspection_cancel. */
void inspection_start(struct inspection *, struct context *);
void inspection_cancel(struct inspection *,
                       struct world *); /* no more callback; also when it was over or never began */

/* ---- for context_life.c ---- */
bool inspection_next(struct context *); /* begin what waits when nothing runs; true: the context is at a question */
void inspection_frame(struct context *, uint16_t type, struct json_object *);
void inspections_end(struct context *, const char *why);
