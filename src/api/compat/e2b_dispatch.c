/* Which sandbox and port a request is for, and whether it may: e2b.h says the rules. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_token.h"
#include "api/guard.h"
#include "api/host_name.h"
#include "base/id.h"
#include "cell/world.h"

struct target {
    char id[CELL_ID_MAX];
    int port;
    bool by_signature; /* the id is not said */
};

static bool port_of(const char *text, int *port) {
    char *end;
    if (!isdigit((unsigned char)*text)) return false;
    unsigned long n = strtoul(text, &end, 10);
    *port = (int)n;
    return n > 0 && n < 65536 && (*end == 0 || *end == '-');
}

/* "49983-sbx_….localhost:8080" */
static bool target_of_host(const char *host, struct target *t) {
    const char *dash = host ? strchr(host, '-') : NULL;
    if (!dash || !port_of(host, &t->port)) return false;
    size_t n = strcspn(++dash, ".:");
    if (!dash[n] || dash[n] == ':' || n >= sizeof t->id) return false;
    (void)snprintf(t->id, sizeof t->id, "%.*s", (int)n, dash);
    for (char *p = t->id; *p; p++) *p = (char)tolower((unsigned char)*p);
    return id_valid(t->id, "sbx_");
}

static int target_of(struct request *rq, struct target *t, struct err *e) {
    const char *id = request_header(rq, "E2b-Sandbox-Id"), *port = request_header(rq, "E2b-Sandbox-Port");
    *t = (struct target){0};
    if (id) {
        if (port && (!port_of(port, &t->port) || strchr(port, '-'))) return err_set(e, ERR_INVALID, "the header E2b-Sandbox-Port is not a port");
        if (!port) t->port = E2B_PORT_ENVD;
        (void)snprintf(t->id, sizeof t->id, "%s", strlen(id) < sizeof t->id ? id : "");
        return 1;
    }
    if (target_of_host(request_header(rq, "Host"), t)) return 1;
    t->port = E2B_PORT_ENVD;
    t->by_signature = strcmp(rq->path, "/files") == 0 && request_query(rq, "signature");
    return t->by_signature;
}

/* ---- who asks ---- */

static void signed_of(struct request *rq, struct e2b_signed *out) {
    const char *path = request_query(rq, "path"), *user = request_query(rq, "username");
    bool reads = strcmp(rq->method, "GET") == 0 || strcmp(rq->method, "HEAD") == 0;
    *out = (struct e2b_signed){.path = path ? path : "",
                               .operation = reads ? "read" : "write",
                               .user = user ? user : "",
                               .expiration = request_query(rq, "signature_expiration"),
                               .signature = request_query(rq, "signature")};
}

static int not_expired(const struct e2b_signed *s, struct err *e) {
    char *end;
    if (!s->expiration) return 0;
    long long at = strtoll(s->expiration, &end, 10);
    if (*end || end == s->expiration) return err_set(e, ERR_INVALID, "signature_expiration is not a number");
    return at > time(NULL) ? 0 : err_set(e, ERR_UNAUTHORIZED, "the signature of this URL has expired");
}

struct search {
    struct api *api;
    const struct e2b_signed *said;
    struct cell *found;
};

static bool compare(void *arg, struct cell *cell) {
    struct search *s = arg;
    if (e2b_signature_is(s->api, cell, s->said)) s->found = cell;
    return !s->found;
}

/* A signed URL of one origin names no sandbox. Two hashes for each one there is: a millisecond for a thousand. */
static struct cell *find_by_signature(struct request *rq, struct err *e) {
    struct e2b_signed said;
    signed_of(rq, &said);
    struct search s = {.api = api_of(rq), .said = &said};
    cell_each(s.api->world, compare, &s);
    if (!s.found) err_set(e, ERR_UNAUTHORIZED, "the signature of this URL fits no sandbox");
    return s.found;
}

