#include "cell/template.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cell/domain.h"
#include "cell/manifest.h"
#include "cell/text.h"

#define MANIFEST_MAX (4u << 20)

static int not_found(struct err *err, const char *name) {
    return err_hint(err, ERR_NOT_FOUND,
                    "GET /v1/templates (or: cella template ls) lists what is there; cella template build makes one.",
                    "no template is called \"%.64s\"", name);
}

/* The name's symlink: "../<64 hex>". */
static int read_link(const char *path, char out[TEMPLATE_ID_HEX + 1]) {
    char target[TEMPLATE_ID_HEX + 8];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n != TEMPLATE_ID_HEX + 3 || memcmp(target, "../", 3) != 0) return -1;
    target[n] = 0;
    if (!hex_valid(target + 3, TEMPLATE_ID_HEX)) return -1;
    memcpy(out, target + 3, TEMPLATE_ID_HEX + 1);
    return 0;
}

int template_resolve(struct world *w, const char *name, char out[TEMPLATE_ID_HEX + 1], struct err *err) {
    char path[4200];
    if (!name || !*name) name = "default";
    if (hex_valid(name, TEMPLATE_ID_HEX)) {
        (void)snprintf(path, sizeof path, "%.4000s/templates/%s/manifest.json", w->state_dir, name);
        if (access(path, R_OK) < 0) return not_found(err, name);
        memcpy(out, name, TEMPLATE_ID_HEX + 1);
        return 0;
    }
    if (!template_name_valid(name)) return not_found(err, name);
    (void)snprintf(path, sizeof path, "%.4000s/templates/names/%s", w->state_dir, name);
    return read_link(path, out) < 0 ? not_found(err, name) : 0;
}

/* ---- manifests ---- */

static struct json_object *manifest_read(struct world *w, const char *id, struct err *err) {
    char path[4200];
    (void)snprintf(path, sizeof path, "%.4000s/templates/%s/manifest.json", w->state_dir, id);
    cleanup_file FILE *f = fopen(path, "re");
    if (!f) {
        err_sys(err, errno, "the manifest of template %.12s", id);
        return NULL;
    }
    struct buf text = {0};
    char chunk[16384];
    for (size_t n; text.len <= MANIFEST_MAX && (n = fread(chunk, 1, sizeof chunk, f)) > 0;) buf_append(&text, chunk, n);
    struct json_object *o = text.len && text.len <= MANIFEST_MAX ? manifest_parse(text.data, text.len, id) : NULL;
    buf_free(&text);
    if (!o) err_hint(err, ERR_INTERNAL, "Build the template again.", "the manifest of template %.12s is damaged", id);
    return o;
}

static struct json_object *summary(struct world *w, const char *id, const char *default_id) {
    struct err err;
    struct json_object *m = manifest_read(w, id, &err), *v;
    if (!m) return NULL;
    static const char *const keys[] = {"id", "name", "aliases", "created_at", "size_bytes", "languages"};
    struct json_object *o = json_object_new_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_object_add(o, keys[i], json_object_object_get_ex(m, keys[i], &v) ? json_object_get(v) : NULL);
    json_object_object_add(o, "default", json_object_new_boolean(strcmp(id, default_id) == 0));
    bool has = json_object_object_get_ex(m, "packages", &v);
    json_object_object_add(o, "packages_count", json_object_new_int64(has ? (int64_t)json_object_array_length(v) : 0));
    json_object_put(m);
    return o;
}

struct json_object *template_list(struct world *w) {
    struct json_object *list = json_object_new_array();
    char path[4200], default_id[TEMPLATE_ID_HEX + 1] = "";
    struct err err;
    (void)template_resolve(w, NULL, default_id, &err);
    (void)snprintf(path, sizeof path, "%.4000s/templates", w->state_dir);
    cleanup_dir DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!hex_valid(e->d_name, TEMPLATE_ID_HEX)) continue;
        struct json_object *one = summary(w, e->d_name, default_id);
        if (one) json_object_array_add(list, one);
    }
    return list;
}

struct json_object *template_get(struct world *w, const char *name, struct err *err) {
    char id[TEMPLATE_ID_HEX + 1];
    return template_resolve(w, name, id, err) < 0 ? NULL : manifest_read(w, id, err);
}

static uint64_t positive(struct json_object *o, const char *key, double scale, uint64_t otherwise) {
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v)) return otherwise;
    double d = json_object_get_double(v) * scale;
    return d >= 1 && d < 1e18 ? (uint64_t)d : otherwise;
}

void template_limits(struct world *w, const char *id, struct cell_limits *limits) {
    static char cached_id[TEMPLATE_ID_HEX + 1];
    static struct json_object *cached; /* the "limits" of that template; loop thread only */
    struct err err;
    if (strcmp(cached_id, id) != 0) {
        struct json_object *m = manifest_read(w, id, &err), *v = NULL;
        if (m) json_object_object_get_ex(m, "limits", &v);
        json_object_put(cached);
        cached = json_object_get(v);
        json_object_put(m);
        memcpy(cached_id, id, sizeof cached_id);
    }
    if (!cached) return;
    limits->memory_bytes = positive(cached, "memory_mb", 1024.0 * 1024, limits->memory_bytes);
    limits->disk_bytes = positive(cached, "disk_mb", 1024.0 * 1024, limits->disk_bytes);
    limits->cpu_millis = (uint32_t)positive(cached, "cpus", 1000, limits->cpu_millis);
    limits->pids_max = (uint32_t)positive(cached, "pids", 1, limits->pids_max);
    limits->open_files = (uint32_t)positive(cached, "open_files", 1, limits->open_files);
}
