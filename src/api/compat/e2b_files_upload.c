/* An upload: the body as it comes, unpacked when it is gzip, taken apart when it is a form, and written file by file. The body is not read
 * faster than the cell's disk takes it; nothing is answered before the last file is in its place. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_files.h"
#include "api/compat/e2b_files_multipart.h"
#include "api/compat/e2b_filesystem_entry.h"
#include "api/compat/gather.h"
#include "api/handlers.h"
#include "cell/files.h"

#define PLAIN (32u * 1024) /* unpacked bytes that wait for the disk */
#define FILES_MAX 4096     /* of one form: their names are kept for the answer */
/* What a refused upload may still send before its connection is closed: these clients read no answer before they have sent everything, and a
 * full disk is worth telling. A body is not endless, and what is thrown away costs little. */
#define THROWN_AWAY_MAX (8ull << 30)

struct upload {
    struct request *rq;
    const char *user;
    char *fixed; /* ?path=, or NULL: each part's own file name */
    bool form, zipped, unzipped; /* unzipped: the gzip stream is whole */
    struct multipart parts;
    struct gather gather; /* of the part at work */
    z_stream z;
    unsigned char *plain;
    size_t from, to;
    struct transfer *transfer;
    char *path;              /* of the file at work */
    struct json_object *done; /* answers by path; the whole answer in the end */
    bool skipping;           /* the part at work is none of ours */
    bool closing;            /* the part at work is complete, its end has not come */
    bool finished;           /* and the transfer knows it */
    bool whole;              /* the form's closing delimiter came */
    bool body_over, failed;
    struct err why; /* when failed */
    uint64_t thrown_away;
};

static void upload_free(struct upload *u) {
    if (u->transfer) transfer_cancel(u->transfer); /* half a file leaves the old one as it was */
    if (u->form) multipart_close(&u->parts);
    if (u->zipped) inflateEnd(&u->z);
    json_object_put(u->done);
    free(u->plain);
    free(u->path);
    free(u->fixed);
    request_release(u->rq);
    free(u);
}

/* The first error counts. It is told when the body is over. */
static void fail(struct upload *u, const struct err *e) {
    if (u->failed) return;
    u->failed = true;
    u->why = *e;
    if (u->transfer) transfer_cancel(u->transfer);
    u->transfer = NULL;
    gather_drop(&u->gather);
}

static void answer_failure(struct upload *u) {
    reply_err(u->rq, &u->why);
    upload_free(u);
}

static void settle(struct upload *u);

/* ---- one file ---- */

static void written(struct upload *u) {
    struct json_object *one = json_object_new_object();
    json_set_text(one, "name", e2b_path_name(u->path));
    json_set_text(one, "type", "file");
    json_set_text(one, "path", u->path);
    json_set(u->done, u->path, one);
    free(u->path);
    u->path = NULL;
}

/* Again when the disk has room, until the last bytes of the part are on their way. */
static void finish(struct upload *u) {
    u->closing = true;
    if (u->finished || !gather_flush(&u->gather, u->transfer)) return;
    u->finished = true;
    transfer_finish(u->transfer);
}

static void on_write(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json, const void *bytes, size_t n,
                     struct err *e) {
    struct upload *u = arg;
    (void)t, (void)json, (void)bytes, (void)n;
    if (event == TRANSFER_END) {
        u->transfer = NULL;
        u->closing = u->finished = false;
        if (e)
            fail(u, e);
        else
            written(u);
    } else if (event != TRANSFER_DRAINED) {
        return;
    } else if (u->closing) {
        finish(u);
    }
    settle(u);
}

static int begin(struct upload *u, const char *name, struct err *e) {
    if (json_object_object_length(u->done) >= FILES_MAX)
        return err_set(e, ERR_TOO_LARGE, "one request may write at most %d files", FILES_MAX);
    if (u->fixed)
        u->path = strdup(u->fixed);
    else if (name && *name)
        u->path = e2b_path(u->user, name, e);
    else
        return err_set(e, ERR_INVALID, "a file needs a name: ?path= or the part's filename");
    if (!u->path) return -1;
    if (json_field(u->done, u->path)) return err_set(e, ERR_INVALID, "the request writes %.200s twice", u->path);
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "write");
    json_set_text(op, "path", u->path);
    json_set_text(op, "user", u->user);
    json_set_flag(op, "parents", true);
    u->transfer = transfer_start(u->rq->cell, op, on_write, u, e);
    json_object_put(op);
    return u->transfer ? 0 : -1;
}

/* ---- bytes as they are meant: how many were taken ---- */

/* 1: go on, 0: the disk is busy. */
static int take_event(struct upload *u, enum multipart_event event, size_t *at, struct err *e) {
    size_t n;
    switch (event) {
    case MULTIPART_PART:
        u->skipping = strcmp(u->parts.name, "file") != 0;
        if (!u->skipping && begin(u, u->parts.filename, e) < 0) fail(u, e);
        return 1;
    case MULTIPART_DATA:
        n = u->skipping ? u->parts.size : gather_put(&u->gather, u->transfer, u->parts.data, u->parts.size);
        *at += multipart_took(&u->parts, n);
        return n || !u->parts.size;
    case MULTIPART_PART_END:
        if (!u->skipping) finish(u);
        return 1;
    case MULTIPART_END: u->whole = true; return 1;
    case MULTIPART_BAD: fail(u, e); return 1;
    case MULTIPART_MORE: break;
    }
    return 0;
}

