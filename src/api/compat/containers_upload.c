/* A file for a container, sent as multipart/form-data: the body is taken apart while it comes and is not read faster than the cell's disk takes
 * it. The file is in its place only when the whole form has come: half a form leaves what was there. */
#include <stdlib.h>
#include <string.h>

#include "api/compat/containers.h"
#include "api/compat/e2b_files_multipart.h"
#include "api/compat/gather.h"
#include "api/handlers.h"
#include "cell/files.h"

struct upload {
    struct request *rq;
    struct multipart parts;
    struct transfer *transfer; /* NULL: not begun, or over */
    char *path;
    struct gather gather;
    bool skipping; /* the part at work is not the file */
    bool whole;    /* the closing delimiter came */
    bool ended;    /* and nothing comes behind it */
};

static void upload_free(struct upload *u) {
    if (u->transfer) transfer_cancel(u->transfer);
    multipart_close(&u->parts);
    free(u->path);
    request_release(u->rq);
    free(u);
}

/* Nothing of this upload is called after it: the rest of the body is read away. */
static void fail(struct upload *u, const struct err *e) {
    reply_err(u->rq, e);
    upload_free(u);
}

static void found(void *arg, struct err *e, struct json_object *entry) {
    struct request *rq = arg;
    struct json_object *file = NULL;
    if (!e) {
        container_file_came(rq->cell, entry);
        file = container_file_json(rq->cell, entry);
    }
    struct err gone;
    if (!e && !file) err_set(&gone, ERR_CONFLICT, "the file was written through a link, so it is no container file"), e = &gone;
    if (e)
        reply_err(rq, e);
    else
        reply_json(rq, 200, file);
    request_release(rq);
}

static void written(struct upload *u) {
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "stat");
    json_set_text(op, "path", u->path);
    u->rq->gone = NULL;
    files_call(u->rq->cell, op, found, request_hold(u->rq));
    json_object_put(op);
    upload_free(u);
}

static void on_room(struct upload *u) {
    if (!gather_flush(&u->gather, u->transfer)) return;
    if (u->ended)
        transfer_finish(u->transfer);
    else
        request_sink_ready(u->rq);
}

static void on_write(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json, const void *bytes, size_t n, struct err *e) {
    struct upload *u = arg;
    (void)t, (void)json, (void)bytes, (void)n;
    if (event == TRANSFER_DRAINED) on_room(u);
    if (event != TRANSFER_END) return;
    u->transfer = NULL;
    if (e)
        fail(u, e);
    else
        written(u);
}

/* The last part of the name that came: a path of the client's machine means nothing here. */
static char *path_for(const char *filename, struct err *e) {
    const char *slash = filename ? strrchr(filename, '/') : NULL, *name = slash ? slash + 1 : filename;
    struct buf b = {0};
    if (!name || !*name || !strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > 255 || !utf8_valid(name, strlen(name))) {
        err_set(e, ERR_INVALID, "the part \"file\" needs a file name");
        return NULL;
    }
    buf_printf(&b, CONTAINER_HOME "/%s", name);
    return b.data;
}

static int begin(struct upload *u, struct err *e) {
    u->skipping = strcmp(u->parts.name, "file") != 0;
    if (strcmp(u->parts.name, "file_id") == 0)
        return err_hint(e, ERR_UNSUPPORTED, "send the file itself", "this version of Cella has no file store that \"file_id\" could name");
    if (u->skipping) return 0;
    if (u->path) return err_set(e, ERR_INVALID, "one request brings one file");
    if (!(u->path = path_for(u->parts.filename, e))) return -1;
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "write");
    json_set_text(op, "path", u->path);
    u->transfer = transfer_start(u->rq->cell, op, on_write, u, e);
    json_object_put(op);
    return u->transfer ? 0 : -1;
}

static size_t up_write(void *arg, const void *bytes, size_t n) {
    struct upload *u = arg;
    struct err e;
    size_t at = 0, used, taken;
    while (!u->whole) {
        enum multipart_event event = multipart_next(&u->parts, (const char *)bytes + at, n - at, &used, &e);
        at += used;
        if (event == MULTIPART_MORE) break;
        if (event == MULTIPART_BAD || (event == MULTIPART_PART && begin(u, &e) < 0)) {
            fail(u, &e);
            return n;
        }
        if (event == MULTIPART_END) u->whole = true;
        if (event != MULTIPART_DATA) continue;
        taken = u->skipping ? u->parts.size : gather_put(&u->gather, u->transfer, u->parts.data, u->parts.size);
        at += multipart_took(&u->parts, taken);
        if (!taken && u->parts.size) return at; /* on_room asks for the rest */
    }
    if (u->transfer) (void)gather_flush(&u->gather, u->transfer);
    return u->whole ? n : at;
}

static void up_end(void *arg) {
    struct upload *u = arg;
    struct err e;
    if (u->whole && u->path) {
        u->ended = true;
        if (gather_flush(&u->gather, u->transfer)) transfer_finish(u->transfer);
        return;
    }
    if (u->whole)
        err_set(&e, ERR_INVALID, "the form has no part \"file\"");
    else
        err_set(&e, ERR_INVALID, "the multipart body ends before its last delimiter");
    fail(u, &e);
}

static void up_gone(void *arg) {
    struct upload *u = arg;
    upload_free(u);
}

void container_file_create(struct request *rq) {
    struct err e;
    const char *type = request_header(rq, "Content-Type");
    if (type && strncasecmp(type, "application/json", 16) == 0) {
        err_hint(&e, ERR_UNSUPPORTED, "send the file itself as multipart/form-data", "this version of Cella has no file store that \"file_id\" could name");
        reply_err(rq, &e);
        return;
    }
    struct upload *u = calloc(1, sizeof *u);
    if (!u) abort();
    u->rq = request_hold(rq);
    if (multipart_open(&u->parts, type, &e) < 0) {
        fail(u, &e);
        return;
    }
    rq->sink = (struct body_sink){.write = up_write, .end = up_end, .arg = u};
    rq->gone = up_gone; /* no watch: while a body comes the library itself sees the hang-up */
    rq->gone_arg = u;
}
