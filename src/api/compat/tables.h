/* tables.h: paths below /v1 that other people's clients know and that are not part of the daemon's own API. Loop thread only. */
#pragma once
#include "api/request.h"
#include "api/router.h"

/* PandaStack's: pandastack.c. OpenAI's: containers.h. */
extern const struct route_table pandastack_routes;

/* A path that routes.c does not know: is it in one of these tables? 1 (rq->match is set, errors have that client's shape), 0 no, -1 with the error to
 * answer. */
int compat_find(struct request *, char allow[static 64], struct err *);

/* The template that PandaStack's client names when its user named none becomes our default one. */
void pandastack_default_template(struct request *);
