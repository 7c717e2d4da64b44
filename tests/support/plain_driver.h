/* plain_driver.h: a driver without isolation, for development and tests only. It is never installed and never linked
 * into cellad proper.
 *
 * A "cell" is the real cella-guest started as a child process with the guest stream as descriptor 3, a context is the
 * real kernel program started as a child process. As root, a cell has a pid namespace (so that destroy() leaves nothing
 * behind) and a mount namespace with the cell's directory at /workspace; nothing else is kept apart.
 *
 * The environment says where the programs are. CELLA_GUEST: path of the cella-guest binary. CELLA_CONTEXTS: directory
 * that holds python/kernel.py and shell/kernel.sh. CELLA_SHELL_SO: path of cella_shell.so, when it does not lie beside
 * kernel.sh. Home and working directory of a cell is a temporary directory of its own. Limits are accepted and not
 * enforced.
 *
 * close() lets the cells live on inside this process: the next plain_driver_open() finds them and adopt() reports them,
 * so that a take-over can be tested without a keeper. They die with the process (PDEATHSIG). */
#pragma once
#include <uv.h>

#include "base/err.h"
#include "driver/driver.h"

struct driver *plain_driver_open(uv_loop_t *loop, struct err *);
/* Home directory of a cell, borrowed. */
const char *plain_driver_home(const struct driver_cell *);
/* Write a state directory whose template "python" (aliases default, base) exists by name only: enough for
 * template_resolve() and the plain driver. */
int plain_state_make(const char *state_dir, struct err *);
