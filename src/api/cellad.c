/* cellad: the daemon on the process driver. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "api/daemon.h"
#include "base/clock.h"
#include "driver/process/process_driver.h"

/* `cella up` and systemd start the keeper and the daemon together: the socket may be a moment away. */
#define KEEPER_WAIT_MS 10000

static struct driver *open_driver(uv_loop_t *loop, const struct daemon_options *o, struct err *e) {
    const struct timespec pause = {.tv_nsec = 20000000};
    int64_t until = monotonic_ms() + KEEPER_WAIT_MS;
    struct driver *driver;
    while (!(driver = process_driver_open(loop, o->keeper_socket, e))) {
        bool not_yet = e->sys_errno == ENOENT || e->sys_errno == ECONNREFUSED;
        if (!not_yet || monotonic_ms() > until) return NULL;
        nanosleep(&pause, NULL);
    }
    char bases[4096], key[4096];
    (void)snprintf(bases, sizeof bases, "%s/bases", o->state_dir);
    (void)snprintf(key, sizeof key, "%s/db/image.key", o->state_dir);
    if (process_driver_images(driver, bases, key, e)) return NULL;
    process_driver_pool(driver, o->pool_filled, o->pool_empty);
    process_driver_limits(driver, &o->world.limits_default);
    return driver;
}

int main(int argc, char **argv) { return daemon_main(argc, argv, open_driver); }
