/* Files of containers: what lies below /workspace, named by its path. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/compat/containers.h"
#include "api/handlers.h"
#include "cell/files.h"

#define HOME_SLASH CONTAINER_HOME "/"
#define DEPTH 64 /* as deep as a listing goes */
#define PATH_MAX_BYTES 2900 /* twice as many digits still fit into a URL (guard.h: URL_MAX) */

/* ---- ids ---- */

static void put_file_id(struct buf *out, const char *below_home) {
    buf_str(out, "cfile_");
    for (; *below_home; below_home++) buf_printf(out, "%02x", (unsigned char)*below_home);
}

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

/* No part of a path may lead out of it: the id is a client's text. */
static bool is_plain(const char *path) {
    for (size_t n; *path; path += n + (path[n] == '/')) {
        n = strcspn(path, "/");
        if (!n || (n == 1 && path[0] == '.') || (n == 2 && path[0] == '.' && path[1] == '.') || (path[n] == '/' && !path[n + 1])) return false;
    }
    return true;
}

/* The absolute path of an id, or NULL. free(). */
static char *path_of(const char *id) {
    struct buf b = {0};
    size_t n = strncmp(id, "cfile_", 6) == 0 ? strlen(id + 6) : 0;
    if (!n || n % 2 || n > 2 * PATH_MAX_BYTES) return NULL;
    buf_str(&b, HOME_SLASH);
    for (const char *p = id + 6; *p; p += 2) {
        int high = digit(p[0]), low = digit(p[1]);
        char c = (char)(high << 4 | low);
        if (high < 0 || low < 0 || !c) break;
        buf_append(&b, &c, 1);
    }
    size_t path = b.len - strlen(HOME_SLASH);
    if (path == n / 2 && utf8_valid(b.data, b.len) && is_plain(b.data + strlen(HOME_SLASH))) return b.data;
    buf_free(&b);
    return NULL;
}

/* ---- who made it ---- */

#define CAME_MAX 4096
static uint64_t came[CAME_MAX]; /* loop thread */
static size_t came_next;

/* FNV-1a of everything that would change with the file. */
static uint64_t mark(const struct cell *c, struct json_object *entry) {
    char text[5000];
    uint64_t sum = 0xcbf29ce484222325u;
    (void)snprintf(text, sizeof text, "%s %lld %lld %s", cell_id(c), (long long)json_object_get_int64(json_field(entry, "mtime_ms")),
                   (long long)json_object_get_int64(json_field(entry, "size")), json_object_get_string(json_field(entry, "path")));
    for (const char *p = text; *p; p++) sum = (sum ^ (unsigned char)*p) * 0x100000001b3u;
    return sum ? sum : 1;
}

static bool has_come(const struct cell *c, struct json_object *entry) {
    uint64_t wanted = mark(c, entry);
    for (size_t i = 0; i < CAME_MAX; i++)
        if (came[i] == wanted) return true;
    return false;
}

void container_file_came(const struct cell *c, struct json_object *entry) {
    if (has_come(c, entry)) return;
    came[came_next] = mark(c, entry);
    came_next = (came_next + 1) % CAME_MAX;
}

struct json_object *container_file_json(const struct cell *c, struct json_object *entry) {
    const char *path = json_object_get_string(json_field(entry, "path")), *type = json_object_get_string(json_field(entry, "type"));
    char container[CONTAINER_ID_SIZE];
    struct buf id = {0};
    if (!path || !type || strcmp(type, "file") != 0 || strncmp(path, HOME_SLASH, strlen(HOME_SLASH)) != 0) return NULL;
    struct json_object *out = json_object_new_object();
    put_file_id(&id, path + strlen(HOME_SLASH));
    container_id(c, container);
    json_set_text(out, "id", id.data);
    json_set_text(out, "object", "container.file");
    json_set_text(out, "container_id", container);
    json_set_text(out, "path", path);
    json_set_int(out, "bytes", json_object_get_int64(json_field(entry, "size")));
    json_set_int(out, "created_at", json_object_get_int64(json_field(entry, "mtime_ms")) / 1000);
    json_set_text(out, "source", has_come(c, entry) ? "user" : "assistant");
    buf_free(&id);
    return out;
}

