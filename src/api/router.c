#include "api/router.h"

#include <stdio.h>
#include <string.h>

#include "api/query.h"

static size_t segment(const char *p) { return strcspn(p, "/"); }

/* Does the pattern fit the whole path? starts[i], lengths[i]: where parameter i lies. */
static bool fits(const char *pattern, const char *path, const char **starts, size_t *lengths, size_t *count) {
    *count = 0;
    while (*pattern == '/' && *path == '/') {
        pattern++;
        path++;
        size_t want = segment(pattern), have = segment(path);
        if (*pattern == '{') {
            if (*count == ROUTE_PARAMS_MAX) return false;
            bool rest = want > 5 && memcmp(pattern + want - 4, "...}", 4) == 0;
            if (rest) have = strlen(path);
            if (!have && !rest) return false;
            starts[*count] = path;
            lengths[(*count)++] = have;
        } else if (want != have || memcmp(pattern, path, want) != 0) {
            return false;
        }
        pattern += want;
        path += have;
    }
    return !*pattern && (!*path || strcmp(path, "/") == 0); /* one slash at the end is forgiven */
}

static void allow_add(char *allow, const char *method) {
    size_t used = strlen(allow);
    (void)snprintf(allow + used, 64 - used, "%s%s", used ? ", " : "", method);
}

int route_find(const struct route *table, size_t count, const char *method, char *path, struct route_match *out,
               char allow[static 64], struct err *e) {
    const char *starts[ROUTE_PARAMS_MAX];
    size_t lengths[ROUTE_PARAMS_MAX];
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    bool literal = false; /* a pattern without parameters fitted: those with one do not mean this path */
    allow[0] = 0;
    *out = (struct route_match){0};
    for (size_t i = 0; i < count; i++) {
        if (!fits(table[i].pattern, path, starts, lengths, &out->count) || (literal && out->count)) continue;
        if (strcmp(table[i].method, wanted) != 0 && strcmp(table[i].method, "*") != 0) {
            allow_add(allow, table[i].method);
            literal |= !out->count;
            continue;
        }
        out->route = &table[i];
        break;
    }
    if (!out->route) {
        if (allow[0]) return err_set(e, ERR_METHOD, "this path takes %s, not %.16s", allow, method);
        return err_hint(e, ERR_NOT_FOUND, "docs/openapi.yaml lists every path", "there is no such path");
    }
    for (size_t i = 0; i < out->count; i++) {
        out->params[i] = path + (starts[i] - path);
        out->params[i][lengths[i]] = 0;
        if (percent_decode(out->params[i], false) < 0)
            return err_set(e, ERR_INVALID, "part %zu of the path has an escape that is no text", i + 1);
    }
    return 0;
}
