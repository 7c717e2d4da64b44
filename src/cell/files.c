#include "cell/files.h"

#include <stdlib.h>
#include <string.h>

#include "cell/domain.h"
#include "cell/text.h"

#define LIST_ENTRIES_MAX 100000
#define LIST_BYTES_MAX (32u << 20)
#define LINE_MAX_BYTES 65536 /* one entry: name, path and target of 4096 bytes, each byte at most six of JSON */

static bool one_of(const char *word, const char *const *list) {
    for (; *list; list++)
        if (word && strcmp(word, *list) == 0) return true;
    return false;
}

/* ---- small operations ---- */

struct call {
    struct cell *cell;
    struct guest_channel *channel;
    cell_json_cb cb;
    void *arg;
    struct json_object *reply, *entries;
    char *path;
    struct buf line;
    size_t bytes;
    bool failed;
    struct err err;
    struct deferred later;
};

static void call_done(struct call *x, struct err *err, struct json_object *o) {
    if (!x->cell->world->closing) x->cb(x->arg, err, err ? NULL : o);
    json_object_put(x->reply);
    json_object_put(x->entries);
    buf_free(&x->line);
    free(x->path);
    cell_release(x->cell);
    free(x);
}

static void call_refused(struct deferred *d) {
    struct call *x = container_of(d, struct call, later);
    call_done(x, &x->err, NULL);
}

static void call_fail(struct call *x, const char *code, const char *text) {
    if (x->failed) return;
    x->failed = true;
    err_set(&x->err, code, "%s", text);
    guest_channel_close(x->channel);
}

static void on_reply(void *arg, struct json_object *reply) {
    struct call *x = arg;
    json_object_put(x->reply);
    x->reply = json_object_get(reply);
}

static void on_line(struct call *x, const char *line, size_t n) {
    struct json_object *entry = text_parse_object(line, n, 64);
    if (!entry)
        call_fail(x, ERR_LOST, "the sandbox answered with something that is not an entry");
    else if (json_object_array_length(x->entries) >= LIST_ENTRIES_MAX) {
        json_object_put(entry);
        call_fail(x, ERR_TOO_LARGE, "the directory holds more than 100000 entries: list its parts");
    } else
        json_object_array_add(x->entries, entry);
}

static void on_lines(void *arg, bool is_err, const void *bytes, size_t n) {
    (void)is_err;
    struct call *x = arg;
    const char *p = bytes, *end = p + n, *newline;
    x->bytes += n;
    if (x->bytes > LIST_BYTES_MAX) call_fail(x, ERR_TOO_LARGE, "the list is longer than 32 MiB: list its parts");
    while (!x->failed && (newline = memchr(p, '\n', (size_t)(end - p)))) {
        if (x->line.len) {
            buf_append(&x->line, p, (size_t)(newline - p));
            on_line(x, x->line.data, x->line.len);
            buf_clear(&x->line);
        } else
            on_line(x, p, (size_t)(newline - p));
        p = newline + 1;
    }
    if (!x->failed) buf_append(&x->line, p, (size_t)(end - p));
    if (x->line.len > LINE_MAX_BYTES) call_fail(x, ERR_LOST, "the sandbox answered with an entry that is too long");
    guest_channel_consumed(x->channel, n);
}

static void on_call_end(void *arg, struct json_object *end, struct err *err) {
    struct call *x = arg;
    if (x->failed) err = &x->err;
    if (x->entries && !err) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "path", json_object_new_string(x->path));
        json_object_object_add(o, "entries", json_object_get(x->entries));
        call_done(x, NULL, o);
        json_object_put(o);
    } else
        call_done(x, err, x->reply ? x->reply : end);
}

void files_call(struct cell *c, struct json_object *op, cell_json_cb cb, void *arg) {
    static const char *const ops[] = {"list", "stat", "mkdir", "move", "remove", "disk", "ports", "processes", NULL};
    static const struct guest_channel_events events = {
        .on_reply = on_reply, .on_data = on_lines, .on_end = on_call_end};
    static const struct guest_channel_events no_lines = {.on_reply = on_reply, .on_end = on_call_end};
    const char *word = text_field(op, "op"), *path = text_field(op, "path");
    struct call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct call){.cell = cell_hold(c), .cb = cb, .arg = arg};
    bool list = word && strcmp(word, "list") == 0;
    if (list) x->entries = json_object_new_array();
    if (!(x->path = strdup(path ? path : ""))) abort();
    cell_touch(c);
    int refused = cell_usable(c, &x->err);
    if (refused == 0 && !one_of(word, ops)) refused = err_set(&x->err, ERR_INVALID, "unknown operation on files");
    if (refused == 0) x->channel = guest_channel_open(c->guest, op, list ? &events : &no_lines, x, &x->err);
    if (!x->channel) defer(c->world->defers, &x->later, call_refused);
}

/* ---- transfers ---- */

struct transfer {
    struct cell *cell;
    struct guest_channel *channel;
    transfer_cb cb;
    void *arg;
};

static void transfer_free(struct transfer *t) {
    t->cell->transfers--;
    cell_touch(t->cell);
    cell_release(t->cell);
    free(t);
}

static void on_open(void *arg, struct json_object *reply) {
    struct transfer *t = arg;
    t->cb(t->arg, t, TRANSFER_OPEN, reply, NULL, 0, NULL);
}
static void on_data(void *arg, bool is_err, const void *bytes, size_t n) {
    (void)is_err;
    struct transfer *t = arg;
    t->cb(t->arg, t, TRANSFER_DATA, NULL, bytes, n, NULL);
}
static void on_room(void *arg) {
    struct transfer *t = arg;
    t->cb(t->arg, t, TRANSFER_DRAINED, NULL, NULL, 0, NULL);
}
static void on_transfer_end(void *arg, struct json_object *end, struct err *err) {
    struct transfer *t = arg;
    t->channel = NULL;
    if (!t->cell->world->closing) t->cb(t->arg, t, TRANSFER_END, end, NULL, 0, err);
    transfer_free(t);
}

struct transfer *transfer_start(struct cell *c, struct json_object *op, transfer_cb cb, void *arg, struct err *err) {
    static const char *const ops[] = {"read", "write", "tar_get", "tar_put", "watch", NULL};
    static const struct guest_channel_events events = {on_open, on_data, on_room, on_transfer_end};
    if (cell_usable(c, err) < 0) return NULL;
    if (!one_of(text_field(op, "op"), ops)) {
        err_set(err, ERR_INVALID, "unknown transfer");
        return NULL;
    }
    struct transfer *t = calloc(1, sizeof *t);
    if (!t) abort();
    *t = (struct transfer){.cell = c, .cb = cb, .arg = arg};
    t->channel = guest_channel_open(c->guest, op, &events, t, err);
    if (!t->channel) {
        free(t);
        return NULL;
    }
    cell_hold(c);
    cell_touch(c);
    c->transfers++;
    c->world->counters.transfers++;
    return t;
}

size_t transfer_write(struct transfer *t, const void *bytes, size_t n) {
    return t->channel ? guest_channel_write(t->channel, bytes, n) : 0;
}
void transfer_finish(struct transfer *t) {
    if (t->channel) guest_channel_eof(t->channel);
}
void transfer_consumed(struct transfer *t, size_t n) {
    cell_touch(t->cell);
    if (t->channel) guest_channel_consumed(t->channel, n);
}
void transfer_cancel(struct transfer *t) {
    if (!t->channel) return; /* inside its END callback: freed right after it */
    guest_channel_close(t->channel);
    guest_channel_detach(t->channel);
    transfer_free(t);
}
