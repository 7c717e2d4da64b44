/* E2B's control plane: sandboxes made, described, and their time limits. */
#include "api/compat/e2b_control.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/host_name.h"

#define NO_END "9999-12-31T00:00:00.000Z" /* the clients want a time */

/* ---- a sandbox in their words ---- */

/* What {port}-{id}. is put in front of. */
static void domain_of(struct request *rq, char out[static 280]) {
    char host[256];
    int port;
    const char *said = request_header(rq, "Host");
    if (!said || !host_split(said, host, &port)) {
        (void)snprintf(out, 280, "localhost");
        return;
    }
    if (host_is_loopback(host)) (void)snprintf(host, sizeof host, "localhost");
    if (port > 0)
        (void)snprintf(out, 280, "%s:%d", host, port);
    else
        (void)snprintf(out, 280, "%s", host);
}

static void add_names(struct json_object *o, struct json_object *about) {
    const char *template = json_object_get_string(json_field(about, "template"));
    json_set(o, "sandboxID", json_object_get(json_field(about, "id")));
    json_set_text(o, "templateID", template);
    json_set_text(o, "alias", template);
    json_set_text(o, "clientID", "cella");
    json_set_text(o, "envdVersion", E2B_ENVD_VERSION);
}

static void add_access(struct request *rq, struct json_object *o, struct cell *cell) {
    char domain[280], token[E2B_TOKEN_MAX];
    domain_of(rq, domain);
    json_set_text(o, "domain", domain);
    if (e2b_is_open(cell)) return;
    e2b_token(api_of(rq), cell, token);
    json_set_text(o, "envdAccessToken", token);
    json_set_text(o, "trafficAccessToken", token); /* their calls of /contexts send no other one */
}

struct json_object *e2b_sandbox_json(struct request *rq, struct cell *cell) {
    struct json_object *about = cell_describe(cell), *o = json_object_new_object();
    add_names(o, about);
    add_access(rq, o, cell);
    json_object_put(about);
    return o;
}

const char *e2b_state(const struct cell *cell) { return strcmp(cell_status_word(cell), "running") == 0 ? "running" : "paused"; }

/* Without the pairs that are ours. */
static struct json_object *their_metadata(struct json_object *metadata) {
    struct json_object *o = json_object_new_object();
    json_object_object_foreach(metadata, name, value) {
        if (strncmp(name, E2B_TAG_PREFIX, strlen(E2B_TAG_PREFIX)) != 0) json_set(o, name, json_object_get(value));
    }
    return o;
}

static void add_lifecycle(struct json_object *o, struct json_object *about, struct cell *cell) {
    struct json_object *lifecycle = json_object_new_object(), *network = json_object_new_object(), *deny = json_object_new_array();
    bool freezes = strcmp(json_object_get_string(json_field(about, "on_timeout")), "freeze") == 0;
    json_set_text(lifecycle, "onTimeout", freezes ? "pause" : "kill");
    json_set_flag(lifecycle, "autoResume", e2b_resumes(cell));
    json_set(o, "lifecycle", lifecycle);
    json_object_array_add(deny, json_object_new_string("0.0.0.0/0"));
    json_set(network, "denyOut", deny);
    json_set_flag(network, "allowPublicTraffic", false);
    json_set(o, "network", network);
    json_set_flag(o, "allowInternetAccess", false);
}

struct json_object *e2b_info_json(struct request *rq, struct cell *cell, bool detail) {
    struct json_object *about = cell_describe(cell), *o = json_object_new_object();
    struct json_object *end = json_field(about, "expires_at"), *slept = json_field(about, "hibernated_at");
    add_names(o, about);
    json_set_text(o, "state", e2b_state(cell));
    json_set(o, "startedAt", json_object_get(json_field(about, "created_at")));
    json_set(o, "endAt", slept ? json_object_get(slept) : end ? json_object_get(end) : json_object_new_string(NO_END));
    json_set_int(o, "cpuCount", (long long)ceil(json_object_get_double(json_field(about, "cpu"))));
    json_set(o, "memoryMB", json_object_get(json_field(about, "memory_mb")));
    json_set(o, "diskSizeMB", json_object_get(json_field(json_field(about, "limits"), "disk_mb")));
    json_set(o, "metadata", their_metadata(json_field(about, "metadata")));
    json_set(o, "volumeMounts", json_object_new_array());
    if (detail) {
        add_access(rq, o, cell);
        add_lifecycle(o, about, cell);
    }
    json_object_put(about);
    return o;
}

/* ---- time ---- */

int e2b_timeout_of(struct request *rq, long long *seconds, struct err *e) {
    return rq->body ? json_get_int(rq->body, "timeout", 0, E2B_TIMEOUT_MAX, seconds, e) : 0;
}

int e2b_set_timeout(struct cell *cell, long long seconds, struct err *e) {
    struct json_object *patch = json_object_new_object();
    json_set(patch, "ttl_seconds", json_object_new_double(seconds ? (double)seconds : 0.001));
    int out = cell_set_lifecycle(cell, patch, e);
    json_object_put(patch);
    return out;
}

void e2b_timeout(struct request *rq) {
    struct err e;
    long long seconds = -1;
    if (e2b_timeout_of(rq, &seconds, &e) == 0 && seconds < 0) err_set(&e, ERR_INVALID, "\"timeout\" is missing");
    else if (seconds >= 0 && cell_asleep(rq->cell)) err_set(&e, ERR_NOT_FOUND, "the sandbox is paused: connect to it first");
    else if (seconds >= 0 && e2b_set_timeout(rq->cell, seconds, &e) == 0) {
        reply_empty(rq, 204);
        return;
    }
    reply_err(rq, &e);
}

/* {"duration"}: at least that long from now; never earlier than before. */
void e2b_refresh(struct request *rq) {
    struct err e;
    long long seconds = 15; /* E2B's default */
    double left;
    bool ok = (!rq->body || json_get_int(rq->body, "duration", 0, 3600, &seconds, &e) == 0);
    if (ok && cell_time_left(rq->cell, &left) && left >= 0 && left < (double)seconds) ok = e2b_set_timeout(rq->cell, seconds, &e) == 0;
    if (ok)
        reply_empty(rq, 204);
    else
        reply_err(rq, &e);
}

/* ---- network ---- */

void e2b_network(struct request *rq) {
    struct err e;
    if (!rq->body) rq->body = json_object_new_object();
    if (e2b_network_check(rq->body, true, &e) < 0)
        reply_err(rq, &e);
    else
        reply_empty(rq, 204); /* no network was asked for, and there is none */
}
