/* Fuzz target (libFuzzer): names and link targets of hostile archives (src/guest/tar_name.h).
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/guest_tar_name_fuzz.c \
 *     src/guest/tar_name.c -o /tmp/guest_tar_name_fuzz
 *   /tmp/guest_tar_name_fuzz -max_total_time=10 tests/fuzz/guest_tar_name_corpus
 *
 * Input: a name, NUL, a link target. What must hold: a name taken is relative and clean; a link taken, resolved by its
 * text, never rises above the directory. */
#include <stdlib.h>
#include <string.h>

#include "guest/tar_name.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int holds) {
    if (!holds) abort();
}

static void check_clean(const char *name) {
    must(name[0] != '/' && !strstr(name, "//"));
    size_t len = strlen(name);
    must(!len || name[len - 1] != '/');
    for (const char *at = name; *at; at += strspn(at, "/")) {
        size_t n = strcspn(at, "/");
        must(!(n == 1 && at[0] == '.') && !(n == 2 && at[0] == '.' && at[1] == '.'));
        at += n;
    }
}

/* Independent of tar_link_inside: walk the joined path and watch the depth. */
static void check_inside(const char *name, const char *target) {
    long depth = 0;
    for (const char *p = name; *p; p++) depth += *p == '/';
    must(target[0] != '/');
    for (const char *at = target + strspn(target, "/"); *at; at += strspn(at, "/")) {
        size_t n = strcspn(at, "/");
        if (n == 2 && !memcmp(at, "..", 2))
            depth--;
        else if (!(n == 1 && at[0] == '.'))
            depth++;
        must(depth >= 0);
        at += n;
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    char out[256], *copy = malloc(size + 2);
    must(copy != NULL);
    memcpy(copy, data, size);
    copy[size] = copy[size + 1] = 0;
    const char *target = copy + strlen(copy) + 1;
    if (strlen(copy) == size) target = "";
    if (tar_name_clean(copy, out, sizeof out)) {
        check_clean(out);
        if (tar_link_inside(out, target)) check_inside(out, target);
    }
    free(copy);
    return 0;
}
