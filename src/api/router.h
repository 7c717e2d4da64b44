/* router.h: from method and path to a route. The matcher is pure; the table itself is routes.c. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define ROUTE_PARAMS_MAX 3

struct request;

enum body_policy {
    BODY_NONE,   /* whatever comes is read and dropped, up to BODY_JSON_MAX */
    BODY_JSON,   /* collected up to BODY_JSON_MAX and parsed: an object, or nothing at all */
    BODY_STREAM, /* the handler runs when the headers are there and takes the bytes as they come */
    BODY_TEXT,   /* collected up to BODY_JSON_MAX; the handler reads request->collected itself */
};
#define BODY_JSON_MAX (8u << 20)

enum route_auth {
    AUTH_OPEN,  /* nobody needs a key */
    AUTH_KEY,   /* a key where the daemon asks for keys */
    AUTH_LOCAL, /* only from the daemon's own machine, see http_guard.h */
};

/* What a handler hears besides the request: whether {id} names a cell that the dispatcher must find first, and wake when it is hibernated.
 * SCOPE_ASLEEP: what can be said and done about a cell that sleeps on. */
enum route_scope { SCOPE_HOST, SCOPE_CELL, SCOPE_ASLEEP };

struct route {
    const char *method;
    const char *pattern; /* "/v1/sandboxes/{id}/fs": {x} is one segment, {x...} the rest */
    void (*handler)(struct request *);
    enum body_policy body;
    enum route_auth auth;
    enum route_scope scope;
    const char *summary;
};

extern const struct route routes[];
extern const size_t routes_count;

/* The tables of the daemon: its own, and those of other people's clients, whose paths have another meaning (compat/). */
struct route_table {
    const char *name; /* in front of the path where several tables are shown together: "", "e2b", … */
    const struct route *rows;
    size_t count;
};
extern const struct route_table *const route_tables[];
extern const size_t route_tables_count;

struct route_match {
    const struct route *route;
    char *params[ROUTE_PARAMS_MAX]; /* decoded, in the order of the pattern; point into the path that was handed in */
    size_t count;
};

/* Match a raw path (without query); the path is cut and decoded in place only when a route is found.
 * Errors: not_found; method_not_allowed with `allow` ("GET, PUT") filled; invalid_request for escapes that are no text.
 * HEAD finds GET routes. */
int route_find(const struct route *table, size_t count, const char *method, char *path, struct route_match *out,
               char allow[static 64], struct err *);
