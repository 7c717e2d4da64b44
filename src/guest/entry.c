#include "guest/entry.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "guest/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

json_object *entry_text(const char *bytes) {
    struct buf out = {0};
    buf_str(&out, "");
    for (const unsigned char *s = (const unsigned char *)bytes; *s;) {
        size_t n = utf8_sequence(s);
        n ? buf_append(&out, s, n) : buf_str(&out, REPLACEMENT);
        s += n ? n : 1;
    }
    json_object *o = json_object_new_string_len(out.data, (int)out.len);
    buf_free(&out);
    return o;
}

int64_t entry_mtime_ms(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static const char *type_word(mode_t mode) {
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISLNK(mode) ? "symlink" : "other";
}

json_object *entry_json(int dir, const char *name, const char *path, const struct stat *st) {
    json_object *o = json_object_new_object();
    json_object_object_add(o, "name", entry_text(name));
    json_object_object_add(o, "path", entry_text(path));
    json_object_object_add(o, "type", json_object_new_string(type_word(st->st_mode)));
    json_object_object_add(o, "size", json_object_new_int64(st->st_size));
    json_object_object_add(o, "mode", json_object_new_int(st->st_mode & 07777));
    json_object_object_add(o, "uid", json_object_new_int64(st->st_uid));
    json_object_object_add(o, "gid", json_object_new_int64(st->st_gid));
    json_object_object_add(o, "mtime_ms", json_object_new_int64(entry_mtime_ms(st)));
    if (S_ISLNK(st->st_mode)) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(dir, name, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        json_object_object_add(o, "target", entry_text(target));
    }
    return o;
}
