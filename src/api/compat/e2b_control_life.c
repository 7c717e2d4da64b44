/* E2B's control plane: pause, connect, resume, fork, kill. Their pause is our hibernation: memory and files on the disk. */
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b_control.h"
#include "api/handlers.h"
#include "api/owners.h"
#include "api/trace/trace.h"
#include "cell/branch.h"
#include "cell/world.h"

void e2b_kill(struct request *rq) { cell_delete(rq->cell, "deleted by request", answer_empty, request_hold(rq)); }

/* ---- pause ---- */

/* A paused sandbox stays until somebody wants it: its time begins again when it is connected to. */
static int stop_time(struct cell *cell, struct err *e) {
    struct json_object *patch = json_object_new_object();
    json_set(patch, "ttl_seconds", NULL);
    int out = cell_set_lifecycle(cell, patch, e);
    json_object_put(patch);
    return out;
}

static void paused(void *arg, struct err *e, struct json_object *said) {
    struct request *rq = arg;
    struct err failed;
    (void)said;
    if (e)
        reply_err(rq, e);
    else if (stop_time(rq->cell, &failed) < 0)
        reply_err(rq, &failed);
    else
        reply_empty(rq, 204);
    request_release(rq);
}

/* "memory": false asks for a form that is not there. */
static bool wants_memory(struct request *rq, const char *instead) {
    struct err e;
    bool memory = true;
    if (rq->body && json_get_flag(rq->body, "memory", &memory, &e) < 0) {
        reply_err(rq, &e);
        return false;
    }
    if (!memory) e2b_reply_later(rq, "a pause without memory", instead);
    return memory;
}

void e2b_pause(struct request *rq) {
    struct err e;
    if (!wants_memory(rq, "leave \"memory\" out: memory is kept")) return;
    if (cell_asleep(rq->cell)) {
        err_set(&e, ERR_CONFLICT, "the sandbox %s is paused already", cell_id(rq->cell));
        reply_err(rq, &e);
        return;
    }
    cell_hibernate(rq->cell, paused, request_hold(rq));
}

/* ---- connect, resume ---- */

struct joining {
    struct request *rq;
    long long seconds;
    bool slept, pause_said, pauses;
};

static int settle(struct joining *j, struct err *e) {
    struct json_object *patch = json_object_new_object();
    double left = -1;
    int out = 0;
    if (j->pause_said) json_set_text(patch, "on_timeout", j->pauses ? "freeze" : "delete");
    /* One that runs is only given more time, never less; no limit stays no limit. */
    bool knows = cell_time_left(j->rq->cell, &left) != NULL;
    if (j->slept || (knows && left >= 0 && left < (double)j->seconds)) json_set_int(patch, "ttl_seconds", j->seconds);
    if (json_object_object_length(patch)) out = cell_set_lifecycle(j->rq->cell, patch, e);
    json_object_put(patch);
    return out;
}

static void joined(void *arg, struct err *e) {
    struct joining *j = arg;
    struct err failed;
    if (!e && settle(j, &failed) < 0) e = &failed;
    if (e)
        reply_err(j->rq, e);
    else
        reply_json(j->rq, j->slept ? 201 : 200, e2b_sandbox_json(j->rq, j->rq->cell));
    request_release(j->rq);
    free(j);
}

/* It may be one that our own API made: it has no /home/user yet. */
static void running(void *arg, struct err *e) {
    struct joining *j = arg;
    if (e)
        joined(j, e);
    else
        e2b_make_home(j->rq->cell, joined, j);
}

/* Paused by our own API: memory is still there. */
static void awake(void *arg, struct err *e) {
    struct joining *j = arg;
    if (e)
        joined(j, e);
    else
        cell_resume(j->rq->cell, running, j);
}

static void join(struct request *rq, struct joining *j) {
    j->rq = request_hold(rq);
    j->slept = strcmp(e2b_state(rq->cell), "paused") == 0;
    cell_wake(rq->cell, awake, j);
}

