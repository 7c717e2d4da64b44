/* Paths that belong to the API but not to this version: they say so, instead of pretending not to exist. */
#include "api/handlers.h"

void handle_later(struct request *rq) {
    struct err e;
    err_hint(&e, ERR_UNSUPPORTED, "docs/openapi.yaml marks what this version has",
             "this version of Cella has no \"%s\" yet", rq->match.route->summary);
    reply_err(rq, &e);
}
