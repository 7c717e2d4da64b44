/* request.h: the payload of OPEN, parsed and checked (wire/guest_proto.h lists the operations and their fields).
 * Owner of a struct request: request_free; a zeroed one is empty. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "guest/env.h"

/* Which file a path names. */
enum request_view {
    VIEW_FOLLOW,   /* the cell's root, links followed */
    VIEW_ROOT,     /* the cell's root, no link on the way */
    VIEW_TEMPLATE, /* the template below it, the same */
};

enum op {
    OP_EXEC,
    OP_READ,
    OP_WRITE,
    OP_LIST,
    OP_STAT,
    OP_MKDIR,
    OP_MOVE,
    OP_REMOVE,
    OP_TAR_GET,
    OP_TAR_PUT,
    OP_WATCH,
    OP_PROCESSES,
    OP_PORTS,
    OP_DISK,
    OP_CHANGES,
    OP_DIGEST,
    OP_RESET,
    OP_ENVIRONMENT,
};

struct request {
    enum op op;
    bool as_root;
    /* files: absolute paths (made from the user's home), as given otherwise: ".." is the kernel's business */
    char *path, *to;
    char **paths; /* digest: absolute, NULL-terminated */
    enum request_view view;
    uint64_t offset, length; /* length: UINT64_MAX when not given */
    int mode;                /* -1 when not given */
    int depth;
    bool append, parents, recursive, overwrite;
    /* exec */
    char **argv; /* NULL-terminated; NULL when cmd */
    char *cmd;
    char *cwd; /* NULL when not given */
    bool with_stdin, pty;
    uint16_t rows, cols;
    struct env env; /* exec, environment */
};

/* Parse len bytes of JSON. On failure *r is as empty as request_free leaves it. */
int request_parse(const char *json, size_t len, struct request *r, struct err *e);
void request_free(struct request *r);
