/* cellad-plain: the daemon on the plain driver (no isolation at all), for tests of the API. Never installed.
 *
 * CELLA_GUEST and CELLA_CONTEXTS say where the guest and the contexts are (plain_driver.h). A state directory without
 * templates gets one named "python", so that a test needs nothing but an empty directory. */
#include <stdio.h>
#include <sys/stat.h>

#include "api/daemon.h"
#include "plain_driver.h"

static struct driver *open_driver(uv_loop_t *loop, const struct daemon_options *o, struct err *e) {
    char path[4096];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/templates", o->state_dir);
    if (stat(path, &st) < 0 && plain_state_make(o->state_dir, e) < 0) return NULL;
    return plain_driver_open(loop, e);
}

int main(int argc, char **argv) { return daemon_main(argc, argv, open_driver); }
