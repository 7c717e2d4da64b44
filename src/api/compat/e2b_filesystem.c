/* filesystem.Filesystem: questions about a sandbox's files, one answer each. */
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_filesystem_entry.h"
#include "api/compat/e2b_rpc.h"
#include "api/handlers.h"
#include "cell/files.h"

#define LINKS_MAX 16 /* symlinks that are followed one after the other before the entry is told as a symlink */

/* What is asked of the guest after the first answer: the entry of `path`, and where it leads when it is a symlink. */
struct look {
    struct request *rq;
    const char *user;
    char *path;
    struct json_object *entry; /* once it is there */
    unsigned links;
};

static struct json_object *operation(const char *op, const char *user, const char *path) {
    struct json_object *o = json_object_new_object();
    json_set_text(o, "op", op);
    json_set_text(o, "user", user);
    if (path) json_set_text(o, "path", path);
    return o;
}

static void ask(struct request *rq, struct json_object *taken, cell_json_cb cb, void *arg) {
    files_call(rq->cell, taken, cb, arg);
    json_object_put(taken);
}

static struct look *look_new(struct request *rq, const char *user, char *taken_path) {
    struct look *l = calloc(1, sizeof *l);
    if (!l) abort();
    *l = (struct look){.rq = request_hold(rq), .user = user, .path = taken_path};
    return l;
}

static void look_free(struct look *l) {
    json_object_put(l->entry);
    request_release(l->rq);
    free(l->path);
    free(l);
}

static void look_fail(struct look *l, const struct err *e) {
    reply_err(l->rq, e);
    look_free(l);
}

static void look_done(struct look *l, struct json_object *target) {
    struct json_object *out = json_object_new_object();
    json_set(out, "entry", e2b_entry(l->entry, target));
    rpc_answer(l->rq, out);
    look_free(l);
}

static void on_target(void *arg, struct err *e, struct json_object *json);

/* Where the symlink of this entry leads: relative to its own directory. NULL: nowhere that text says. */
static char *target_of(struct look *l, struct json_object *link) {
    struct err e;
    const char *target = json_object_get_string(json_field(link, "target")), *path = json_object_get_string(json_field(link, "path"));
    struct buf whole = {0};
    if (!target || !*target || !path) return NULL;
    if (target[0] != '/') {
        buf_append(&whole, path, (size_t)(e2b_path_name(path) - path));
        buf_str(&whole, "/");
    }
    buf_str(&whole, target);
    char *clean = e2b_path(l->user, whole.data, &e);
    buf_free(&whole);
    return clean;
}

static bool is_link(struct json_object *entry) {
    const char *type = json_object_get_string(json_field(entry, "type"));
    return type && strcmp(type, "symlink") == 0;
}

static void follow(struct look *l, struct json_object *link) {
    char *path = l->links++ < LINKS_MAX ? target_of(l, link) : NULL;
    if (!path) {
        look_done(l, NULL);
        return;
    }
    ask(l->rq, operation("stat", l->user, path), on_target, l);
    free(path);
}

static void on_target(void *arg, struct err *e, struct json_object *json) {
    struct look *l = arg;
    if (e)
        look_done(l, NULL); /* it leads to nothing: a symlink is what it is */
    else if (is_link(json))
        follow(l, json);
    else
        look_done(l, json);
}

static void on_entry(void *arg, struct err *e, struct json_object *json) {
    struct look *l = arg;
    if (e) {
        look_fail(l, e);
        return;
    }
    l->entry = json_object_get(json);
    if (is_link(json))
        follow(l, json);
    else
        look_done(l, NULL);
}

static void look(struct look *l) { ask(l->rq, operation("stat", l->user, l->path), on_entry, l); }

/* The field as a path, and who asks: NULL after a reply. */
static char *path_field(struct request *rq, struct json_object *message, const char *name, const char **user) {
    struct err e;
    const char *text;
    char *path = NULL;
    if (!(*user = e2b_user(rq))) return NULL;
    if (rpc_text(message, name, &text, &e) == 0) path = e2b_path(*user, text, &e);
    if (!path) reply_err(rq, &e);
    return path;
}

