#include "keeper/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/cgroup.h"
#include "keeper/descriptors.h"
#include "keeper/ferry.h"
#include "keeper/host.h"
#include "keeper/layers.h"
#include "keeper/left.h"
#include "keeper/machine_copy.h"
#include "keeper/shared.h"
#include "keeper/snapshot.h"
#include "keeper/zygote.h"

/* A thread inside vfork() stops only when its child execs: a fork waits no longer than this for it. */
#define FREEZE_MS 1000
#define FLUSH_BYTES (512u << 10)
#define COPY_MS 10000 /* a copy of a context with tens of GB of small pages, or with a GB of shared memory, takes a second */

static struct capture captures[CAPTURES_MAX];

struct capture *capture_find(uint32_t serial) {
    for (size_t i = 0; i < CAPTURES_MAX; i++)
        if (captures[i].used && captures[i].serial == serial) return &captures[i];
    return NULL;
}

/* The sentinel must still have the context's memory: code that replaced its program (exec) has another. */
static int same_memory(const struct context *x, struct err *e) {
    long differ = syscall(SYS_kcmp, x->sentinel, x->context, KCMP_VM, 0, 0);
    if (differ < 0) return err_sys(e, errno, "compare the memory of a context with its sentinel's");
    return differ ? err_set(e, ERR_CONFLICT, "the context has replaced its program and cannot be copied") : 0;
}

static int freeze(struct capture *k, const struct cell *c, struct err *e) {
    uint64_t memory = 0; /* beside what the zygotes gave */
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        const struct context *x = &c->context[i];
        if (!x->context) continue;
        if (!x->sentinel) return err_set(e, ERR_CONFLICT, "the sentinel of a context is gone");
        const int frozen = image_freeze(&k->slot[i].image, x->context, x->sentinel, e);
        if (same_memory(x, e) || frozen) return -1; /* now that it stands; a new program is also why it could not be frozen */
        if (descriptors_note(&k->slot[i].image, x->context, (const int[2]){x->stdout_fd, x->stderr_fd}, e)) return -1;
        const uint64_t given = zygote_bytes(x->zygote), has = k->slot[i].image.anon_bytes;
        memory += has > given ? has - given : 0;
        k->slot[i].language = x->language;
        k->slot[i].zygote = x->zygote;
    }
    k->oversize = memory > c->limits.memory_bytes;
    fault_point("keeper.capture.frozen");
    return fault_error("keeper.capture.freeze", e);
}

/* What may be taken of shared memory: it is charged to the cell, as are the tables of the copy. When the limit strikes, the kernel kills one task after
 * the other while the keeper goes on writing: the copy, the context it is made of, the guest. */
static uint64_t room_in(const struct cell *c) {
    const uint64_t limit = c->limits.memory_bytes, room = cgroup_room(c->name, limit);
    const uint64_t tables = (512u << 10) + limit / 256; /* 8 bytes a page, twice that for the copy of what is there twice; a batch of charges for each processor */
    return room == UINT64_MAX ? room : room > tables ? room - tables : 0;
}

/* Should it strike all the same (other processes of the cell run on), the copy shall go, not the context. */
static void oom_order(pid_t pid, char order[16], const char *set) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
    cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
    ssize_t n = fd < 0 || !order ? 0 : pread(fd, order, 15, 0);
    if (order) order[n > 0 ? n : 0] = 0;
    if (fd >= 0 && *set && pwrite(fd, set, strlen(set), 0) < 0) log_debug("%s: %s", path, strerror(errno));
}

