/* cellad: the daemon on both drivers. */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "api/daemon.h"
#include "base/clock.h"
#include "base/log.h"
#include "driver/choice/choice_driver.h"
#include "driver/microvm/microvm_driver.h"
#include "driver/process/process_driver.h"

/* `cella up` and systemd start the keeper and the daemon together: the socket may be a moment away. */
#define KEEPER_WAIT_MS 10000
/* What a machine has when nobody says how much: memory that its guest does not touch costs it 16 MB of tables per GB. */
#define MACHINE_MEMORY (2048ull << 20)
#define MACHINE_VCPUS 4 /* each is a thread that a copy of the machine starts with */

static struct driver *open_process(uv_loop_t *loop, const struct daemon_options *o, const char *key, struct err *e) {
    const struct timespec pause = {.tv_nsec = 20000000};
    int64_t until = monotonic_ms() + KEEPER_WAIT_MS;
    struct driver *driver;
    while (!(driver = process_driver_open(loop, o->keeper_socket, e))) {
        bool not_yet = e->sys_errno == ENOENT || e->sys_errno == ECONNREFUSED;
        if (!not_yet || monotonic_ms() > until) return NULL;
        nanosleep(&pause, NULL);
    }
    char bases[4096];
    (void)snprintf(bases, sizeof bases, "%s/bases", o->state_dir);
    if (process_driver_images(driver, bases, key, e)) return NULL;
    process_driver_pool(driver, o->pool_filled, o->pool_empty);
    process_driver_limits(driver, &o->world.limits_default);
    return driver;
}

static struct driver *open_microvm(uv_loop_t *loop, const struct daemon_options *o, const char *key, struct keeper_client *keeper, struct err *e) {
    char machines[4096];
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct microvm_config c = {.memory_bytes = o->microvm_memory_bytes, .vcpus = o->microvm_vcpus, .bake_ms = o->microvm_bake_ms, .pool = o->pool_filled,
                               .limits = o->world.limits_default, .machines_dir = machines, .key_file = key};
    (void)snprintf(machines, sizeof machines, "%s/machines", o->state_dir);
    if (!c.vcpus) c.vcpus = cpus < 1 ? 1 : cpus < MACHINE_VCPUS ? (uint32_t)cpus : MACHINE_VCPUS;
    if (!c.memory_bytes) c.memory_bytes = c.limits.memory_bytes > MACHINE_MEMORY ? c.limits.memory_bytes : MACHINE_MEMORY;
    return microvm_driver_open(loop, keeper, &c, e);
}

static struct driver *open_driver(uv_loop_t *loop, const struct daemon_options *o, struct err *e) {
    char key[4096];
    (void)snprintf(key, sizeof key, "%s/db/image.key", o->state_dir);
    struct driver *process = open_process(loop, o, key, e);
    struct driver *microvm = process ? open_microvm(loop, o, key, process_driver_keeper(process), e) : NULL;
    if (!microvm) return NULL;
    return choice_driver_open(&(struct choice_config){process, microvm, o->driver, microvm_driver_kvm, choice_processor});
}

int main(int argc, char **argv) { return daemon_main(argc, argv, open_driver); }
