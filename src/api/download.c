/* A file or an archive on its way out of a cell, with the client's pace as the only buffer. A client may ask for a part of a file (Range): how large
 * the file is then has to be known first, so the guest is asked twice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/range.h"
#include "api/stream.h"
#include "cell/files.h"

struct download {
    struct request *rq;
    struct json_object *op;
    struct transfer *transfer; /* NULL: over */
    struct stream *st;         /* once the first answer came */
    const char *content_type;
    uint64_t promised; /* bytes that Content-Length says */
    uint64_t given;
    uint64_t size, from; /* of the file; of the part in it */
    bool archive, probing, part;
};

static void down_free(struct download *d) {
    json_object_put(d->op);
    request_release(d->rq);
    free(d);
}

static void down_taken(void *arg, size_t n) {
    struct download *d = arg;
    if (d->transfer) transfer_consumed(d->transfer, n);
}

static void down_gone(void *arg) {
    struct download *d = arg;
    transfer_cancel(d->transfer);
    down_free(d);
}

static void down_open(struct download *d, struct json_object *about) {
    static const struct stream_ops ops = {.taken = down_taken, .gone = down_gone};
    int64_t size = json_object_get_int64(json_field(about, "size"));
    char text[80];
    /* A size of 0 says nothing in /proc and /sys: those go out chunked. */
    if (!d->archive && !d->part && size > 0) d->promised = (uint64_t)size;
    d->st = stream_open(d->rq, d->part ? 206 : 200, d->content_type, d->promised, &ops, d);
    if (d->archive || !about) return;
    (void)snprintf(text, sizeof text, "%04o", (unsigned)json_object_get_int64(json_field(about, "mode")) & 07777);
    reply_header(d->rq, "X-File-Mode", text);
    (void)snprintf(text, sizeof text, "%ld", json_object_get_int64(json_field(about, "mtime_ms")));
    reply_header(d->rq, "X-File-Mtime-Ms", text);
    if (size > 0) reply_header(d->rq, "Accept-Ranges", "bytes");
    if (!d->part) return;
    (void)snprintf(text, sizeof text, "bytes %lu-%lu/%lu", d->from, d->from + d->promised - 1, d->size);
    reply_header(d->rq, "Content-Range", text);
}

static void down_data(struct download *d, const void *bytes, size_t n) {
    if (!d->st) down_open(d, NULL);
    size_t send = n;
    /* A file that grew since it was opened: what was promised is what it was. */
    if (d->promised - d->given < send) send = (size_t)(d->promised - d->given);
    stream_write(d->st, bytes, send);
    d->given += send;
    if (send < n) transfer_consumed(d->transfer, n - send);
}

static void down_end(struct download *d, struct err *e) {
    d->transfer = NULL;
    if (!d->st && e) reply_err(d->rq, e);
    if (!d->st && !e) down_open(d, NULL); /* an empty file */
    if (d->st && e)
        stream_abort(d->st); /* cut: the client must not take it for whole */
    else if (d->st)
        stream_end(d->st); /* fewer bytes than promised, because the file shrank, cut it too */
    down_free(d);
}

static void outside(struct download *d) {
    struct err e;
    char text[40];
    err_set(&e, ERR_INVALID, "the range lies outside of the file, which has %lu bytes", d->size);
    reply_err_as(d->rq, 416, &e);
    (void)snprintf(text, sizeof text, "bytes */%lu", d->size);
    reply_header(d->rq, "Content-Range", text);
    down_free(d);
}

static int start(struct download *d, struct err *e);

/* The probe is over, the size is known. */
static void probed(struct download *d, struct err *e) {
    struct err failed;
    uint64_t length = 0;
    d->transfer = NULL;
    d->probing = false;
    json_object_object_del(d->op, "length");
    enum range_kind kind = d->size ? range_of(request_header(d->rq, "Range"), d->size, &d->from, &length) : RANGE_WHOLE;
    if (!e && kind == RANGE_OUTSIDE) {
        outside(d);
        return;
    }
    if (!e && kind == RANGE_PART) {
        d->part = true;
        d->promised = length;
        json_set_int(d->op, "offset", (long long)d->from);
        json_set_int(d->op, "length", (long long)length);
    }
    if (!e && start(d, &failed) == 0) return;
    reply_err(d->rq, e ? e : &failed);
    down_free(d);
}

static void on_download(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json, const void *bytes, size_t n,
                        struct err *e) {
    struct download *d = arg;
    (void)t;
    switch (event) {
    case TRANSFER_OPEN:
        if (d->probing)
            d->size = (uint64_t)json_object_get_int64(json_field(json, "size"));
        else if (!d->archive)
            down_open(d, json);
        break;
    case TRANSFER_DATA: down_data(d, bytes, n); break;
    case TRANSFER_DRAINED: break;
    case TRANSFER_END:
        if (d->probing)
            probed(d, e);
        else
            down_end(d, e);
        break;
    }
}

static int start(struct download *d, struct err *e) {
    d->transfer = transfer_start(d->rq->cell, d->op, on_download, d, e);
    return d->transfer ? 0 : -1;
}

/* The client hung up while the guest still looks for the file. */
static void early_gone(void *arg) {
    struct download *d = arg;
    transfer_cancel(d->transfer);
    struct err e;
    err_set(&e, ERR_UNAVAILABLE, "the download was given up before it began");
    reply_err(d->rq, &e);
    down_free(d);
}

/* If-Range names a version of the file, and files have none here: the whole file is the answer to it. */
static bool part_asked(struct request *rq) {
    uint64_t from, length;
    return strcmp(rq->method, "GET") == 0 && !request_header(rq, "If-Range") && range_of(request_header(rq, "Range"), 1, &from, &length) != RANGE_WHOLE;
}

void answer_download(struct request *rq, struct json_object *taken, bool archive, const char *content_type) {
    struct err e;
    struct download *d = calloc(1, sizeof *d);
    if (!d) abort();
    *d = (struct download){.rq = request_hold(rq), .op = taken, .archive = archive, .content_type = content_type, .promised = UINT64_MAX};
    d->probing = !archive && part_asked(rq);
    if (d->probing) json_set_int(taken, "length", 0);
    if (start(d, &e) == 0) {
        request_on_gone(rq, early_gone, d);
        return;
    }
    reply_err(rq, &e);
    down_free(d);
}
