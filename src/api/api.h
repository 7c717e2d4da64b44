/* api.h: what every route can reach, and what stands between a request and its handler. Loop thread only. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "api/request.h"
#include "base/err.h"

struct world;
struct store;
struct driver;
struct keys;
struct http_server;

#define ALLOWED_HOSTS_MAX 32
#define E2B_SECRET 32 /* bytes */

struct api_metrics;
struct live;
struct owners;
struct mcp;
struct exporter;
struct usage;

struct api {
    struct world *world;
    struct driver *driver; /* for its report; the world owns it */
    struct store *store;
    struct keys *keys;
    struct usage *usage; /* tenant/usage.h */
    struct http_server *http;
    struct api_metrics *metrics;
    struct live *lives; /* live.h */
    struct owners *owners;
    struct mcp *mcp; /* mcp/session.h */
    struct exporter *exporter; /* trace/exporter.h; NULL: no tracing */
    const char *allowed_hosts[ALLOWED_HOSTS_MAX]; /* names that Host and Origin may carry besides loopback */
    unsigned allowed_hosts_count;
    bool beyond_loopback; /* the daemon listens where others can reach it: keys are needed */
    bool require_key;     /* ask for a key on loopback too */
    bool ready;           /* world_start is done; before: 503 */
    int64_t started_ms;
    unsigned char e2b_secret[E2B_SECRET]; /* compat/e2b.h */
};

/* The functions of http_config; http_config.arg is the api. */
void api_begin(struct request *);
void api_run(struct request *);
void api_replied(struct request *);
void api_over(struct request *);
void api_freed(struct request *);

static inline struct api *api_of(const struct request *rq) { return rq->arg; }
/* Whose cells the request may see: a key's id, or NULL for everybody's (no key in use, local operator). */
const char *api_owner(const struct request *);
/* The sandbox with that id for this request's key: rq->cell is set and held, its idle clock begins anew. not_found, gone. */
int api_find_cell(struct request *, const char *id, struct err *);
