/* The log of a cell: its last output as text, or followed line by line until the cell ends or the client leaves. */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"

#define LINE_MAX_BYTES (64u * 1024) /* a longer line goes out in pieces */
/* What waits for a client that reads slower than the sandbox prints. Above it output is left out, and the client is told how much: a sandbox
 * must not wait for whoever watches it. Large enough for the kept log (256 KiB), the JSON around its lines and a burst behind it. */
#define WAITING_MAX (4u << 20)

struct follower {
    struct request *rq;
    struct stream *st;
    struct log_follower *log; /* NULL: the cell ended */
    enum event_format format; /* FORMAT_NONE: plain text */
    int only;                 /* 0 stdout, 1 stderr, -1 both */
    struct buf held[2];       /* the unfinished line of stdout and stderr */
    struct utf8_tail cut[2];
    unsigned long long dropped; /* bytes left out since the stream was full */
};

static const char *const names[2] = {"stdout", "stderr"};

static void follower_free(struct follower *f) {
    cell_log_unfollow(f->log);
    buf_free(&f->held[0]);
    buf_free(&f->held[1]);
    request_release(f->rq);
    free(f);
}

static void send_line(struct follower *f, struct json_object *taken) {
    struct buf b = {0};
    json_put(&b, taken);
    event_send(f->st, f->format, "line", b.data, b.len);
    buf_free(&b);
    json_object_put(taken);
}

/* last: the line ends here; else its rest follows, and a character that was cut waits for it. */
static void put_line(struct follower *f, int stream, bool last) {
    struct buf *held = &f->held[stream], text = {0};
    utf8_clean(&f->cut[stream], held->data, held->len, last, &text);
    buf_clear(held);
    if (f->format == FORMAT_NONE) {
        stream_write(f->st, text.data, text.len);
        if (last) stream_write(f->st, "\n", 1);
    } else {
        struct json_object *o = json_object_new_object();
        json_set(o, "line", json_object_new_string_len(text.data ? text.data : "", (int)text.len));
        json_set_text(o, "stream", names[stream]);
        send_line(f, o);
    }
    buf_free(&text);
}

static void tell_dropped(struct follower *f) {
    char text[96];
    if (!f->dropped) return;
    (void)snprintf(text, sizeof text, "[%llu bytes of output are missing here: they came faster than they were read]", f->dropped);
    if (f->format == FORMAT_NONE) {
        stream_write(f->st, text, strlen(text));
        stream_write(f->st, "\n", 1);
    } else {
        struct json_object *o = json_object_new_object();
        json_set_text(o, "line", text);
        json_set_int(o, "dropped_bytes", (long long)f->dropped);
        send_line(f, o);
    }
    f->dropped = 0;
}

static void put_output(struct follower *f, int stream, const char *bytes, size_t n) {
    struct buf *held = &f->held[stream];
    while (n) {
        if (f->dropped || stream_waiting(f->st) > WAITING_MAX) { /* until drained() */
            f->dropped += n + held->len;
            buf_clear(held);
            f->cut[stream] = (struct utf8_tail){0};
            return;
        }
        const char *newline = memchr(bytes, '\n', n);
        size_t take = newline ? (size_t)(newline - bytes) : n, room = LINE_MAX_BYTES - held->len;
        bool last = newline && take <= room;
        if (take > room) take = room;
        buf_append(held, bytes, take);
        if (last || held->len == LINE_MAX_BYTES) put_line(f, stream, last);
        take += last;
        bytes += take;
        n -= take;
    }
}

static void finish(struct follower *f) {
    for (int i = 0; i < 2; i++)
        if (f->held[i].len || f->cut[i].n) put_line(f, i, true);
    tell_dropped(f);
    stream_end(f->st);
    follower_free(f);
}

static void on_log(void *arg, bool is_err, const void *bytes, size_t n) {
    struct follower *f = arg;
    if (!bytes)
        finish(f);
    else if (f->only < 0 || f->only == is_err)
        put_output(f, is_err, bytes, n);
}

static void drained(void *arg) { tell_dropped(arg); }
static void gone(void *arg) { follower_free(arg); }
static void beat(void *arg) {
    struct follower *f = arg;
    event_keepalive(f->st, f->format);
}

static void follow(struct request *rq, int only) {
    static const struct stream_ops ops = {.drained = drained, .gone = gone};
    const char *accept = request_header(rq, "Accept");
    struct follower *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct follower){.rq = request_hold(rq), .only = only, .format = event_format_asked(rq)};
    bool text = f->format == FORMAT_NONE && accept && strncasecmp(accept, "text/plain", 10) == 0;
    if (f->format == FORMAT_NONE && !text) f->format = FORMAT_SSE;
    f->st = stream_open(rq, 200, text ? "text/plain; charset=utf-8" : event_content_type(f->format), UINT64_MAX, &ops, f);
    if (!text) {
        stream_heartbeat(f->st, beat);
        event_keepalive(f->st, f->format); /* the head goes out now: the client knows that it follows */
    }
    f->log = cell_log_follow(rq->cell, on_log, f);
    if (!f->log) finish(f);
}

void handle_logs(struct request *rq) {
    struct err e;
    bool follows;
    const char *stream = request_query(rq, "stream");
    if (!flag_of(rq, "follow", &follows)) return;
    if (!stream || !*stream) stream = "both";
    int only = strcmp(stream, "both") == 0 ? -1 : strcmp(stream, "stderr") == 0;
    if (!only && strcmp(stream, "stdout") != 0) {
        err_set(&e, ERR_INVALID, "the query field \"stream\" must be stdout, stderr or both");
        reply_err(rq, &e);
        return;
    }
    if (follows) {
        follow(rq, only);
        return;
    }
    char *text = cell_logs(rq->cell, stream);
    reply_text(rq, 200, "text/plain; charset=utf-8", text ? text : "");
    free(text);
}