/* Everything stands still: memory and files of one instant. */
static int copy(struct capture *k, const struct cell *c, struct snapshot *files, uint64_t room, struct err *e) {
    if (fault_error("keeper.capture.layer", e)) return -1;
    snapshot_go(files);
    inject_deadline(COPY_MS);
    fault_point("keeper.capture.snapped");
    struct copy_budget left = {.bytes = room < SHARED_BYTES_MAX ? room : SHARED_BYTES_MAX, .by_limit = room < SHARED_BYTES_MAX, .files = UNNAMED_MAX, .pieces = SHARED_PIECES_MAX, .compared = UNNAMED_COMPARED};
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        if (!k->slot[i].image.thread) continue;
        pid_t made = fault_error("keeper.capture.memory", e) ? -1 : sentinel_copy(c->context[i].sentinel, &k->slot[i].image, e);
        if (made < 0) return -1;
        char order[16];
        k->slot[i].sentinel = made;
        oom_order(made, order, "1000");
        if (descriptors_copy(&k->slot[i].image, c->context[i].context, made, &left, e) || shared_copy(&k->slot[i].image, c->context[i].context, made, &left, e)) return -1;
        oom_order(made, NULL, order);
    }
    fault_point("keeper.capture.copied");
    return 0;
}

/* What need not be asked while the cell stands. */
static int join(struct capture *k, const struct cell *c, struct err *e) {
    inject_deadline(FREEZE_MS);
    int rc = 0;
    left_processes(c, &k->notes);
    for (int i = 0; !rc && i < KEEPER_SLOTS; i++) {
        if (!k->slot[i].sentinel) continue;
        left_timers(c->context[i].context, &k->slot[i].image.notes);
        rc = descriptors_join(&k->slot[i].image, k->slot[i].sentinel, e);
    }
    inject_deadline(0);
    return rc;
}

static void thaw(struct capture *k) {
    for (int i = 0; i < KEEPER_SLOTS; i++) image_thaw(&k->slot[i].image);
}

/* The copies were born in the cell's group and would die with it. */
static int leave_group(const struct capture *k, struct err *e) {
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (k->slot[i].sentinel && cgroup_enter("zygotes", CGROUP_SENTINEL, k->slot[i].sentinel, e)) return -1;
    return 0;
}

struct capture *capture_entry(const struct cell *c, uint32_t serial, struct err *e) {
    struct capture *k = NULL;
    for (size_t i = 0; i < CAPTURES_MAX && !k; i++)
        if (!captures[i].used) k = &captures[i];
    if (!serial || capture_find(serial)) return err_set(e, ERR_INVALID, "the number of a capture is 0 or in use"), NULL;
    if (!k) return err_set(e, ERR_LIMIT, "%d forks are under way", CAPTURES_MAX), NULL;
    *k = (struct capture){.used = true, .serial = serial, .limits = c->limits};
    memcpy(k->template_id, c->template_id, sizeof k->template_id);
    id_make(k->layer, "cap_");
    return k;
}

static struct capture *begin(const struct cell *c, uint32_t serial, struct err *e) {
    /* A process of the cell that shares the context's memory (CLONE_VM) runs on while its threads stand. Where the stub is not sealed it could
     * put other code or a shared table in its place, and S runs there as the owner of all cells. */
    if (!(host.features & KEEPER_HAS_MSEAL)) return err_set(e, ERR_UNSUPPORTED, "copies of a running cell need mseal (Linux 6.10)"), NULL;
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (c->context[i].context && capture_holds(c->context[i].context)) return err_set(e, ERR_CONFLICT, "the cell is being frozen"), NULL;
    return capture_entry(c, serial, e);
}

/* ---- the child made ahead ---- */

/* In the thread. It touches the table of cells, which nobody else does meanwhile: the keeper is busy with ptrace, and the cell comes out of a blank, so
 * that no process is born here (it would die with the thread). A failure is told by the request itself, which tries again. */
static void make_ahead(void *arg) {
    struct capture *k = arg;
    struct err ignored;
    const struct cell_files files = {.layer = k->kept[0] ? k->kept : k->layer, .take = k->ahead.last && !k->kept[0]};
    k->ahead.cell = cell_make(k->ahead.id, k->template_id, &k->limits, files, &ignored);
}