/* ---- Stat ---- */

static void stat_(struct request *rq, struct json_object *message) {
    const char *user;
    char *path = path_field(rq, message, "path", &user);
    if (path) look(look_new(rq, user, path));
}
void e2b_fs_stat(struct request *rq) { rpc_unary(rq, stat_); }

/* ---- MakeDir ---- */

static void on_made(void *arg, struct err *e, struct json_object *json) {
    struct look *l = arg;
    struct err there;
    if (e) {
        look_fail(l, e);
    } else if (!json_object_get_boolean(json_field(json, "created"))) {
        err_set(&there, ERR_EXISTS, "the directory %.200s is there already", l->path);
        look_fail(l, &there);
    } else {
        look(l);
    }
}

static void make_dir(struct request *rq, struct json_object *message) {
    const char *user;
    char *path = path_field(rq, message, "path", &user);
    if (!path) return;
    struct json_object *op = operation("mkdir", user, path);
    json_set_flag(op, "parents", true);
    ask(rq, op, on_made, look_new(rq, user, path));
}
void e2b_fs_make_dir(struct request *rq) { rpc_unary(rq, make_dir); }

/* ---- Move ---- */

static void on_moved(void *arg, struct err *e, struct json_object *json) {
    (void)json;
    if (e)
        look_fail(arg, e);
    else
        look(arg);
}

static void move(struct request *rq, struct json_object *message) {
    const char *user;
    char *from = path_field(rq, message, "source", &user), *to = from ? path_field(rq, message, "destination", &user) : NULL;
    if (to) {
        struct json_object *op = operation("move", user, NULL);
        json_set_text(op, "from", from);
        json_set_text(op, "to", to);
        json_set_flag(op, "overwrite", true); /* as rename(2) does */
        json_set_flag(op, "parents", true);
        ask(rq, op, on_moved, look_new(rq, user, to));
    }
    free(from);
}
void e2b_fs_move(struct request *rq) { rpc_unary(rq, move); }

/* ---- Remove ---- */

static void on_removed(void *arg, struct err *e, struct json_object *json) {
    struct look *l = arg;
    (void)json;
    if (e && strcmp(e->code, ERR_NOT_FOUND) != 0) { /* what is not there is gone */
        look_fail(l, e);
        return;
    }
    rpc_answer(l->rq, json_object_new_object());
    look_free(l);
}

static void remove_(struct request *rq, struct json_object *message) {
    const char *user;
    char *path = path_field(rq, message, "path", &user);
    if (!path) return;
    struct json_object *op = operation("remove", user, path);
    json_set_flag(op, "recursive", true);
    ask(rq, op, on_removed, look_new(rq, user, path));
}
void e2b_fs_remove(struct request *rq) { rpc_unary(rq, remove_); }

/* ---- ListDir ---- */

static void on_list(void *arg, struct err *e, struct json_object *json) {
    struct look *l = arg;
    if (e) {
        look_fail(l, e);
        return;
    }
    struct json_object *out = json_object_new_object(), *entries = json_object_new_array(), *list = json_field(json, "entries");
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n; i++) json_object_array_add(entries, e2b_entry(json_object_array_get_idx(list, i), NULL));
    json_set(out, "entries", entries);
    rpc_answer(l->rq, out);
    look_free(l);
}

static void list_dir(struct request *rq, struct json_object *message) {
    struct err e;
    const char *user;
    long long depth = 0;
    if (json_get_int(message, "depth", 0, 1024, &depth, &e) < 0) {
        reply_err(rq, &e);
        return;
    }
    char *path = path_field(rq, message, "path", &user);
    if (!path) return;
    struct json_object *op = operation("list", user, path);
    json_set_int(op, "depth", depth ? depth : 1);
    ask(rq, op, on_list, look_new(rq, user, path));
}
void e2b_fs_list_dir(struct request *rq) { rpc_unary(rq, list_dir); }
