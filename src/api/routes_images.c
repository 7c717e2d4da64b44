/* What is on the disk: snapshots, Spaces, hibernated cells. */
#include <stdio.h>
#include <string.h>

#include "api/handlers.h"
#include "cell/cell.h"
#include "cell/snapshot.h"
#include "cell/world.h"

static void reply_or_err(struct request *rq, struct json_object *json, const struct err *e) {
    if (json)
        reply_json(rq, 200, json);
    else
        reply_err(rq, e);
}

/* ---- snapshots ---- */

static void snapshot_made(void *arg, struct err *e, struct json_object *snapshot) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else {
        char place[80];
        (void)snprintf(place, sizeof place, "/v1/snapshots/%s", json_object_get_string(json_field(snapshot, "id")));
        reply_json(rq, 201, json_object_get(snapshot));
        reply_header(rq, "Location", place);
    }
    request_release(rq);
}

void handle_snapshot_create(struct request *rq) {
    if (!rq->body) rq->body = json_object_new_object();
    snapshot_create(rq->cell, rq->body, snapshot_made, request_hold(rq));
}

void handle_snapshot_list(struct request *rq) {
    struct err e;
    const char *cell = request_query(rq, "sandbox_id"), *name = request_query(rq, "name");
    reply_or_err(
        rq,
        snapshot_list(api_of(rq)->world, cell && *cell ? cell : NULL, name && *name ? name : NULL, api_owner(rq), &e),
        &e);
}

void handle_cell_snapshots(struct request *rq) {
    struct err e;
    reply_or_err(rq, snapshot_list(api_of(rq)->world, cell_id(rq->cell), NULL, api_owner(rq), &e), &e);
}

void handle_snapshot_get(struct request *rq) {
    struct err e;
    reply_or_err(rq, snapshot_get(api_of(rq)->world, request_param(rq, 0), api_owner(rq), &e), &e);
}

void handle_snapshot_delete(struct request *rq) {
    struct err e;
    if (snapshot_delete(api_of(rq)->world, request_param(rq, 0), api_owner(rq), &e) < 0)
        reply_err(rq, &e);
    else
        reply_empty(rq, 204);
}

/* ---- away and back ---- */

void handle_hibernate(struct request *rq) { cell_hibernate(rq->cell, answer_json, request_hold(rq)); }

static void awake(void *arg, struct err *e) {
    struct request *rq = arg;
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, 200, cell_describe(rq->cell));
    request_release(rq);
}

void handle_wake(struct request *rq) { cell_wake(rq->cell, awake, request_hold(rq)); }

/* ---- Spaces ---- */

void handle_space_list(struct request *rq) { reply_json(rq, 200, space_list(api_of(rq)->world, api_owner(rq))); }

/* The cell of {space}, held by the request; replies when there is none. */
static bool find_space(struct request *rq) {
    struct err e;
    struct cell *c = space_find(api_of(rq)->world, request_param(rq, 0), api_owner(rq), &e);
    if (c)
        rq->cell = cell_hold(c);
    else
        reply_err(rq, &e);
    return c != NULL;
}

void handle_space_get(struct request *rq) {
    if (find_space(rq)) reply_json(rq, 200, space_describe(rq->cell));
}

void handle_space_delete(struct request *rq) {
    if (find_space(rq)) cell_delete(rq->cell, "deleted by request", answer_empty, request_hold(rq));
}

void handle_space_resume(struct request *rq) {
    if (!find_space(rq)) return;
    cell_touch(rq->cell);
    cell_wake(rq->cell, awake, request_hold(rq));
}