static bool wants_ahead(struct capture *k, const struct capture_next *next) {
    int blanks;
    if (!next || !cell_waiting(&blanks)) return false;
    (void)snprintf(k->ahead.id, sizeof k->ahead.id, "%s", next->id);
    k->ahead.last = next->last;
    return true;
}

static void start_ahead(struct capture *k, const struct capture_next *next) {
    struct err ignored;
    if (!wants_ahead(k, next) || snapshot_prepare(&k->ahead.thread, NULL, NULL, &ignored)) return;
    k->ahead.thread.then = make_ahead;
    k->ahead.thread.arg = k;
    snapshot_go(&k->ahead.thread);
}

/* The cell made ahead, if this is the one; another one is of no use. */
static struct cell *take_ahead(struct capture *k, const char *id, bool last) {
    struct cell *c = k->ahead.cell;
    k->ahead.cell = NULL;
    if (!c || (!strcmp(k->ahead.id, id) && k->ahead.last == last)) return c;
    cell_destroy(c);
    return NULL;
}

static void no_room(struct err *e) { err_set(e, ERR_LIMIT, "the memory limit of the sandbox leaves no room for a copy"); }

struct capture *capture_cell(struct cell *c, uint32_t serial, bool hold, const struct capture_next *next, struct err *e) {
    struct err ignored;
    struct capture *k = begin(c, serial, e);
    if (!k) return NULL;
    const uint64_t oom_kills = cgroup_oom_kills(c->name), room = room_in(c);
    if (!room) return k->used = false, no_room(e), NULL;
    fault_point("keeper.capture.before");
    /* before the freeze, so that the snapshot has little to write; for little it is not worth a second snapshot */
    if (cgroup_dirty(c->name) > FLUSH_BYTES && layer_flush(c->name, k->layer, e)) return k->used = false, NULL;
    struct snapshot files = {0};
    if (snapshot_prepare(&files, c->name, k->layer, e)) return k->used = false, NULL;
    if (!hold && wants_ahead(k, next)) files.then = make_ahead, files.arg = k;
    int64_t from = monotonic_us();
    inject_deadline(FREEZE_MS);
    inject_stay(true);
    /* a task of a paused cell runs no injected call: it runs for the moment until its threads are stopped */
    int rc = c->paused ? cgroup_freeze(c->name, false, e) : 0;
    if (!rc) rc = freeze(k, c, e);
    if (!rc) rc = copy(k, c, &files, room, e);
    if (snapshot_end(&files, rc ? &ignored : e)) rc = -1;
    if (c->paused && cgroup_freeze(c->name, true, &ignored)) log_warn("pause again: %s", ignored.text);
    k->held = hold && !rc;
    if (!k->held) thaw(k);
    inject_deadline(0);
    k->frozen_us = (uint64_t)(monotonic_us() - from);
    if (!rc) rc = join(k, c, e);
    inject_stay(false);
    if (!rc) rc = leave_group(k, e);
    for (uint32_t i = 0; i < KEEPER_SLOTS; i++) notes_append(&k->notes, &k->slot[i].image.notes, i);
    fault_point("keeper.capture.after");
    if (!rc) return k;
    if (cgroup_oom_kills(c->name) > oom_kills) no_room(e);
    capture_drop(k);
    return NULL;
}

static int fill(struct cell *c, struct capture *k, bool last, struct notes *notes, struct err *e) {
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        struct captured *s = &k->slot[i];
        if (!s->sentinel) continue;
        const struct cell_memory m = {.sentinel = s->sentinel, .spare = last ? s->sentinel : 0, .image = &s->image, .language = s->language, .zygote = s->zygote};
        if (last) s->sentinel = 0; /* the cell's now, or gone */
        fault_point("keeper.make.ferry");
        if (fault_error("keeper.make.fill", e)) {
            if (m.spare) kill(m.spare, SIGKILL);
            return -1;
        }
        if (cell_fill(c, i, &m, notes, e)) return -1;
    }
    return cell_ready(c, e);
}

