/* POST /v2/sandboxes: E2B's words for a new sandbox in ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b_control.h"
#include "api/owners.h"
#include "api/trace/trace.h"
#include "base/log.h"
#include "cell/process.h"
#include "cell/snapshot.h"
#include "cell/template.h"

#define USER_HOME "/workspace" /* where the user of a cell is at home */

/* ---- the link that makes /home/user work ---- */

struct home {
    cell_done_cb cb;
    void *arg;
};

static void home_made(void *arg, struct err *e, struct json_object *said) {
    struct home *h = arg;
    struct err failed;
    if (!e && json_object_get_int(json_field(said, "exit_code")) != 0) {
        err_set(&failed, ERR_INTERNAL, "%s could not be made: %s", E2B_HOME, json_object_get_string(json_field(said, "stderr")));
        e = &failed;
    }
    h->cb(h->arg, e);
    free(h);
}

void e2b_make_home(struct cell *cell, cell_done_cb cb, void *arg) {
    static const char command[] = "[ -e " E2B_HOME " ] || ln -s " USER_HOME " " E2B_HOME;
    struct json_object *body = json_object_new_object(), *argv = json_object_new_array();
    struct home *h = calloc(1, sizeof *h);
    if (!h) abort();
    *h = (struct home){cb, arg};
    json_object_array_add(argv, json_object_new_string("/bin/sh"));
    json_object_array_add(argv, json_object_new_string("-c"));
    json_object_array_add(argv, json_object_new_string(command));
    json_set(body, "cmd", argv);
    json_set_text(body, "user", "root");
    process_run_ours(cell, body, home_made, h);
    json_object_put(body);
}

/* ---- network ---- */

static bool is_empty(struct json_object *v) {
    if (json_object_is_type(v, json_type_array)) return json_object_array_length(v) == 0;
    if (json_object_is_type(v, json_type_object)) return json_object_object_length(v) == 0;
    return !v || (json_object_is_type(v, json_type_boolean) && !json_object_get_boolean(v));
}

static int no_network(struct err *e, const char *field) {
    return err_hint(e, ERR_UNSUPPORTED, "leave it out, or ask for allow_internet_access: false",
                    "network policies are not in this version: a sandbox has loopback only, so \"%s\" cannot be done", field);
}

int e2b_network_check(struct json_object *body, bool changes, struct err *e) {
    static const char *const asks[] = {"allowOut", "rules", "egressProxy", "maskRequestHost", "httpsPorts"};
    bool allowed = false;
    if (json_get_flag(body, "allow_internet_access", &allowed, e) < 0) return -1;
    /* Older SDKs put true into every create: it is no more of a wish than a missing word. What there is, get says: allowInternetAccess false. */
    if (allowed && changes) return no_network(e, "allow_internet_access: true");
    struct json_object *network = changes ? body : json_field(body, "network");
    if (network && !json_object_is_type(network, json_type_object)) return err_set(e, ERR_INVALID, "\"network\" must be an object");
    for (size_t i = 0; network && i < sizeof asks / sizeof *asks; i++)
        if (!is_empty(json_field(network, asks[i]))) return no_network(e, asks[i]);
    /* Full replacement: what does not deny everything opens the internet. */
    if (changes && !json_field(body, "allow_internet_access")) return no_network(e, "a network without allow_internet_access: false");
    return 0;
}

/* ---- the body ---- */

static int refuse_missing(struct json_object *body, struct err *e) {
    static const struct {
        const char *field, *what;
    } missing[] = {{"volumeMounts", "volumes are"}, {"mcp", "the MCP gateway inside a sandbox is"}, {"iam", "workload identity is"}};
    bool memory = true;
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        if (!is_empty(json_field(body, missing[i].field)))
            return err_set(e, ERR_UNSUPPORTED, "%s not in this version (\"%s\")", missing[i].what, missing[i].field);
    if (json_get_flag(body, "autoPauseMemory", &memory, e) < 0) return -1;
    if (!memory) return err_set(e, ERR_UNSUPPORTED, "a pause without memory is not in this version (\"autoPauseMemory\")");
    return e2b_network_check(body, false, e);
}