/* By the sandbox's own token, a signed URL, or the key of its owner. */
static int may_use(struct request *rq, struct cell *cell, bool by_signature, struct err *e) {
    struct api *api = api_of(rq);
    struct e2b_signed said;
    const char *token = request_header(rq, "X-Access-Token"), *traffic = request_header(rq, "E2B-Traffic-Access-Token");
    signed_of(rq, &said);
    if (e2b_token_is(api, cell, token) || e2b_token_is(api, cell, traffic)) return 0;
    if (said.signature && strcmp(rq->path, "/files") == 0) {
        if (!by_signature && !e2b_signature_is(api, cell, &said)) return err_set(e, ERR_UNAUTHORIZED, "the signature of this URL is not valid");
        return not_expired(&said, e);
    }
    if (guard_key(rq, AUTH_KEY, e) < 0) return -1; /* where the daemon asks for keys */
    /* Another key's sandbox is not open to this one. */
    if (rq->key_id[0] ? strcmp(rq->key_id, cell_owner(cell)) == 0 : e2b_is_open(cell)) return 0;
    return err_hint(e, ERR_UNAUTHORIZED, "send the envdAccessToken of the sandbox as X-Access-Token", "this sandbox asks for its access token");
}

/* ---- which sandbox ---- */

static bool is_tagged(const struct cell *cell, const char *tag) {
    const char *value = cell_tag(cell, tag);
    return value && strcmp(value, "true") == 0;
}
bool e2b_resumes(const struct cell *cell) { return is_tagged(cell, E2B_TAG_RESUME); }
bool e2b_is_open(const struct cell *cell) { return is_tagged(cell, E2B_TAG_OPEN); }

static int no_sandbox(unsigned *status, struct err *e) {
    *status = 502; /* what the SDKs read as "not running" */
    return err_set(e, ERR_NOT_FOUND, "the sandbox was not found: it has ended, or never was");
}

static int find(struct request *rq, const struct target *t, unsigned *status, struct err *e) {
    struct api *api = api_of(rq);
    struct cell *cell;
    if (t->by_signature) {
        cell = find_by_signature(rq, e);
        if (!cell) return -1;
    } else {
        cell = id_valid(t->id, "sbx_") ? cell_find(api->world, t->id, e) : NULL;
        if (!cell) return no_sandbox(status, e);
    }
    if (rq->match.route->auth != AUTH_OPEN && may_use(rq, cell, t->by_signature, e) < 0) return -1;
    (void)snprintf(rq->key_id, sizeof rq->key_id, "%s", cell_owner(cell)); /* the token speaks for its owner */
    rq->cell = cell_hold(cell);
    if (rq->match.route->scope == SCOPE_CELL && cell_asleep(cell) && strcmp(cell_status_word(cell), "waking") != 0 && !e2b_resumes(cell)) {
        *status = 502;
        return err_set(e, ERR_CONFLICT, "the sandbox is paused: connect to it first");
    }
    if (rq->match.route->auth != AUTH_OPEN) cell_touch(cell);
    return 0;
}

/* ---- for api.c ---- */

static const struct route_table *table_of(int port) {
    if (port == E2B_PORT_ENVD) return &e2b_envd_routes;
    return port == E2B_PORT_CODE ? &e2b_code_routes : NULL;
}

int e2b_admit_port(struct request *rq, unsigned *status, char allow[static 64], struct err *e) {
    struct target t;
    int said = target_of(rq, &t, e);
    if (said == 0) return 0;
    rq->reply_error = e2b_reply_error;
    if (said < 0) return -1;
    const struct route_table *table = table_of(t.port);
    if (t.port == E2B_PORT_CODE) rq->reply_error = e2b_reply_sentence;
    if (!table)
        return err_hint(e, ERR_UNSUPPORTED, "run a client inside the sandbox, or read its files",
                        "reaching port %d of a sandbox from outside is not in this version", t.port);
    if (!api_of(rq)->ready) return err_hint(e, ERR_UNAVAILABLE, "try again in a moment", "the daemon is still taking over its cells");
    if (route_find(table->rows, table->count, rq->method, rq->path, &rq->match, allow, e) < 0) return -1;
    return find(rq, &t, status, e) < 0 ? -1 : 1;
}

int e2b_find_control(struct request *rq, char allow[static 64], struct err *e) {
    struct err here;
    int found = route_find(e2b_control_routes.rows, e2b_control_routes.count, rq->method, rq->path, &rq->match, allow, &here);
    if (found < 0 && strcmp(here.code, ERR_NOT_FOUND) == 0) return 0;
    rq->reply_error = e2b_reply_error;
    if (found < 0) *e = here;
    return found < 0 ? -1 : 1;
}