struct cell *capture_make_cell(struct capture *k, const char *id, bool last, const struct capture_next *next, struct notes *notes, struct err *e) {
    const struct cell_files files = {.layer = k->kept[0] ? k->kept : k->layer, .take = last && !k->kept[0]};
    fault_point("keeper.make.before");
    /* A child has its parent's pages without paying for them. Were it forked again with as much of its own, and so on, one cell could have any
     * number of times its limit. */
    if (k->oversize && !host.off[LAYER_LIMITS]) {
        if (last) capture_drop(k);
        return err_set(e, ERR_LIMIT, "the sandbox has more memory than its limit, with what it inherited, and cannot be copied"), NULL;
    }
    struct cell *c = take_ahead(k, id, last);
    if (!c) c = cell_make(id, k->template_id, &k->limits, files, e);
    if (!last) start_ahead(k, next); /* beside the ferry of this one */
    if (c && fill(c, k, last, notes, e)) {
        if (cgroup_oom_kills(c->name)) no_room(e);
        cell_destroy(c);
        c = NULL;
    }
    (void)snapshot_end(&k->ahead.thread, &(struct err){0});
    if (last) capture_drop(k);
    fault_point("keeper.make.after");
    return c;
}

void capture_drop(struct capture *k) {
    struct err e;
    if (k->held) thaw(k);
    if (k->machine) machine_capture_drop(k);
    if (k->ahead.cell) cell_destroy(k->ahead.cell);
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        if (k->slot[i].sentinel) kill(k->slot[i].sentinel, SIGKILL); /* reaped like any child; belongs to nobody then */
        image_free(&k->slot[i].image);
    }
    if (!k->kept[0] && layer_remove(k->layer, &e)) log_warn("%s", e.text);
    notes_free(&k->notes);
    *k = (struct capture){0};
}

void captures_drop(void) {
    for (size_t i = 0; i < CAPTURES_MAX; i++)
        if (captures[i].used) capture_drop(&captures[i]);
}

int capture_keep_layer(struct capture *k, const char *id, struct err *e) {
    if (layer_rename(k->layer, id, e)) return -1;
    (void)snprintf(k->kept, sizeof k->kept, "%s", id);
    return 0;
}

bool capture_takes_back(const char *id, struct err *e) {
    for (size_t i = 0; i < CAPTURES_MAX; i++) {
        struct capture *k = &captures[i];
        if (!k->used || strcmp(k->kept, id) || layer_rename(id, k->layer, e)) continue;
        k->kept[0] = 0;
        return true;
    }
    return false;
}

static struct captured *captured_by(pid_t pid) {
    for (size_t i = 0; i < CAPTURES_MAX; i++)
        for (int slot = 0; captures[i].used && slot < KEEPER_SLOTS; slot++)
            if (captures[i].slot[slot].sentinel == pid) return &captures[i].slot[slot];
    return NULL;
}

bool capture_has_sentinel(pid_t pid) { return captured_by(pid) != NULL; }

/* Where a capture that holds its cell remembers this thread. */
static pid_t *held_thread(pid_t tid) {
    for (size_t i = 0; i < CAPTURES_MAX; i++)
        for (int slot = 0; captures[i].held && slot < KEEPER_SLOTS; slot++) {
            struct image *im = &captures[i].slot[slot].image;
            for (int t = 0; im->frozen && t < im->threads; t++)
                if (im->thread[t].host_tid == tid) return &im->thread[t].host_tid;
        }
    return NULL;
}

bool capture_holds(pid_t pid) { return held_thread(pid) != NULL; }

bool capture_reaped(pid_t pid) {
    pid_t *held = held_thread(pid);
    if (held) *held = 0; /* its number may be another task's soon: that one must not be let go in its place */
    struct captured *s = captured_by(pid);
    if (s) s->sentinel = 0;
    return s != NULL;
}
