/* pty.h: this terminal on a pseudo-terminal in a cell, over a WebSocket. */
#pragma once
#include "cli/cli.h"

struct json_object;

struct pty_call {
    const char *cell, *cwd, *user;
    struct json_object *command; /* string or list; NULL: a login shell */
    struct json_object *env;     /* object */
};
/* Returns when the process ended (0, *exit_code set) or the connection did (-1). The terminal is put back either way.
 */
int pty_run(const struct cli *, const struct pty_call *, int *exit_code, struct err *);
