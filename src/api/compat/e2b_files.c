/* GET and POST /files of a sandbox's port: bytes of any size in and out. */
#include "api/compat/e2b_files.h"

#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_filesystem_entry.h"
#include "api/handlers.h"
#include "api/http_internal.h"
#include "api/stream.h"
#include "cell/files.h"

/* ---- GET ---- */

struct download {
    struct request *rq;
    struct transfer *transfer;
    struct stream *st;
    uint64_t promised, given;
    bool opening, lost;
};

static void down_free(struct download *d) {
    request_release(d->rq);
    free(d);
}

static void down_taken(void *arg, size_t n) {
    struct download *d = arg;
    if (d->transfer) transfer_consumed(d->transfer, n);
}

static void down_gone(void *arg) {
    struct download *d = arg;
    if (d->opening) { /* inside stream_open */
        d->lost = true;
        return;
    }
    transfer_cancel(d->transfer);
    down_free(d);
}

/* false: the client is gone and so is d. */
static bool down_open(struct download *d, struct json_object *about) {
    static const struct stream_ops ops = {.taken = down_taken, .gone = down_gone};
    int64_t size = json_object_get_int64(json_field(about, "size"));
    if (size > 0) d->promised = (uint64_t)size; /* 0 says nothing in /proc: such a file goes out chunked */
    d->opening = true;
    d->st = stream_open(d->rq, 200, "application/octet-stream", d->promised, &ops, d);
    d->opening = false;
    if (!d->lost) return true;
    if (d->transfer) transfer_cancel(d->transfer);
    down_free(d);
    return false;
}

static void down_data(struct download *d, const void *bytes, size_t n) {
    if (!d->st && !down_open(d, NULL)) return;
    /* A file that grew since it was opened: what was promised is what it was. */
    size_t send = d->promised - d->given < n ? (size_t)(d->promised - d->given) : n;
    stream_write(d->st, bytes, send);
    d->given += send;
    if (send < n) transfer_consumed(d->transfer, n - send);
}

static void down_end(struct download *d, struct err *e) {
    d->transfer = NULL;
    if (!d->st && e)
        reply_err(d->rq, e);
    else if (!d->st && !down_open(d, NULL)) /* an empty file */
        return;
    if (d->st && e)
        stream_abort(d->st); /* cut: the client must not take it for whole */
    else if (d->st)
        stream_end(d->st);
    down_free(d);
}

static void on_download(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json, const void *bytes, size_t n,
                        struct err *e) {
    struct download *d = arg;
    (void)t;
    if (event == TRANSFER_OPEN) (void)down_open(d, json);
    if (event == TRANSFER_DATA) down_data(d, bytes, n);
    if (event == TRANSFER_END) down_end(d, e);
}

/* The client hung up while the guest still looks for the file. */
static void early_gone(void *arg) {
    struct download *d = arg;
    struct err e;
    transfer_cancel(d->transfer);
    err_set(&e, ERR_UNAVAILABLE, "the download was given up before it began");
    reply_err(d->rq, &e);
    down_free(d);
}

void e2b_files_get(struct request *rq) {
    struct err e;
    const char *user = e2b_user(rq), *asked = request_query(rq, "path");
    if (!user) return;
    char *path = e2b_path(user, asked ? asked : "", &e);
    if (!path) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "read");
    json_set_text(op, "path", path);
    json_set_text(op, "user", user);
    free(path);
    struct download *d = calloc(1, sizeof *d);
    if (!d) abort();
    *d = (struct download){.rq = request_hold(rq), .promised = UINT64_MAX};
    d->transfer = transfer_start(rq->cell, op, on_download, d, &e);
    json_object_put(op);
    if (d->transfer) {
        request_on_gone(rq, early_gone, d);
        return;
    }
    reply_err(rq, &e);
    down_free(d);
}

/* ---- POST ---- */

static enum MHD_Result is_metadata(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    (void)kind, (void)value;
    *(bool *)arg |= strncasecmp(name, "X-Metadata-", 11) == 0;
    return MHD_YES;
}

void e2b_files_post(struct request *rq) {
    struct err e;
    const char *user = e2b_user(rq), *type = request_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE);
    bool metadata = false;
    if (!user) return;
    if (rq->conn) MHD_get_connection_values(rq->conn, MHD_HEADER_KIND, is_metadata, &metadata);
    if (metadata) { /* to take them and lose them would be a lie */
        e2b_reply_later(rq, "metadata of a file (X-Metadata-*)", "keep it in a file beside it");
        return;
    }
    size_t n = type ? strcspn(type, "; \t") : 0;
    if (n == 19 && strncasecmp(type, "multipart/form-data", n) == 0) {
        e2b_upload_start(rq, user, true);
    } else if (n == 24 && strncasecmp(type, "application/octet-stream", n) == 0) {
        e2b_upload_start(rq, user, false);
    } else {
        err_set(&e, ERR_INVALID, "send multipart/form-data with fields \"file\", or application/octet-stream with ?path=");
        reply_err_as(rq, 415, &e);
    }
}

void e2b_files_compose(struct request *rq) {
    e2b_reply_later(rq, "composing files out of parts", "write the file in one request, it may be of any size");
}
