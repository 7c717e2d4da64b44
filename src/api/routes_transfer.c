/* Bytes of any size in and out of a cell: files and tar archives, with the client's pace as the only buffer. */
#include <stdlib.h>
#include <string.h>

#include "api/files_json.h"
#include "api/handlers.h"
#include "cell/files.h"

struct carry { /* an upload */
    struct request *rq;
    struct transfer *transfer; /* NULL: over */
};

static void carry_free(struct carry *c) {
    request_release(c->rq);
    free(c);
}

static struct carry *carry_new(struct request *rq) {
    struct carry *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct carry){.rq = request_hold(rq)};
    return c;
}

/* ---- download (download.c) ---- */

void handle_fs_get(struct request *rq) {
    struct err e;
    long long offset, length;
    if (query_number(&rq->query, "offset", 0, INT64_MAX, 0, &offset, &e) < 0 ||
        query_number(&rq->query, "length", 0, INT64_MAX, -1, &length, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *op = path_operation(rq, "read", NULL);
    if (!op) return;
    bool part = offset || length >= 0;
    if (offset) json_set_int(op, "offset", offset);
    if (length >= 0) json_set_int(op, "length", length);
    /* A part's size is known only to the guest: it goes out chunked, like an archive. */
    answer_download(rq, op, part, "application/octet-stream");
}

void handle_tar_get(struct request *rq) {
    struct json_object *op = path_operation(rq, "tar_get", "/workspace");
    if (op) answer_download(rq, op, true, "application/x-tar");
}

/* ---- upload ---- */

static size_t up_write(void *arg, const void *bytes, size_t n) {
    struct carry *c = arg;
    return c->transfer ? transfer_write(c->transfer, bytes, n) : n;
}

static void up_end(void *arg) {
    struct carry *c = arg;
    if (c->transfer) transfer_finish(c->transfer);
}

static void on_upload(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json,
                      const void *bytes, size_t n, struct err *e) {
    struct carry *c = arg;
    (void)t;
    (void)bytes;
    (void)n;
    if (event == TRANSFER_DRAINED) request_sink_ready(c->rq);
    if (event != TRANSFER_END) return;
    c->transfer = NULL;
    if (e)
        reply_err(c->rq, e); /* the rest of the body is read away */
    else
        reply_json(c->rq, 200, json ? json_object_get(json) : json_object_new_object());
    carry_free(c);
}

static void up_gone(void *arg) {
    struct carry *c = arg;
    transfer_cancel(c->transfer); /* half an upload leaves the old file as it was */
    c->transfer = NULL;
    carry_free(c);
}

static void upload(struct request *rq, struct json_object *taken) {
    struct err e;
    struct carry *c = carry_new(rq);
    c->transfer = transfer_start(rq->cell, taken, on_upload, c, &e);
    json_object_put(taken);
    if (!c->transfer) {
        reply_err(rq, &e);
        carry_free(c);
        return;
    }
    rq->sink = (struct body_sink){.write = up_write, .end = up_end, .arg = c};
    rq->gone = up_gone; /* no watch: while a body comes the library itself sees the hang-up */
    rq->gone_arg = c;
}

/* A directory that is missing is made, unless ?parents=0. */
static void set_parents(struct request *rq, struct json_object *op) {
    const char *parents = request_query(rq, "parents");
    json_set_flag(op, "parents", !parents || strcmp(parents, "0") != 0);
}

void handle_fs_put(struct request *rq) {
    struct err e;
    int mode = -1;
    bool append;
    const char *mode_text = request_query(rq, "mode");
    if (!flag_of(rq, "append", &append)) return;
    if (mode_text && files_mode_text(mode_text, &mode, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *op = path_operation(rq, "write", NULL);
    if (!op) return;
    if (mode >= 0) json_set_int(op, "mode", mode);
    json_set_flag(op, "append", append);
    set_parents(rq, op);
    upload(rq, op);
}

void handle_tar_put(struct request *rq) {
    struct json_object *op = path_operation(rq, "tar_put", "/workspace");
    if (!op) return;
    set_parents(rq, op);
    upload(rq, op);
}
