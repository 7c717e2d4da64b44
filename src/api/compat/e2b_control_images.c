/* E2B's control plane: snapshots, and templates as far as they can be looked at. A snapshot is deleted by the call that deletes a template. */
#include <math.h>
#include <string.h>

#include "api/compat/e2b_control.h"
#include "base/id.h"
#include "cell/snapshot.h"
#include "cell/template.h"

/* ---- snapshots ---- */

static struct json_object *names_of(struct json_object *snapshot) {
    struct json_object *names = json_field(snapshot, "names");
    return names ? json_object_get(names) : json_object_new_array();
}

static struct json_object *snapshot_json(struct json_object *ours) {
    struct json_object *o = json_object_new_object();
    json_set(o, "snapshotID", json_object_get(json_field(ours, "id")));
    json_set(o, "names", names_of(ours));
    json_set(o, "sandboxID", json_object_get(json_field(ours, "sandbox_id")));
    json_set(o, "createdAt", json_object_get(json_field(ours, "created_at")));
    return o;
}

static void made(void *arg, struct err *e, struct json_object *snapshot) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, 201, snapshot_json(snapshot));
    request_release(rq);
}

void e2b_snapshot_create(struct request *rq) {
    struct err e;
    if (cell_asleep(rq->cell)) {
        err_hint(&e, ERR_CONFLICT, "connect to it first", "the sandbox %s is paused", cell_id(rq->cell));
        reply_err(rq, &e);
        return;
    }
    if (!rq->body) rq->body = json_object_new_object();
    snapshot_create(rq->cell, rq->body, made, request_hold(rq));
}

void e2b_snapshot_list(struct request *rq) {
    struct err e;
    const char *cell = request_query(rq, "sandboxID"), *name = request_query(rq, "name");
    struct json_object *ours = snapshot_list(api_of(rq)->world, cell && *cell ? cell : NULL, name && *name ? name : NULL, api_owner(rq), &e);
    if (!ours) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(ours); i++) json_object_array_add(list, snapshot_json(json_object_array_get_idx(ours, i)));
    json_object_put(ours);
    e2b_reply_page(rq, list, "createdAt", "snapshotID", true);
}

/* ---- templates ---- */

static long long megabytes(struct json_object *limits, const char *name) { return json_object_get_int64(json_field(limits, name)); }

static struct json_object *aliases_of(struct json_object *manifest) {
    struct json_object *list = json_object_new_array(), *more = json_field(manifest, "aliases");
    const char *name = json_object_get_string(json_field(manifest, "name"));
    if (name) json_object_array_add(list, json_object_new_string(name));
    for (size_t i = 0; json_object_is_type(more, json_type_array) && i < json_object_array_length(more); i++) {
        const char *alias = json_object_get_string(json_object_array_get_idx(more, i));
        if (!name || strcmp(alias, name) != 0) json_object_array_add(list, json_object_new_string(alias));
    }
    return list;
}

static struct json_object *template_json(struct request *rq, const char *name) {
    struct err e;
    struct json_object *manifest = template_get(api_of(rq)->world, name, &e), *o = json_object_new_object();
    struct json_object *limits = json_field(manifest, "limits"), *at = json_field(manifest, "created_at"), *aliases = aliases_of(manifest);
    double cpus = json_object_get_double(json_field(limits, "cpus"));
    json_set_text(o, "templateID", name);
    json_set_text(o, "buildID", json_object_get_string(json_field(manifest, "id")));
    json_set_text(o, "buildStatus", "ready");
    json_set_int(o, "cpuCount", cpus > 0 ? (long long)ceil(cpus) : 1);
    json_set_int(o, "memoryMB", megabytes(limits, "memory_mb"));
    json_set_int(o, "diskSizeMB", megabytes(limits, "disk_mb"));
    json_set_flag(o, "public", true);
    json_set(o, "aliases", aliases);
    json_set(o, "names", json_object_get(aliases));
    json_set(o, "createdAt", at ? json_object_get(at) : NULL);
    json_set(o, "updatedAt", at ? json_object_get(at) : NULL);
    json_set(o, "createdBy", NULL);
    json_set(o, "lastSpawnedAt", NULL);
    json_set_int(o, "spawnCount", 0);
    json_set_int(o, "buildCount", 1);
    json_set_text(o, "envdVersion", E2B_ENVD_VERSION);
    json_object_put(manifest);
    return o;
}

void e2b_template_list(struct request *rq) {
    struct json_object *ours = template_list(api_of(rq)->world), *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(ours); i++)
        json_object_array_add(list, template_json(rq, json_object_get_string(json_field(json_object_array_get_idx(ours, i), "name"))));
    json_object_put(ours);
    reply_json(rq, 200, list);
}

static bool is_template(struct request *rq, const char *name) {
    struct err e;
    char id[TEMPLATE_ID_HEX + 1];
    return *name && template_resolve(api_of(rq)->world, name, id, &e) == 0;
}

static void no_template(struct request *rq, const char *name) {
    struct err e;
    err_set(&e, ERR_NOT_FOUND, "template '%.60s' not found", name);
    reply_err(rq, &e);
}

void e2b_template_get(struct request *rq) {
    const char *name = request_param(rq, 0);
    if (!is_template(rq, name)) {
        no_template(rq, name);
        return;
    }
    struct json_object *o = template_json(rq, name);
    json_set(o, "builds", json_object_new_array());
    reply_json(rq, 200, o);
}

void e2b_template_alias(struct request *rq) {
    const char *name = request_param(rq, 0);
    if (!is_template(rq, name)) {
        no_template(rq, name);
        return;
    }
    struct json_object *o = json_object_new_object();
    json_set_text(o, "templateID", name);
    json_set_flag(o, "public", true);
    reply_json(rq, 200, o);
}

void e2b_template_delete(struct request *rq) {
    struct err e;
    const char *name = request_param(rq, 0);
    if (is_template(rq, name)) {
        e2b_reply_later(rq, "deleting a template over HTTP", "run `cella template rm` on the daemon's machine");
        return;
    }
    if (snapshot_delete(api_of(rq)->world, name, api_owner(rq), &e) < 0)
        reply_err(rq, &e);
    else
        reply_empty(rq, 204);
}
