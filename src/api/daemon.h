/* daemon.h: the daemon but for the choice of driver, so that another program can run it on another one. */
#pragma once
#include <uv.h>

#include "api/options.h"
#include "base/err.h"
#include "driver/driver.h"

typedef struct driver *(*driver_open_fn)(uv_loop_t *, const struct daemon_options *, struct err *);

/* Parse argv, then run until SIGTERM or SIGINT; cells live on. Returns the program's exit code: 0 ended as asked,
 * 1 could not start, 2 wrong usage. */
int daemon_main(int argc, char **argv, driver_open_fn);
/* The same with options in hand. */
int daemon_run(struct daemon_options *, driver_open_fn);