static size_t put_form(struct upload *u, const char *bytes, size_t n) {
    size_t at = 0, used;
    struct err e;
    while (!u->closing && !u->failed) {
        enum multipart_event event = multipart_next(&u->parts, bytes + at, n - at, &used, &e);
        at += used;
        if (event == MULTIPART_END && u->whole) return n;
        if (!take_event(u, event, &at, &e)) break;
    }
    return u->failed ? n : at;
}

static size_t put_plain(struct upload *u, const char *bytes, size_t n) {
    if (u->form) return put_form(u, bytes, n);
    return u->transfer && !u->closing ? transfer_write(u->transfer, bytes, n) : 0;
}

/* false: nothing more comes out of what went in. */
static bool unzip(struct upload *u) {
    struct err e;
    u->z.next_out = u->plain;
    u->z.avail_out = PLAIN;
    int got = inflate(&u->z, Z_NO_FLUSH);
    u->from = 0;
    u->to = PLAIN - u->z.avail_out;
    u->unzipped = got == Z_STREAM_END;
    if (got != Z_OK && got != Z_STREAM_END && got != Z_BUF_ERROR) {
        err_set(&e, ERR_INVALID, "the body is no gzip, as its Content-Encoding says");
        fail(u, &e);
        return false;
    }
    return u->to > 0;
}

static size_t put_zipped(struct upload *u, const void *bytes, size_t n) {
    struct err e;
    u->z.next_in = (void *)(uintptr_t)bytes;
    u->z.avail_in = (uInt)n;
    do {
        if (u->from < u->to) u->from += put_plain(u, (char *)u->plain + u->from, u->to - u->from);
        if (u->from < u->to) break;
    } while (!u->failed && !u->unzipped && unzip(u));
    if (u->unzipped && u->from == u->to && u->z.avail_in && !u->failed) {
        err_set(&e, ERR_INVALID, "there are bytes behind the end of the gzip body");
        fail(u, &e);
    }
    return u->failed ? n : n - u->z.avail_in;
}

/* ---- the body ---- */

static size_t on_bytes(void *arg, const void *bytes, size_t n) {
    struct upload *u = arg;
    /* A chunk of the HTTP library is far below 4 GiB, which is what zlib counts to. */
    if (!u->failed) return u->zipped ? put_zipped(u, bytes, n) : put_plain(u, bytes, n);
    u->thrown_away += n;
    if (u->thrown_away > THROWN_AWAY_MAX) answer_failure(u);
    return n;
}

static void on_body_end(void *arg) {
    struct upload *u = arg;
    u->body_over = true;
    settle(u);
}

static void on_gone(void *arg) { upload_free(arg); }

static void answer(struct upload *u) {
    struct json_object *list = json_object_new_array();
    json_object_object_foreach(u->done, path, one) {
        (void)path;
        json_object_array_add(list, json_object_get(one));
    }
    reply_json(u->rq, 200, list);
    upload_free(u);
}

static void cut_off(struct upload *u, const char *what) {
    struct err e;
    err_set(&e, ERR_INVALID, "%s is cut off: its end is missing", what);
    fail(u, &e);
}

/* Something moved: the disk has room, a file is done, or the body is over. */
static void settle(struct upload *u) {
    if (u->zipped && !u->failed) (void)put_zipped(u, "", 0);
    if (!u->body_over) {
        request_sink_ready(u->rq);
        return;
    }
    if (!u->failed && (u->from < u->to || u->closing)) return;
    if (!u->failed && u->zipped && !u->unzipped) cut_off(u, "the gzip body");
    if (!u->failed && u->form && !u->whole) cut_off(u, "the form");
    if (u->failed)
        answer_failure(u);
    else if (u->transfer)
        finish(u); /* the body itself is the file */
    else
        answer(u);
}

/* ---- start ---- */

static int gzip_wanted(struct request *rq, bool *zipped, struct err *e) {
    const char *encoding = request_header(rq, "Content-Encoding");
    *zipped = encoding && strcasecmp(encoding, "gzip") == 0;
    if (!encoding || *zipped || strcasecmp(encoding, "identity") == 0) return 0;
    return err_set(e, ERR_INVALID, "Content-Encoding may be gzip or identity");
}

static int prepare(struct upload *u, struct err *e) {
    const char *path = request_query(u->rq, "path");
    bool zipped;
    if (gzip_wanted(u->rq, &zipped, e) < 0) return -1;
    if (path && *path && !(u->fixed = e2b_path(u->user, path, e))) return -1;
    if (u->form && multipart_open(&u->parts, request_header(u->rq, "Content-Type"), e) < 0) return -1;
    if (!u->form && begin(u, NULL, e) < 0) return -1;
    if (!zipped) return 0;
    u->plain = malloc(PLAIN);
    if (!u->plain || inflateInit2(&u->z, 15 + 16) != Z_OK) abort(); /* 15 + 16: gzip only */
    u->zipped = true;
    return 0;
}

void e2b_upload_start(struct request *rq, const char *user, bool form) {
    struct err e;
    struct upload *u = calloc(1, sizeof *u);
    if (!u) abort();
    *u = (struct upload){.rq = request_hold(rq), .user = user, .form = form, .done = json_object_new_object()};
    if (prepare(u, &e) < 0) {
        reply_err(rq, &e);
        upload_free(u);
        return;
    }
    rq->sink = (struct body_sink){.write = on_bytes, .end = on_body_end, .arg = u};
    rq->gone = on_gone; /* no watch: while a body comes the library itself sees the hang-up */
    rq->gone_arg = u;
}
