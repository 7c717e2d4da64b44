#include "api/files_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/json_text.h"

static void mode_text(char out[static 11], const char *type, unsigned mode) {
    static const char bits[] = "rwxrwxrwx";
    out[0] = !strcmp(type, "directory") ? 'd' : !strcmp(type, "symlink") ? 'l' : !strcmp(type, "file") ? '-' : '?';
    for (int i = 0; i < 9; i++) out[1 + i] = mode >> (8 - i) & 1 ? bits[i] : '-';
    out[10] = 0;
}

struct json_object *files_entry(struct json_object *guest) {
    struct json_object *out = NULL;
    char text[64];
    if (!json_object_is_type(guest, json_type_object) || json_object_deep_copy(guest, &out, NULL) < 0)
        return json_object_new_object();
    const char *type = json_object_get_string(json_field(guest, "type"));
    unsigned mode = (unsigned)json_object_get_int64(json_field(guest, "mode")) & 07777;
    int64_t mtime_ms = json_object_get_int64(json_field(guest, "mtime_ms"));
    time_t seconds = mtime_ms / 1000;
    struct tm tm;
    if (!type) type = "other";
    json_set_flag(out, "is_dir", strcmp(type, "directory") == 0);
    mode_text(text, type, mode);
    json_set_text(out, "mode", text);
    (void)snprintf(text, sizeof text, "%04o", mode);
    json_set_text(out, "permissions", text);
    if (gmtime_r(&seconds, &tm) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        json_set_text(out, "mtime", text);
    return out;
}

struct json_object *files_listing(struct json_object *guest) {
    struct json_object *out = json_object_new_object(), *entries = json_object_new_array();
    struct json_object *path = json_field(guest, "path"), *list = json_field(guest, "entries");
    json_set(out, "path", path ? json_object_get(path) : NULL);
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n; i++) json_object_array_add(entries, files_entry(json_object_array_get_idx(list, i)));
    json_set(out, "entries", entries);
    struct json_object *truncated = json_field(guest, "truncated");
    if (truncated) json_set(out, "truncated", json_object_get(truncated));
    return out;
}

int files_mode_text(const char *text, int *mode, struct err *e) {
    char *end;
    long value = *text >= '0' && *text <= '7' ? strtol(text, &end, 8) : -1;
    if (value < 0 || *end || value > 07777) return err_set(e, ERR_INVALID, "\"mode\" must be octal, such as 0644");
    *mode = (int)value;
    return 0;
}

int files_mode(struct json_object *field, int *mode, struct err *e) {
    if (!field) return 0;
    if (json_object_is_type(field, json_type_string)) return files_mode_text(json_object_get_string(field), mode, e);
    int64_t value = json_object_is_type(field, json_type_int) ? json_object_get_int64(field) : -1;
    if (value < 0 || value > 07777) return err_set(e, ERR_INVALID, "\"mode\" must be octal, such as \"0644\"");
    *mode = (int)value;
    return 0;
}