static struct joining *join_spec(struct request *rq, long long seconds) {
    struct err e;
    if (!wants_memory(rq, "leave \"onResume\" out: the sandbox goes on with its memory")) return NULL;
    struct joining *j = calloc(1, sizeof *j);
    if (!j) abort();
    j->seconds = seconds;
    if (e2b_timeout_of(rq, &j->seconds, &e) < 0 || (rq->body && json_get_flag(rq->body, "autoPause", &j->pauses, &e) < 0)) {
        reply_err(rq, &e);
        free(j);
        return NULL;
    }
    j->pause_said = rq->body && json_field(rq->body, "autoPause");
    return j;
}

void e2b_connect(struct request *rq) {
    struct joining *j = join_spec(rq, E2B_TIMEOUT_SECONDS);
    if (j) join(rq, j);
}

/* The older call: only for a paused one. */
void e2b_resume(struct request *rq) {
    struct err e;
    struct joining *j = join_spec(rq, E2B_TIMEOUT_SECONDS);
    if (!j) return;
    if (strcmp(e2b_state(rq->cell), "paused") == 0) {
        join(rq, j);
        return;
    }
    err_set(&e, ERR_CONFLICT, "the sandbox %s is running already", cell_id(rq->cell));
    reply_err(rq, &e);
    free(j);
}

/* ---- fork ---- */

static struct json_object *failed_child(struct json_object *error) {
    struct json_object *o = json_object_new_object(), *inner = json_object_new_object();
    json_set_int(inner, "code", reply_status_of(json_object_get_string(json_field(error, "code"))));
    json_set(inner, "message", json_object_get(json_field(error, "error")));
    json_set(o, "error", inner);
    return o;
}

/* A child lives as its parent does: what its end means is not inherited by our own fork. */
static struct json_object *child(struct request *rq, const char *id) {
    struct err e;
    struct json_object *o = json_object_new_object(), *patch = json_object_new_object();
    struct cell *cell = cell_find(api_of(rq)->world, id, &e);
    double left;
    const char *parents = cell_time_left(rq->cell, &left);
    json_set_text(patch, "on_timeout", parents ? parents : "delete");
    if (cell && cell_set_lifecycle(cell, patch, &e) == 0) {
        if (rq->key_id[0]) owners_add(api_of(rq)->owners, id, rq->key_id);
        json_set(o, "sandbox", e2b_sandbox_json(rq, cell));
    } else {
        struct json_object *inner = json_object_new_object();
        json_set_int(inner, "code", reply_status_of(e.code));
        json_set_text(inner, "message", e.text);
        json_set(o, "error", inner);
    }
    json_object_put(patch);
    return o;
}

static void forked(void *arg, struct err *e, struct json_object *said) {
    struct request *rq = arg;
    if (e) {
        reply_err(rq, e);
    } else {
        struct json_object *list = json_object_new_array(), *children = json_field(said, "children"), *errors = json_field(said, "errors");
        trace_forked(rq, said);
        for (size_t i = 0; i < json_object_array_length(children); i++)
            json_object_array_add(list, child(rq, json_object_get_string(json_object_array_get_idx(children, i))));
        for (size_t i = 0; errors && i < json_object_array_length(errors); i++)
            json_object_array_add(list, failed_child(json_object_array_get_idx(errors, i)));
        reply_json(rq, 201, list);
    }
    request_release(rq);
}

void e2b_fork(struct request *rq) {
    struct err e;
    long long count = 1, seconds = E2B_TIMEOUT_SECONDS;
    trace_start(rq, "cella.fork");
    if ((rq->body && json_get_int(rq->body, "count", 1, 100, &count, &e) < 0) || e2b_timeout_of(rq, &seconds, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    if (cell_asleep(rq->cell)) {
        err_hint(&e, ERR_CONFLICT, "connect to it first", "the sandbox %s is paused", cell_id(rq->cell));
        reply_err(rq, &e);
        return;
    }
    struct json_object *body = json_object_new_object();
    json_set_int(body, "n", count);
    json_set_int(body, "ttl_seconds", seconds ? seconds : 1);
    cell_fork(rq->cell, body, false, forked, request_hold(rq));
    json_object_put(body);
}