/* ---- handlers ---- */

static void no_such_file(struct request *rq) {
    struct err e;
    err_hint(&e, ERR_NOT_FOUND, "GET /v1/containers/{id}/files lists the ones there are", "there is no such container file");
    reply_err(rq, &e);
}

static void listed(void *arg, struct err *e, struct json_object *listing) {
    struct request *rq = arg;
    struct err problem;
    if (e) {
        reply_err(rq, e);
        request_release(rq);
        return;
    }
    struct json_object *entries = json_field(listing, "entries"), *files = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(entries); i++) {
        struct json_object *file = container_file_json(rq->cell, json_object_array_get_idx(entries, i));
        if (file) json_object_array_add(files, file);
    }
    struct json_object *page = container_page(rq, files, &problem);
    if (page)
        reply_json(rq, 200, page);
    else
        reply_err(rq, &problem);
    request_release(rq);
}

void container_file_list(struct request *rq) {
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "list");
    json_set_text(op, "path", CONTAINER_HOME);
    json_set_int(op, "depth", DEPTH);
    files_call(rq->cell, op, listed, request_hold(rq));
    json_object_put(op);
}

/* {"op", "path"} for the file that {fid} names; NULL after a reply. */
static struct json_object *operation(struct request *rq, const char *op) {
    char *path = path_of(request_param(rq, 1));
    if (!path) {
        no_such_file(rq);
        return NULL;
    }
    struct json_object *out = json_object_new_object();
    json_set_text(out, "op", op);
    json_set_text(out, "path", path);
    free(path);
    return out;
}

/* Every call begins with a look: only regular files are container files. */
static void look(struct request *rq, cell_json_cb then) {
    struct json_object *op = operation(rq, "stat");
    if (!op) return;
    files_call(rq->cell, op, then, request_hold(rq));
    json_object_put(op);
}

/* The file as JSON; NULL after a reply. */
static struct json_object *seen(struct request *rq, struct err *e, struct json_object *entry) {
    struct json_object *file = e ? NULL : container_file_json(rq->cell, entry);
    if (e && strcmp(e->code, ERR_NOT_FOUND) != 0 && strcmp(e->code, ERR_NOT_DIRECTORY) != 0)
        reply_err(rq, e);
    else if (!file)
        no_such_file(rq);
    return file;
}

static void described(void *arg, struct err *e, struct json_object *entry) {
    struct request *rq = arg;
    struct json_object *file = seen(rq, e, entry);
    if (file) reply_json(rq, 200, file);
    request_release(rq);
}

void container_file_get(struct request *rq) { look(rq, described); }

static void removed(void *arg, struct err *e, struct json_object *json) {
    struct request *rq = arg;
    (void)json;
    if (e) {
        reply_err(rq, e);
    } else {
        struct json_object *out = json_object_new_object();
        json_set_text(out, "id", request_param(rq, 1));
        json_set_text(out, "object", "container.file.deleted");
        json_set_flag(out, "deleted", true);
        reply_json(rq, 200, out);
    }
    request_release(rq);
}

static void remove_it(void *arg, struct err *e, struct json_object *entry) {
    struct request *rq = arg;
    struct json_object *file = seen(rq, e, entry), *op = file ? operation(rq, "remove") : NULL;
    if (op) files_call(rq->cell, op, removed, request_hold(rq));
    json_object_put(op);
    json_object_put(file);
    request_release(rq);
}

void container_file_delete(struct request *rq) { look(rq, remove_it); }

static void send_it(void *arg, struct err *e, struct json_object *entry) {
    struct request *rq = arg;
    struct json_object *file = seen(rq, e, entry), *op = file ? operation(rq, "read") : NULL;
    if (op && rq->conn) answer_download(rq, op, false, "application/octet-stream");
    else json_object_put(op);
    json_object_put(file);
    request_release(rq);
}

void container_file_content(struct request *rq) { look(rq, send_it); }
