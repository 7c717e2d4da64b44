#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/tables.h"
#include "api/guard.h"
#include "api/metrics.h"
#include "api/owners.h"
#include "api/reply.h"
#include "api/router.h"
#include "api/trace/trace.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "cell/cell.h"
#include "tenant/usage.h"

const char *api_owner(const struct request *rq) { return rq->key_id[0] ? rq->key_id : NULL; }

/* Path and query of the raw request target. */
static int split_target(struct request *rq, struct err *e) {
    char *query = strchr(rq->path, '?');
    if (rq->path[0] != '/') return err_set(e, ERR_INVALID, "the request target must start with a slash");
    if (query) *query++ = 0;
    return query_parse(&rq->query, query, e);
}

static int no_such_cell(struct err *e) {
    return err_hint(e, ERR_NOT_FOUND, "GET /v1/sandboxes lists the ones there are", "sandbox not found");
}

/* Another key's cell does not exist, with the same words as one that never was; and neither does one that has ended,
 * unless this key is known to have had it. */
int api_find_cell(struct request *rq, const char *id, struct err *e) {
    struct api *api = api_of(rq);
    const char *owner = api_owner(rq);
    if (!id_valid(id, "sbx_")) return no_such_cell(e);
    struct cell *cell = cell_find(api->world, id, e);
    if (!cell) {
        bool ended = strcmp(e->code, ERR_GONE) == 0 && (!owner || owners_know(api->owners, id, owner));
        return ended ? -1 : no_such_cell(e);
    }
    if (owner && strcmp(cell_owner(cell), owner) != 0) return no_such_cell(e);
    if (owner) owners_add(api->owners, id, owner);
    rq->cell = cell_hold(cell);
    cell_touch(cell);
    return 0;
}

/* The daemon's own paths come first; what none of them is may be one of another API. */
static int find_route(struct request *rq, char allow[static 64], struct err *e) {
    struct err other;
    if (route_find(routes, routes_count, rq->method, rq->path, &rq->match, allow, e) == 0) return 0;
    if (strcmp(e->code, ERR_NOT_FOUND) != 0) return -1;
    int found = e2b_find_control(rq, allow, &other);
    if (!found) found = compat_find(rq, allow, &other);
    if (found < 0) *e = other;
    return found > 0 ? 0 : -1;
}

static int admit(struct request *rq, unsigned *status, char allow[static 64], struct err *e) {
    struct api *api = api_of(rq);
    if (guard_size(rq, status, e) < 0 || guard_host(rq, e) < 0 || split_target(rq, e) < 0) return -1;
    int port = e2b_admit_port(rq, status, allow, e);
    if (port) return port < 0 ? -1 : 0;
    if (find_route(rq, allow, e) < 0) return -1;
    const struct route *route = rq->match.route;
    if (guard_key(rq, route->auth, e) < 0) return -1;
    if (!api->ready && route->auth != AUTH_OPEN)
        return err_hint(e, ERR_UNAVAILABLE, "try again in a moment", "the daemon is still taking over its cells");
    return route->scope != SCOPE_HOST ? api_find_cell(rq, rq->match.params[0], e) : 0;
}

/* ---- a request for a cell that is hibernated: it is woken first ---- */

static bool wakes(const struct request *rq) {
    return rq->match.route->scope == SCOPE_CELL && rq->cell && cell_asleep(rq->cell);
}

static void on_awake(void *arg, struct err *e) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else if (rq->conn && !reply_given(rq))
        rq->match.route->handler(rq);
    request_release(rq);
}

/* A streamed body waits at its first byte, since nobody can take it yet. */
struct waiting_body {
    struct request *rq;
    bool ended;
};
static size_t take_nothing(void *arg, const void *bytes, size_t n) {
    (void)arg, (void)bytes, (void)n;
    return 0;
}
static void ended_early(void *arg) { ((struct waiting_body *)arg)->ended = true; }

static void on_awake_for_body(void *arg, struct err *e) {
    struct waiting_body *w = arg;
    struct request *rq = w->rq;
    if (e)
        reply_err(rq, e);
    else if (rq->conn && !reply_given(rq)) {
        rq->match.route->handler(rq);
        if (w->ended && !reply_given(rq))
            rq->sink.end(rq->sink.arg);
        else
            request_sink_ready(rq);
    }
    request_release(rq);
    free(w);
}

static void run_awake(struct request *rq) {
    if (rq->body_policy != BODY_STREAM) {
        cell_wake(rq->cell, on_awake, request_hold(rq));
        return;
    }
    struct waiting_body *w = calloc(1, sizeof *w);
    if (!w) abort();
    w->rq = request_hold(rq);
    rq->sink = (struct body_sink){take_nothing, ended_early, w};
    cell_wake(rq->cell, on_awake_for_body, w);
}

static void run(struct request *rq) {
    if (wakes(rq))
        run_awake(rq);
    else
        rq->match.route->handler(rq);
}

void api_begin(struct request *rq) {
    struct err e;
    unsigned status = 0;
    char allow[64] = "";
    trace_accept(rq);
    if (admit(rq, &status, allow, &e) < 0) {
        if (allow[0] && strcmp(rq->method, "OPTIONS") == 0)
            reply_empty(rq, 204);
        else if (status)
            reply_err_as(rq, status, &e);
        else
            reply_err(rq, &e);
        if (allow[0]) reply_header(rq, "Allow", allow);
        if (rq->status == 401) reply_header(rq, "WWW-Authenticate", "Bearer realm=\"cella\"");
        return;
    }
    rq->body_policy = rq->match.route->body;
    if (rq->body_policy == BODY_STREAM) run(rq);
}

void api_run(struct request *rq) { run(rq); }

/* A timeout never surprises: every answer about a cell says how long it has, and what happens then. */
void api_replied(struct request *rq) {
    char text[32];
    trace_reply(rq);
    if (!rq->cell || api_of(rq)->world == NULL) return;
    double left;
    const char *then = cell_time_left(rq->cell, &left);
    if (!then) return;
    if (left >= 0) {
        (void)snprintf(text, sizeof text, "%.3f", left);
        reply_header(rq, "X-Cella-Remaining-Seconds", text);
    }
    reply_header(rq, "X-Cella-On-Timeout", then);
}

void api_over(struct request *rq) {
    struct api *api = api_of(rq);
    int64_t us = monotonic_us() - rq->started_us;
    metrics_request(api->metrics, rq->match.route, rq->status, us);
    log_debug("%s %s %u %ld us", rq->method, rq->match.route ? rq->match.route->pattern : "-", rq->status, us);
}

void api_freed(struct request *rq) {
    struct usage *u = api_of(rq)->usage;
    usage_add(u, rq->key_id, USAGE_REQUESTS, 1);
    usage_add(u, rq->key_id, USAGE_BYTES_IN, rq->body_seen + rq->message_bytes);
    usage_add(u, rq->key_id, USAGE_BYTES_OUT, rq->sent_bytes);
    trace_end(rq);
    if (rq->cell) cell_release(rq->cell);
}
