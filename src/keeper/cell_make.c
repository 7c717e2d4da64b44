#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cell.h"
#include "keeper/cgroup.h"
#include "keeper/host.h"
#include "keeper/layers.h"

#define BLANKS 5 /* more than a small fork uses up at once; each is 7 namespaces and about 0.4 MB */

uint32_t cell_next_serial(void) {
    static uint32_t last;
    return ++last ? last : ++last;
}

int cell_check_limits(const struct keeper_limits *l, struct err *e) {
    if (l->memory_bytes < 16u << 20) return err_set(e, ERR_INVALID, "a cell needs at least 16 MiB of memory");
    if (l->disk_bytes < 1u << 20) return err_set(e, ERR_INVALID, "a cell needs at least 1 MiB of disk");
    if (l->cpu_millis < 10 || l->cpu_millis > 1024000) return err_set(e, ERR_INVALID, "cpu must be 0.01 to 1024");
    if (l->pids_max < 8 || l->pids_max > 100000) return err_set(e, ERR_INVALID, "pids must be 8 to 100000");
    if (l->open_files < 1024 || l->open_files > 65536) return err_set(e, ERR_INVALID, "open files must be 1024 to 65536");
    return 0;
}

/* An entry with its groups, and a process that waits in its namespaces to be told which cell it is. */
static struct cell *make_blank(struct err *e) {
    struct cell *c = cell_entry();
    if (!c) return err_set(e, ERR_LIMIT, "%d cells are alive", KEEPER_CELLS_MAX), NULL;
    int guest[2] = {-1, -1}, slots[2] = {-1, -1}, rc;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, guest) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, slots)) {
        rc = err_sys(e, errno, "streams of a cell");
    } else if (!(rc = cgroup_make(c->name, NULL, e))) {
        const struct cell_seed s = {.name = c->name, .uid_base = HOST_UID_BASE + cell_index(c) * HOST_UID_RANGE, .guest_stream_fd = guest[1], .slot_fd = slots[1]};
        rc = cell_start_blank(&s, &c->blank, e);
    }
    close_fd(&guest[1]);
    close_fd(&slots[1]);
    c->guest_fd = guest[0];
    c->slot_fd = slots[0];
    if (!rc) return c->guest = c->blank.guest, c;
    (void)cgroup_remove(c->name);
    cell_clear(c);
    return NULL;
}

bool cells_make_blank(void) {
    struct err e;
    int have;
    (void)cell_waiting(&have);
    if (have >= BLANKS) return false;
    if (make_blank(&e)) return have + 1 < BLANKS;
    log_warn("cell made ahead: %s", e.text); /* it would fail again */
    return false;
}

static int make_layer(const struct cell *c, struct cell_files from, uint64_t disk_bytes, struct err *e) {
    if (!from.layer) return layer_make(c->name, disk_bytes, e);
    if (from.take ? layer_rename(from.layer, c->name, e) : layer_snapshot(from.layer, c->name, e)) return -1;
    return layer_limit(c->name, disk_bytes, e);
}

static int tell(struct cell *c, int template_fd, struct err *e) {
    cleanup_close int layer = layer_fd(c->name, e);
    if (layer < 0) return -1;
    const struct cell_start s = {.id = c->id, .template_fd = template_fd, .layer_fd = layer, .limits = &c->limits};
    if (cell_start_tell(&c->blank, &s, e)) return -1;
    return host.off[LAYER_LIMITS] ? 0 : cgroup_limit(c->name, &c->limits, e); /* while it works */
}

struct cell *cell_make(const char *id, const char *template_id, const struct keeper_limits *limits, struct cell_files files, struct err *e) {
    if (!id_valid(id, "sbx_")) return err_set(e, ERR_INVALID, "not a cell id"), NULL;
    if (cell_called(id)) return err_set(e, ERR_EXISTS, "a cell is called %s already", id), NULL;
    if (cell_check_limits(limits, e)) return NULL;
    cleanup_close int template_fd = host_template_fd(template_id, e);
    if (template_fd < 0) return NULL;
    int have;
    struct cell *c = cell_waiting(&have);
    if (!c && !(c = make_blank(e))) return NULL;
    if (fault_error("keeper.make.layer", e) || make_layer(c, files, limits->disk_bytes, e)) return NULL; /* the blank waits for another */
    c->serial = cell_next_serial();
    c->limits = *limits;
    (void)snprintf(c->id, sizeof c->id, "%s", id);
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", template_id);
    fault_point("keeper.make.told");
    if (!fault_error("keeper.make.start", e) && !tell(c, template_fd, e)) return c;
    cell_destroy(c);
    return NULL;
}

bool cell_starting(const struct cell *c) { return c->blank.sync_fd >= 0; }

int cell_ready(struct cell *c, struct err *e) { return cell_starting(c) ? cell_start_await(&c->blank, e) : 0; }
