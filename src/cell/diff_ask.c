#include "cell/diff_ask.h"

#include <string.h>

#include "cell/text.h"

#define LINE_MAX_BYTES 65536 /* one entry: name, path and targets of 4096 bytes, each byte at most six of JSON */

static void forget(struct diff_ask *a) {
    struct cell *c = a->cell;
    if (!c) return;
    a->cell = NULL;
    a->channel = NULL;
    c->transfers--;
    cell_touch(c);
    cell_release(c);
}

/* What the answer left; the caller of done() has had its chance to take it. */
static void over(struct diff_ask *a, struct err *err) {
    struct json_object *reply = a->reply;
    bool closing = a->cell->world->closing;
    forget(a);
    if (!closing) a->done(a, err); /* a may be asked again or gone when this returns */
    json_object_put(reply);
}

static void refused(struct deferred *d) {
    struct diff_ask *a = container_of(d, struct diff_ask, later);
    over(a, &a->err);
}

static void fail(struct diff_ask *a, const char *code, const char *text) {
    if (a->failed) return;
    a->failed = true;
    if (code) err_set(&a->err, code, "%s", text);
    guest_channel_close(a->channel);
}

static void on_reply(void *arg, struct json_object *reply) {
    struct diff_ask *a = arg;
    json_object_put(a->reply);
    a->reply = json_object_get(reply);
}

static void take_lines(struct diff_ask *a, const char *p, size_t n) {
    const char *end = p + n, *newline;
    while (!a->failed && (newline = memchr(p, '\n', (size_t)(end - p)))) {
        size_t part = (size_t)(newline - p);
        bool whole = a->bytes.len > 0;
        if (whole) buf_append(&a->bytes, p, part);
        if (!a->line(a, whole ? a->bytes.data : p, whole ? a->bytes.len : part, &a->err)) fail(a, NULL, NULL);
        if (whole) buf_clear(&a->bytes);
        p = newline + 1;
    }
    if (!a->failed) buf_append(&a->bytes, p, (size_t)(end - p));
    if (a->bytes.len > LINE_MAX_BYTES) fail(a, ERR_LOST, "the sandbox answered with an entry that is too long");
}

static void on_data(void *arg, bool is_err, const void *bytes, size_t n) {
    struct diff_ask *a = arg;
    (void)is_err;
    if (!a->failed && a->line)
        take_lines(a, bytes, n);
    else if (!a->failed && a->bytes.len + n > a->bytes_max)
        fail(a, ERR_TOO_LARGE, "the sandbox answered with more than was asked for");
    else if (!a->failed)
        buf_append(&a->bytes, bytes, n);
    guest_channel_consumed(a->channel, n);
}

static void on_end(void *arg, struct json_object *end, struct err *err) {
    struct diff_ask *a = arg;
    (void)end;
    over(a, a->failed ? &a->err : err);
}

void diff_ask(struct diff_ask *a, struct cell *c, struct json_object *op) {
    static const struct guest_channel_events events = {.on_reply = on_reply, .on_data = on_data, .on_end = on_end};
    a->cell = cell_hold(c);
    a->reply = NULL;
    a->failed = false;
    buf_clear(&a->bytes);
    c->transfers++; /* the cell is busy: an idle timeout waits */
    cell_touch(c);
    a->channel = cell_usable(c, &a->err) == 0 ? guest_channel_open(c->guest, op, &events, a, &a->err) : NULL;
    if (!a->channel) defer(c->world->defers, &a->later, refused);
    json_object_put(op);
}

void diff_ask_cancel(struct diff_ask *a) {
    if (!a->cell) return;
    if (a->channel) {
        guest_channel_close(a->channel);
        guest_channel_detach(a->channel);
    }
    defer_cancel(a->cell->world->defers, &a->later);
    json_object_put(a->reply);
    a->reply = NULL;
    forget(a);
}
