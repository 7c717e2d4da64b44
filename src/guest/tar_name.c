#include "guest/tar_name.h"

#include <string.h>

bool tar_name_clean(const char *name, char *out, size_t size) {
    size_t len = 0;
    if (!*name || *name == '/') return false;
    for (const char *at = name; *(at += strspn(at, "/"));) {
        size_t n = strcspn(at, "/");
        bool dot = n == 1 && at[0] == '.';
        if (n == 2 && at[0] == '.' && at[1] == '.') return false;
        if (!dot) {
            if (len + n + 2 > size) return false;
            if (len) out[len++] = '/';
            memcpy(out + len, at, n);
            len += n;
        }
        at += n;
    }
    out[len] = 0;
    return true;
}

bool tar_link_inside(const char *name, const char *target) {
    int depth = 0;
    bool down = false;
    if (!*target || *target == '/') return false;
    for (const char *p = name; (p = strchr(p, '/')); p++) depth++;
    for (const char *at = target; *(at += strspn(at, "/"));) {
        size_t n = strcspn(at, "/");
        if (n == 2 && at[0] == '.' && at[1] == '.') {
            if (down || --depth < 0) return false;
        } else if (n != 1 || at[0] != '.')
            down = true;
        at += n;
    }
    return true;
}
