/* Fuzz target (libFuzzer): the payload of OPEN, as the daemon sends it to cella-guest.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc \
 *     tests/fuzz/guest_open_fuzz.c src/guest/request.c src/guest/env.c src/guest/identity.c src/guest/utf8.c \
 *     src/base/err.c src/base/buf.c -ljson-c -o /tmp/guest_open_fuzz
 *   /tmp/guest_open_fuzz -max_total_time=10 tests/fuzz/guest_open_corpus
 *
 * What must hold for every input: an error has a word and a sentence and leaves nothing allocated; a request taken
 * has what its operation needs, no path is relative or longer than the kernel takes, and no text holds a broken UTF-8
 * sequence. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "guest/request.h"
#include "guest/utf8.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int holds) {
    if (!holds) abort();
}

static void check_path(const char *path) {
    must(path && path[0] == '/' && strlen(path) < PATH_MAX && utf8_valid(path));
}

static void check_exec(const struct request *r) {
    must(!r->argv != !r->cmd);
    must(!r->argv || (r->argv[0] && r->argv[0][0]));
    for (char **a = r->argv; a && *a; a++) must(utf8_valid(*a));
    if (r->cwd) check_path(r->cwd);
}

static void check(const struct request *r) {
    for (size_t i = 0; i < r->env.n; i++) must(r->env.vars[i][0] && r->env.vars[i][0] != '=');
    switch (r->op) {
    case OP_EXEC: check_exec(r); break;
    case OP_PROCESSES:
    case OP_PORTS:
    case OP_DISK:
    case OP_CHANGES:
    case OP_RESET:
    case OP_ENVIRONMENT: must(!r->path); break;
    case OP_DIGEST:
        must(!r->path && r->paths);
        for (char **p = r->paths; *p; p++) check_path(*p);
        break;
    default:
        check_path(r->path);
        must(r->op != OP_MOVE || r->to);
        must(r->mode >= -1 && r->mode <= 07777 && r->depth >= 1);
        must(r->offset <= INT64_MAX && (r->length <= INT64_MAX || r->length == UINT64_MAX));
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct request r;
    struct err e = {0};
    /* An exact copy, so that the sanitizer sees a read behind the end. */
    char *copy = malloc(size + !size);
    must(copy != NULL);
    memcpy(copy, data, size);
    if (request_parse(copy, size, &r, &e) == 0) {
        check(&r);
        struct env all = env_for_process(r.as_root, r.pty, &r.env);
        must(all.vars && !all.vars[all.n]);
        env_free(&all);
    } else
        must(e.code && e.text[0] && !r.path && !r.argv && !r.env.n);
    request_free(&r);
    free(copy);
    return 0;
}
