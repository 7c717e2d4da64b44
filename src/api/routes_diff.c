/* GET …/diff: files and variables of a sandbox against its parent, its template or another sandbox. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "base/id.h"
#include "cell/diff.h"

struct question {
    struct request *rq;
    struct cell *other; /* held; NULL: the template */
    struct diff *diff;  /* NULL: not begun, or over */
    struct diff_options options;
    char *context_id;
    bool gone; /* the client went while the other sandbox was being woken */
};

static void question_free(struct question *q) {
    if (q->other) cell_release(q->other);
    request_release(q->rq);
    free(q->context_id);
    free(q);
}

static void refuse(struct question *q, struct err *e) {
    reply_err(q->rq, e);
    question_free(q);
}

static void answered(void *arg, struct err *e, struct json_object *json) {
    struct question *q = arg;
    q->diff = NULL;
    if (e)
        reply_err(q->rq, e);
    else
        reply_json(q->rq, 200, json_object_get(json));
    question_free(q);
}

static void client_gone(void *arg) {
    struct question *q = arg;
    q->gone = true;
    if (!q->diff) return; /* woken() ends it */
    diff_cancel(q->diff);
    question_free(q);
}

static void begin(struct question *q) {
    struct err e;
    q->options.context_id = q->context_id;
    q->diff = diff_start(q->rq->cell, q->other, &q->options, answered, q, &e);
    if (!q->diff) refuse(q, &e);
}

static void woken(void *arg, struct err *e) {
    struct question *q = arg;
    if (q->gone)
        question_free(q);
    else if (e)
        refuse(q, e);
    else
        begin(q);
}

/* The other sandbox, if this key may see it: one that belongs to somebody else is not there. */
static int find_other(struct request *rq, const char *id, struct cell **out, struct err *e) {
    const char *owner = api_owner(rq);
    if (!id_valid(id, "sbx_"))
        return err_set(e, ERR_INVALID, "the query field \"against\" must be parent, template or the id of a sandbox");
    struct cell *c = cell_find(api_of(rq)->world, id, e);
    if (c && (!owner || strcmp(cell_owner(c), owner) == 0)) {
        *out = cell_hold(c);
        return 0;
    }
    /* 410 and 404 are about the sandbox in the path */
    return err_hint(e, ERR_CONFLICT, "Compare with its template: against=template.",
                    "there is no sandbox %s to compare with%s", id,
                    !c && strcmp(e->code, ERR_GONE) == 0 && !owner ? ": it has ended" : "");
}

static int options_of(struct request *rq, struct question *q, bool other, struct err *e) {
    bool bad = false;
    const char *context = request_query(rq, "context_id");
    q->options.text = query_flag(&rq->query, "text", &bad);
    if (bad) return err_set(e, ERR_INVALID, "the query field \"text\" must be 1 or 0");
    bool said = request_query(rq, "variables") != NULL;
    q->options.variables = query_flag(&rq->query, "variables", &bad);
    if (bad) return err_set(e, ERR_INVALID, "the query field \"variables\" must be 1 or 0");
    q->options.variables_wanted = q->options.variables;
    if (!said) q->options.variables = other;
    if (context && *context && !(q->context_id = strdup(context))) abort();
    return 0;
}

void handle_diff(struct request *rq) {
    struct err e;
    const char *id;
    struct question *q = calloc(1, sizeof *q);
    if (!q) abort();
    q->rq = request_hold(rq);
    if (diff_against(rq->cell, request_query(rq, "against"), &id, &e) < 0 ||
        (id && find_other(rq, id, &q->other, &e) < 0) || options_of(rq, q, q->other != NULL, &e) < 0) {
        refuse(q, &e);
        return;
    }
    if (q->other) cell_touch(q->other);
    if (!q->other || !cell_asleep(q->other)) {
        begin(q);
        if (rq->status) return;
    } else
        cell_wake(q->other, woken, q);
    request_on_gone(rq, client_gone, q);
}