/* A template by name, alias or id, with or without a ":tag"; else a snapshot by id or name. */
static int choose_image(struct request *rq, const char *word, struct json_object *spec, struct err *e) {
    struct world *world = api_of(rq)->world;
    char id[TEMPLATE_ID_HEX + 1], image[CELL_ID_MAX], name[72];
    struct json_object *row;
    const char *owner = api_owner(rq);
    struct err other;
    if (template_resolve(world, word, id, e) == 0) {
        json_set_text(spec, "template", word);
        return 0;
    }
    size_t n = strcspn(word, ":");
    (void)snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : 0, word);
    if (snapshot_find(world, word, owner, image, &row, &other) == 0 || (word[n] && snapshot_find(world, name, owner, image, &row, &other) == 0)) {
        json_object_put(row);
        json_set_text(spec, "from_snapshot", strncmp(word, "snap_", 5) == 0 || !word[n] ? word : name);
        return 0;
    }
    if (word[n] && template_resolve(world, name, id, &other) == 0) {
        json_set_text(spec, "template", name);
        return 0;
    }
    return err_set(e, ERR_NOT_FOUND, "template '%.60s' not found", word);
}

/* A sandbox from a snapshot has what the original had in its metadata, under what is said here: so "not" has to be said. */
static void put_tag(struct json_object *metadata, const char *name, bool wanted, bool from_snapshot) {
    json_object_object_del(metadata, name);
    if (wanted || from_snapshot) json_set_text(metadata, name, wanted ? "true" : "false");
}

static int metadata_of(struct json_object *body, struct json_object **out, struct err *e) {
    struct json_object *said = json_field(body, "metadata"), *all = json_object_new_object();
    *out = all;
    if (said && !json_object_is_type(said, json_type_object)) return err_set(e, ERR_INVALID, "\"metadata\" must be an object");
    if (said) {
        json_object_object_foreach(said, name, value) json_set(all, name, json_object_get(value));
    }
    return 0;
}

static int auto_resume(struct json_object *body, bool *out, struct err *e) {
    struct json_object *said = json_field(body, "autoResume");
    if (!said) return 0;
    if (!json_object_is_type(said, json_type_object)) return err_set(e, ERR_INVALID, "\"autoResume\" must be an object");
    return json_get_flag(said, "enabled", out, e);
}

/* The body of our own create; *spec is put by the caller in either case. */
static int spec_of(struct request *rq, struct json_object *spec, struct err *e) {
    const char *template = NULL;
    bool pauses = false, secure = true, resumes = false;
    long long seconds = E2B_TIMEOUT_SECONDS;
    struct json_object *metadata = NULL, *env = json_field(rq->body, "envVars");
    if (json_get_text(rq->body, "templateID", &template, e) < 0 || json_get_flag(rq->body, "autoPause", &pauses, e) < 0 ||
        json_get_flag(rq->body, "secure", &secure, e) < 0 || auto_resume(rq->body, &resumes, e) < 0 || e2b_timeout_of(rq, &seconds, e) < 0 ||
        refuse_missing(rq->body, e) < 0)
        return -1;
    if (!template || !*template) return err_set(e, ERR_INVALID, "\"templateID\" is missing");
    if (!seconds) return err_set(e, ERR_INVALID, "\"timeout\" must be at least 1");
    if (choose_image(rq, template, spec, e) < 0) return -1;
    int out = metadata_of(rq->body, &metadata, e);
    bool from_snapshot = json_field(spec, "from_snapshot") != NULL;
    put_tag(metadata, E2B_TAG_OPEN, !secure, from_snapshot);
    put_tag(metadata, E2B_TAG_RESUME, resumes, from_snapshot);
    json_set(spec, "metadata", metadata);
    if (env) json_set(spec, "env", json_object_get(env));
    json_set_int(spec, "ttl_seconds", seconds);
    json_set(spec, "idle_timeout_seconds", NULL);
    json_set_text(spec, "on_timeout", pauses ? "freeze" : "delete");
    return out;
}

/* ---- the answer ---- */

static void removed(void *arg, struct err *e) { (void)arg, (void)e; }

static void ready(void *arg, struct err *e) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
        cell_delete(rq->cell, "its home could not be made", removed, NULL);
    } else {
        reply_json(rq, 201, e2b_sandbox_json(rq, rq->cell));
    }
    request_release(rq);
}

static void created(void *arg, struct err *e, struct cell *cell) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
        request_release(rq);
        return;
    }
    rq->cell = cell_hold(cell);
    if (rq->key_id[0]) owners_add(api_of(rq)->owners, cell_id(cell), rq->key_id);
    trace_created(rq, cell);
    e2b_make_home(cell, ready, rq);
}

void e2b_create(struct request *rq) {
    struct err e;
    const char *owner = api_owner(rq);
    struct json_object *spec = json_object_new_object();
    trace_start(rq, "cella.create");
    if (!rq->body) rq->body = json_object_new_object();
    if (spec_of(rq, spec, &e) < 0)
        reply_err(rq, &e);
    else
        cell_create(api_of(rq)->world, spec, owner ? owner : "", created, request_hold(rq));
    json_object_put(spec);
}
