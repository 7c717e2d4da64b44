#include "api/compat/e2b_filesystem_events.h"

#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b_filesystem_entry.h"
#include "api/compat/e2b_rpc.h"
#include "api/json_text.h"
#include "base/buf.h"
#include "cell/files.h"

#define LINE_LIMIT (64u * 1024)
#define WAITING_MAX 256 /* events that wait for their entries before the watch is held */

struct waiting {
    struct waiting *next;
    struct json_object *event;
    char *path;
};

struct fs_events {
    struct fs_events_to to;
    struct cell *cell; /* held */
    const char *user;
    char *root;
    bool entries, asking, closed, over;
    struct transfer *transfer;
    struct buf line;
    size_t owed; /* bytes whose credit the guest has not back */
    struct waiting *first, **last;
    size_t count;
    struct err why; /* when over */
};

static void release(struct fs_events *f) {
    while (f->first) {
        struct waiting *w = f->first;
        f->first = w->next;
        json_object_put(w->event);
        free(w->path);
        free(w);
    }
    buf_free(&f->line);
    cell_release(f->cell);
    free(f->root);
    free(f);
}

static void give_back(struct fs_events *f) {
    if (!f->transfer || f->count > WAITING_MAX || f->to.full(f->to.arg)) return;
    transfer_consumed(f->transfer, f->owed);
    f->owed = 0;
}

/* The first event is ready. */
static void hand_on(struct fs_events *f) {
    struct waiting *w = f->first;
    f->first = w->next;
    if (!f->first) f->last = &f->first;
    f->count--;
    f->to.event(f->to.arg, w->event);
    json_object_put(w->event);
    free(w->path);
    free(w);
}

static void advance(struct fs_events *f);

static void on_entry(void *arg, struct err *e, struct json_object *json) {
    struct fs_events *f = arg;
    f->asking = false;
    if (f->closed) {
        release(f);
        return;
    }
    if (!e) json_set(f->first->event, "entry", e2b_entry(json, NULL));
    hand_on(f);
    advance(f);
}

static bool wants_entry(struct fs_events *f, const struct waiting *w) {
    const char *type = json_object_get_string(json_field(w->event, "type"));
    return f->entries && strcmp(type, "EVENT_TYPE_REMOVE") != 0 && strcmp(type, "EVENT_TYPE_RENAME") != 0;
}

static void ask_entry(struct fs_events *f) {
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "stat");
    json_set_text(op, "user", f->user);
    json_set_text(op, "path", f->first->path);
    f->asking = true;
    files_call(f->cell, op, on_entry, f);
    json_object_put(op);
}

static void finish(struct fs_events *f) {
    struct fs_events_to to = f->to;
    struct err why = f->why;
    release(f);
    to.end(to.arg, &why);
}

/* Hand on what is ready; at the end of everything say so. */
static void advance(struct fs_events *f) {
    while (f->first && !f->asking) {
        if (wants_entry(f, f->first))
            ask_entry(f);
        else
            hand_on(f);
    }
    if (f->over && !f->first)
        finish(f);
    else
        give_back(f);
}

/* ---- what the guest says ---- */

static const char *type_of(const char *guest) {
    static const char *const words[][2] = {{"create", "EVENT_TYPE_CREATE"}, {"write", "EVENT_TYPE_WRITE"}, {"remove", "EVENT_TYPE_REMOVE"},
                                           {"rename", "EVENT_TYPE_RENAME"}, {"chmod", "EVENT_TYPE_CHMOD"}};
    for (size_t i = 0; guest && i < sizeof words / sizeof *words; i++)
        if (strcmp(guest, words[i][0]) == 0) return words[i][1];
    return NULL;
}

/* Below the directory that is watched: by its path there. */
static const char *name_of(const struct fs_events *f, const char *path) {
    size_t n = strlen(f->root);
    if (strcmp(f->root, "/") == 0) n = 0;
    if (strncmp(path, f->root, n) == 0 && path[n] == '/') return path + n + 1;
    return e2b_path_name(path);
}

static void stop(struct fs_events *f, const struct err *why) {
    f->over = true;
    f->why = *why;
    if (f->transfer) transfer_cancel(f->transfer);
    f->transfer = NULL;
}

static void put_event(struct fs_events *f, struct json_object *event) {
    const char *word = json_object_get_string(json_field(event, "type")), *path = json_object_get_string(json_field(event, "path"));
    const char *type = type_of(word);
    struct err e;
    if (!type && word && strcmp(word, "overflow") == 0) {
        err_set(&e, ERR_LIMIT, "so much changed that events were lost: look at the directory again and watch anew");
        stop(f, &e);
    }
    if (!type || !path) return;
    struct waiting *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) abort();
    w->event = json_object_new_object();
    json_set_text(w->event, "name", name_of(f, path));
    json_set_text(w->event, "type", type);
    *f->last = w;
    f->last = &w->next;
    f->count++;
}

/* A line comes from inside a cell: it is parsed, not trusted. */
static void put_line(struct fs_events *f) {
    struct json_object *event = NULL;
    struct err e;
    if (json_parse_object(f->line.data, f->line.len, &event, &e) == 0 && event) put_event(f, event);
    json_object_put(event);
    buf_clear(&f->line);
}

static void put_bytes(struct fs_events *f, const char *bytes, size_t n) {
    f->owed += n;
    while (n && !f->over) {
        const char *newline = memchr(bytes, '\n', n);
        size_t take = newline ? (size_t)(newline - bytes) : n;
        if (f->line.len + take <= LINE_LIMIT) buf_append(&f->line, bytes, take);
        if (newline && f->line.len) put_line(f);
        take += newline != NULL;
        bytes += take;
        n -= take;
    }
}

static void on_watch(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json, const void *bytes, size_t n,
                     struct err *e) {
    struct fs_events *f = arg;
    struct err ended;
    (void)t, (void)json;
    if (event == TRANSFER_OPEN) f->to.start(f->to.arg);
    if (event == TRANSFER_DATA) put_bytes(f, bytes, n);
    if (event == TRANSFER_END) {
        f->transfer = NULL;
        if (!e) err_set(&ended, ERR_GONE, "the watch ended");
        stop(f, e ? e : &ended);
    }
    if (event == TRANSFER_DATA || event == TRANSFER_END) advance(f);
}

struct fs_events *fs_events_open(struct cell *cell, const char *user, struct json_object *message, const struct fs_events_to *to, struct err *e) {
    const char *path;
    bool recursive = false, entries = false;
    if (rpc_text(message, "path", &path, e) < 0 || json_get_flag(message, "recursive", &recursive, e) < 0 ||
        json_get_flag(message, "includeEntry", &entries, e) < 0)
        return NULL;
    char *root = e2b_path(user, path, e);
    if (!root) return NULL;
    struct fs_events *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct fs_events){.to = *to, .cell = cell_hold(cell), .user = user, .root = root, .entries = entries, .last = &f->first};
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "watch");
    json_set_text(op, "user", user);
    json_set_text(op, "path", root);
    json_set_flag(op, "recursive", recursive);
    f->transfer = transfer_start(cell, op, on_watch, f, e);
    json_object_put(op);
    if (f->transfer) return f;
    release(f);
    return NULL;
}

void fs_events_more(struct fs_events *f) { give_back(f); }

void fs_events_close(struct fs_events *f) {
    if (f->transfer) transfer_cancel(f->transfer);
    f->transfer = NULL;
    f->closed = true;
    if (!f->asking) release(f); /* else the answer does */
}
