/* GET …/fs/watch: changes of files as server-sent events (or NDJSON), until the client hangs up. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "cell/files.h"

#define LINE_LIMIT (64u * 1024)

struct file_watch {
    struct request *rq;
    struct transfer *transfer;
    struct stream *st;
    enum event_format format;
    struct buf line;
    size_t owed; /* bytes that the guest sent and we have not given credit back for */
};

static void watch_free(struct file_watch *w) {
    buf_free(&w->line);
    request_release(w->rq);
    free(w);
}

static void gone(void *arg) {
    struct file_watch *w = arg;
    transfer_cancel(w->transfer);
    watch_free(w);
}

static void give_back(struct file_watch *w) {
    if (stream_full(w->st)) return;
    transfer_consumed(w->transfer, w->owed);
    w->owed = 0;
}

static void drained(void *arg) { give_back(arg); }

static void beat(void *arg) {
    struct file_watch *w = arg;
    event_keepalive(w->st, w->format);
}

/* One JSON line of the guest: parsed again, because it comes from inside a cell. */
static void put_line(struct file_watch *w) {
    struct err e;
    struct json_object *event = NULL;
    if (json_parse_object(w->line.data, w->line.len, &event, &e) == 0 && event) {
        struct buf b = {0};
        json_put(&b, event);
        event_send(w->st, w->format, "change", b.data, b.len);
        buf_free(&b);
    }
    json_object_put(event);
    buf_clear(&w->line);
}

static void put_lines(struct file_watch *w, const char *bytes, size_t n) {
    w->owed += n;
    while (n) {
        const char *newline = memchr(bytes, '\n', n);
        size_t take = newline ? (size_t)(newline - bytes) : n;
        if (w->line.len + take <= LINE_LIMIT) buf_append(&w->line, bytes, take);
        if (newline && w->line.len) put_line(w);
        take += newline != NULL;
        bytes += take;
        n -= take;
    }
    give_back(w);
}

static void open_stream(struct file_watch *w) {
    static const struct stream_ops ops = {.drained = drained, .gone = gone};
    if (w->st) return;
    w->st = stream_open(w->rq, 200, event_content_type(w->format), UINT64_MAX, &ops, w);
    stream_heartbeat(w->st, beat);
    event_send(w->st, w->format, "start", "{\"type\":\"start\"}", 16); /* from here on nothing is missed */
}

static void on_event(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json,
                     const void *bytes, size_t n, struct err *e) {
    struct file_watch *w = arg;
    (void)t;
    (void)json;
    if (event == TRANSFER_OPEN) open_stream(w);
    if (event == TRANSFER_DATA) {
        open_stream(w);
        put_lines(w, bytes, n);
    }
    if (event != TRANSFER_END) return;
    struct err ended;
    if (!e) err_set(&ended, ERR_GONE, "the watch ended");
    if (w->st)
        stream_abort(w->st); /* a watch has no end of its own */
    else
        reply_err(w->rq, e ? e : &ended);
    watch_free(w);
}

/* The client hung up before the guest answered. */
static void early_gone(void *arg) {
    struct file_watch *w = arg;
    struct err e;
    transfer_cancel(w->transfer);
    err_set(&e, ERR_UNAVAILABLE, "the watch was given up before it began");
    reply_err(w->rq, &e);
    watch_free(w);
}

void handle_fs_watch(struct request *rq) {
    struct err e;
    bool recursive;
    const char *path = request_query(rq, "path");
    if (!flag_of(rq, "recursive", &recursive)) return;
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "watch");
    json_set_text(op, "path", path && *path ? path : "/workspace");
    json_set_flag(op, "recursive", recursive);
    struct file_watch *w = calloc(1, sizeof *w);
    if (!w) abort();
    *w = (struct file_watch){.rq = request_hold(rq), .format = event_format_asked(rq)};
    if (w->format == FORMAT_NONE) w->format = FORMAT_SSE;
    w->transfer = transfer_start(rq->cell, op, on_event, w, &e);
    json_object_put(op);
    if (!w->transfer) {
        reply_err(rq, &e);
        watch_free(w);
        return;
    }
    request_on_gone(rq, early_gone, w);
}
