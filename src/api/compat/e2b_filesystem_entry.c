#include "api/compat/e2b_filesystem_entry.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/compat/e2b.h"
#include "api/json_text.h"
#include "base/buf.h"

/* One part of a path behind what is there: "." stays, ".." goes up. */
static void step(struct buf *out, const char *part, size_t n) {
    if (!n || (n == 1 && part[0] == '.')) return;
    if (n == 2 && part[0] == '.' && part[1] == '.') {
        while (out->len && out->data[out->len - 1] != '/') out->len--;
        if (out->len) out->len--;
        return;
    }
    buf_append(out, "/", 1);
    buf_append(out, part, n);
}

static void steps(struct buf *out, const char *path) {
    while (*path) {
        size_t n = strcspn(path, "/");
        step(out, path, n);
        path += n + (path[n] == '/');
    }
}

char *e2b_path(const char *user, const char *text, struct err *e) {
    struct buf out = {0};
    if (strlen(text) >= PATH_MAX) {
        err_set(e, ERR_INVALID, "the path is too long");
        return NULL;
    }
    buf_str(&out, "");
    if (text[0] == '~' && (!text[1] || text[1] == '/')) {
        steps(&out, strcmp(user, "root") == 0 ? "/root" : E2B_HOME);
        text++;
    } else if (text[0] != '/') {
        steps(&out, strcmp(user, "root") == 0 ? "/root" : E2B_HOME);
    }
    steps(&out, text);
    out.data[out.len] = 0; /* ".." shortens without writing */
    if (!out.len) buf_str(&out, "/");
    return out.data;
}

const char *e2b_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

void e2b_time(int64_t ms, char out[static 40]) {
    time_t seconds = ms / 1000 - (ms % 1000 < 0);
    int rest = (int)(ms - (int64_t)seconds * 1000);
    struct tm tm;
    char date[32];
    if (!gmtime_r(&seconds, &tm) || tm.tm_year < -1899 || tm.tm_year > 8099 ||
        !strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm))
        (void)snprintf(date, sizeof date, "1970-01-01T00:00:00");
    (void)snprintf(out, 40, "%s.%03dZ", date, rest);
}

static const char *text_or(struct json_object *o, const char *name, const char *fallback) {
    struct json_object *v = json_field(o, name);
    return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : fallback;
}

static void put_owner(struct json_object *out, const char *name, struct json_object *id) {
    char text[24];
    int64_t n = json_object_get_int64(id);
    (void)snprintf(text, sizeof text, "%ld", n);
    json_set_text(out, name, n == 0 ? "root" : n == 1000 ? "user" : text);
}

static const char *type_of(const char *guest) {
    if (strcmp(guest, "file") == 0) return "FILE_TYPE_FILE";
    if (strcmp(guest, "directory") == 0) return "FILE_TYPE_DIRECTORY";
    return strcmp(guest, "symlink") == 0 ? "FILE_TYPE_SYMLINK" : "FILE_TYPE_UNSPECIFIED";
}

static void put_permissions(struct json_object *out, const char *type, unsigned mode) {
    static const char bits[] = "rwxrwxrwx";
    char text[11];
    text[0] = !strcmp(type, "directory") ? 'd' : !strcmp(type, "symlink") ? 'L' : !strcmp(type, "file") ? '-' : '?';
    for (int i = 0; i < 9; i++) text[1 + i] = mode >> (8 - i) & 1 ? bits[i] : '-';
    text[10] = 0;
    json_set_text(out, "permissions", text);
}

struct json_object *e2b_entry(struct json_object *guest, struct json_object *target) {
    struct json_object *out = json_object_new_object();
    char text[40];
    const char *type = text_or(guest, "type", "other"), *path = text_or(guest, "path", "");
    unsigned mode = (unsigned)json_object_get_int64(json_field(guest, "mode")) & 0777;
    json_set_text(out, "name", text_or(guest, "name", e2b_path_name(path)));
    json_set_text(out, "type", type_of(target ? text_or(target, "type", "other") : type));
    json_set_text(out, "path", path);
    (void)snprintf(text, sizeof text, "%ld", json_object_get_int64(json_field(guest, "size")));
    json_set_text(out, "size", text); /* 64 bits are text in this JSON */
    json_set_int(out, "mode", target ? json_object_get_int64(json_field(target, "mode")) & 0777 : mode);
    put_permissions(out, type, mode);
    put_owner(out, "owner", json_field(guest, "uid"));
    put_owner(out, "group", json_field(guest, "gid"));
    e2b_time(json_object_get_int64(json_field(guest, "mtime_ms")), text);
    json_set_text(out, "modifiedTime", text);
    const char *points = text_or(target, "path", text_or(guest, "target", NULL));
    if (strcmp(type, "symlink") == 0 && points) json_set_text(out, "symlinkTarget", points);
    return out;
}
