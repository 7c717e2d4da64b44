#include "keeper/machine_template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/layers.h"
#include "keeper/machine.h"

static struct template_machine *machines[TEMPLATE_MACHINES_MAX];
static uint64_t uses;

static struct template_machine **place_of(const char *template_id, const char *base) {
    for (size_t i = 0; i < TEMPLATE_MACHINES_MAX; i++)
        if (machines[i] && !strcmp(machines[i]->template_id, template_id) && !strcmp(machines[i]->base, base)) return &machines[i];
    return NULL;
}

static void drop(struct template_machine **place) {
    struct template_machine *t = *place;
    vmm_end(&t->vmm);
    vmm_bury(t->vmm.group);
    free(t);
    *place = NULL;
}

struct template_machine *template_machine_find(const char *template_id, const char *base) {
    struct template_machine **place = place_of(template_id, base);
    if (place && (*place)->vmm.over) drop(place), place = NULL;
    if (place) (*place)->used = ++uses;
    return place ? *place : NULL;
}

static struct template_machine **free_place(void) {
    struct template_machine **oldest = &machines[0];
    for (size_t i = 0; i < TEMPLATE_MACHINES_MAX; i++) {
        if (!machines[i]) return &machines[i];
        if (machines[i]->used < (*oldest)->used) oldest = &machines[i];
    }
    drop(oldest);
    return oldest;
}

static void heard(struct watch *w) {
    struct template_machine *t = (struct template_machine *)w;
    vmm_hear(&t->vmm);
    if (!t->vmm.over) return;
    log_warn("machine of template %.12s: %s", t->template_id, t->vmm.why);
    drop(place_of(t->template_id, t->base));
}

uint32_t machine_send_restore(struct vmm *v, int state_fd, int memory_fd, int base_fd, struct err *e) {
    const struct vmm_ask ask = {.fd = {state_fd, memory_fd, base_fd}, .fds = base_fd < 0 ? 2 : 3};
    return vmm_send(v, VMM_RESTORE, &ask, e);
}

/* It never runs, so it never writes, and the base's disk is not to be had in it: something of the same size. */
static int give_disk(struct template_machine *t, struct err *e) {
    cleanup_close int fd = memfd_create("disk", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)t->config.disk_size)) return err_sys(e, errno, "place of a disk");
    const struct vmm_ask ask = {.arg = {MACHINE_DISK_PRIVATE, 0}, .fd = {fd}, .fds = 1};
    return vmm_ask(&t->vmm, VMM_DISK, &ask, VMM_ANSWER_MS, NULL, e);
}

static int restore(struct template_machine *t, int dir, struct err *e) {
    cleanup_close int state = base_file(dir, t->base, "state", e), memory = state < 0 ? -1 : base_file(dir, t->base, "memory", e);
    cleanup_close int root = memory < 0 ? -1 : base_file(dir, t->base, "root.erofs", e), layer = root < 0 ? -1 : layer_fd(t->base, e);
    if (layer < 0) {
        if (e->sys_errno == ENOENT) e->sys_errno = EBADMSG; /* half of it is there */
        return -1;
    }
    if (machine_group(t->vmm.group, NULL, 0, e) || vmm_start(&t->vmm, true, e)) return -1;
    if (machine_configure(&t->vmm, root, t->config.memory_bytes, t->config.vcpus, true, e) || give_disk(t, e)) return -1;
    const uint32_t seq = machine_send_restore(&t->vmm, state, memory, -1, e);
    if (vmm_wait(&t->vmm, seq, VMM_RESTORE, VMM_RESTORE_MS, NULL, e)) {
        if (!t->vmm.over) e->sys_errno = EBADMSG;
        return -1;
    }
    t->vmm.watch.ready = heard;
    return watch_add(&t->vmm.watch, e);
}

/* The newest one is of a size that somebody wants no more. */
static bool another_size(const struct base_config *c, uint64_t memory_bytes, uint32_t vcpus) {
    return (memory_bytes && c->memory_bytes != memory_bytes) || (vcpus && c->vcpus != vcpus);
}

int machine_template(const char *template_id, const char *base, uint64_t memory_bytes, uint32_t vcpus, char out[KEEPER_ID], struct err *e) {
    const int64_t from = monotonic_us();
    cleanup_close int dir = machine_dir(template_id, e);
    if (dir < 0) return -1;
    if (base[0] ? !id_valid(base, "bas_") && err_set(e, ERR_INVALID, "not the name of a base") : base_newest(dir, out, e)) return -1;
    if (base[0]) (void)snprintf(out, KEEPER_ID, "%s", base);
    struct base_config config;
    if (base_read(dir, out, &config, e)) return -1;
    if (!base[0] && another_size(&config, memory_bytes, vcpus)) {
        err_set(e, ERR_IMAGE, "the machine was made with %llu MiB and %u processors", (unsigned long long)(config.memory_bytes >> 20), config.vcpus);
        e->sys_errno = EBADMSG;
        return -1;
    }
    if (template_machine_find(template_id, out)) return 0;
    struct template_machine *t = calloc(1, sizeof *t);
    if (!t) return err_sys(e, ENOMEM, "machine of a template");
    t->config = config;
    t->vmm = (struct vmm){.watch.fd = -1, .uid = vmm_uid()};
    id_make(t->vmm.group, "tpl_");
    (void)snprintf(t->template_id, sizeof t->template_id, "%s", template_id);
    (void)snprintf(t->base, sizeof t->base, "%s", out);
    t->used = ++uses;
    struct template_machine **place = free_place();
    *place = t;
    if (!restore(t, dir, e)) {
        log_info("machine of template %.12s restored after %lld ms", template_id, (long long)(monotonic_us() - from) / 1000);
        return 0;
    }
    drop(place);
    return -1;
}
