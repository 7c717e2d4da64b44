#include "keeper/thaw.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "keeper/ferry.h"
#include "keeper/host.h"
#include "keeper/state.h"

#define THAWS_MAX 64
#define USER_MEMORY (1ull << 47)

_Static_assert(KEEPER_SCRATCH_ADDRESS == STUB_SCRATCH && KEEPER_SCRATCH_MAX <= STUB_SCRATCH_SIZE, "the protocol's scratch area is the stub's");
_Static_assert(KEEPER_CALLS_MAX <= STUB_CALLS_MAX && sizeof(struct keeper_one_call) == sizeof(struct stub_call), "a table fits the stub's");
_Static_assert(offsetof(struct keeper_one_call, ret) == offsetof(struct stub_call, ret), "a call is the stub's");

struct thaw {
    uint32_t cell, serial;
    int slot;
    struct image image;
    struct ferry_result ferry; /* its streams belong to the cell */
};
static struct thaw *thaws[THAWS_MAX];

/* Does the context it prepared still stand where it was put? */
static bool alive(const struct thaw *t) {
    const struct cell *c = cell_find(t->cell, t->serial);
    return c && c->context[t->slot].context == t->ferry.context && c->context[t->slot].waits;
}

static void forget(struct thaw **t) {
    image_free(&(*t)->image);
    free(*t);
    *t = NULL;
}

static struct thaw **free_entry(void) {
    for (size_t i = 0; i < THAWS_MAX; i++) {
        if (thaws[i] && !alive(thaws[i])) forget(&thaws[i]);
        if (!thaws[i]) return &thaws[i];
    }
    return NULL;
}

static struct thaw **thaw_of(const struct cell *c, int slot, struct err *e) {
    for (size_t i = 0; i < THAWS_MAX; i++)
        if (thaws[i] && thaws[i]->cell == cell_index(c) && thaws[i]->serial == c->serial && thaws[i]->slot == slot && alive(thaws[i])) return &thaws[i];
    err_set(e, ERR_NOT_FOUND, "no context in this slot waits for its memory");
    e->sys_errno = ENOENT;
    return NULL;
}

static struct ferry_target target(const struct cell *c, struct notes *notes) {
    return (struct ferry_target){.cell_name = c->name, .guest = c->guest, .slot_fd = c->slot_fd, .open_files = c->limits.open_files,
                                 .landlock = host.landlock_abi && !host.off[LAYER_LANDLOCK], .notes = notes};
}

static int open_memory(pid_t pid, int fds[2], struct err *e) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/mem", pid);
    if ((fds[0] = open(path, O_RDWR | O_CLOEXEC)) < 0) return err_sys(e, errno, "open %s", path);
    (void)snprintf(path, sizeof path, "/proc/%d/maps", pid);
    if ((fds[1] = open(path, O_RDONLY | O_CLOEXEC)) >= 0) return 0;
    int rc = err_sys(e, errno, "open %s", path);
    close_fd(&fds[0]);
    return rc;
}

int thaw_begin(struct cell *c, int slot, struct zygote *z, int state_fd, int fds[2], struct err *e) {
    struct context *x = &c->context[slot];
    struct thaw **entry = free_entry(), *t;
    if (x->context || x->sentinel) return err_set(e, ERR_CONFLICT, "slot %d is taken", slot);
    if (!entry) return err_set(e, ERR_LIMIT, "%d contexts wait for their memory", THAWS_MAX);
    if (!(t = calloc(1, sizeof *t))) return err_sys(e, ENOMEM, "thaw");
    *t = (struct thaw){.cell = cell_index(c), .serial = c->serial, .slot = slot};
    *entry = t;
    const struct ferry_target to = target(c, NULL);
    int rc = image_read(state_fd, &t->image, e);
    if (!rc) rc = ferry_begin(z->pid, zygote_take_spare(z), &t->image, &to, &t->ferry, e);
    if (!rc && (rc = open_memory(t->ferry.context, fds, e))) ferry_drop(&t->ferry);
    if (rc) {
        forget(entry);
        return -1;
    }
    *x = (struct context){.context = t->ferry.context, .sentinel = t->ferry.sentinel, .language = z->language, .zygote = z->number, .waits = true,
                          .control_fd = t->ferry.control_fd, .stdout_fd = t->ferry.stdout_fd, .stderr_fd = t->ferry.stderr_fd};
    return 0;
}

/* ---- calls ---- */

/* Pages [at, at + bytes), where the kernel rounds up; more than all of user memory counts as everything. */
static bool hits_stub(uint64_t at, uint64_t bytes) {
    if (at > USER_MEMORY || bytes > USER_MEMORY) return true;
    return bytes && at < STUB_DATA + STUB_DATA_SIZE && at + bytes + 4095 > STUB_CODE;
}

/* The list of the protocol. What would touch the keeper's own pages is refused here: not every kernel can seal them. */
static bool permitted(const struct keeper_one_call *c) {
    switch (c->nr) {
    case SYS_munmap:
    case SYS_mmap:
    case SYS_mprotect:
    case SYS_madvise: return !hits_stub(c->arg[0], c->arg[1]);
    case SYS_mremap: return !hits_stub(c->arg[0], c->arg[1]) && !(c->arg[3] & MREMAP_FIXED && hits_stub(c->arg[4], c->arg[2]));
    case SYS_brk:
    case SYS_openat2:
    case SYS_close: return true;
    default: return false;
    }
}

/* Only a memory file: to read one never waits. The sender may still write to it: what is checked is what is used. */
static int take_calls(int fd, struct keeper_calls *k, struct err *e) {
    if (fcntl(fd, F_GET_SEALS) < 0) return err_set(e, ERR_INVALID, "calls come in a memory file");
    if (pread(fd, k, sizeof *k, 0) != (ssize_t)sizeof *k) return err_set(e, ERR_INVALID, "a table of calls is cut");
    if (!k->count || k->count > KEEPER_CALLS_MAX || k->scratch_bytes > KEEPER_SCRATCH_MAX) return err_set(e, ERR_INVALID, "size of a table of calls");
    for (uint32_t i = 0; i < k->count; i++)
        if (!permitted(&k->call[i])) return err_set(e, ERR_INVALID, "call %u of a table (number %d) is not permitted", i, (int)k->call[i].nr);
    return 0;
}

int thaw_calls(struct cell *c, int slot, int calls_fd, struct err *e) {
    struct thaw **t = thaw_of(c, slot, e);
    cleanup_free struct keeper_calls *k = malloc(sizeof *k);
    struct batch b = {.n = 0};
    if (!t || !k) return t ? err_sys(e, ENOMEM, "calls") : -1;
    const pid_t pid = (*t)->ferry.context;
    if (take_calls(calls_fd, k, e)) return -1;
    if (k->scratch_bytes && task_write(pid, STUB_SCRATCH, k->scratch, k->scratch_bytes, e)) return -1;
    for (uint32_t i = 0; i < k->count; i++) memcpy(&b.call[b.n++], &k->call[i], sizeof b.call[0]);
    for (uint32_t i = 0; i < k->count; i++) b.call[i].ret = 0;
    inject_deadline(10000);
    int rc = inject_batch(pid, &(*t)->image.thread[0].regs, &b, NULL, e);
    inject_deadline(0);
    memcpy(k->call, b.call, k->count * sizeof k->call[0]);
    const size_t bytes = offsetof(struct keeper_calls, call) + k->count * sizeof k->call[0];
    if (pwrite(calls_fd, k, bytes, 0) != (ssize_t)bytes && !rc) rc = err_sys(e, errno, "results of calls");
    return rc;
}

/* ---- the end ---- */

int thaw_run(struct cell *c, int slot, struct notes *notes, struct err *e) {
    struct thaw **t = thaw_of(c, slot, e);
    struct context *x = &c->context[slot];
    if (!t) return -1;
    const struct ferry_target to = target(c, notes);
    int rc = fault_error("keeper.thaw.settle", e);
    if (!rc) rc = ferry_settle(&(*t)->image, &to, &(*t)->ferry, e);
    if (rc) {
        kill(x->context, SIGKILL);
        kill(x->sentinel, SIGKILL);
    } else {
        x->waits = false;
    }
    forget(t);
    return rc;
}

void thaws_drop(void) {
    for (size_t i = 0; i < THAWS_MAX; i++) {
        if (!thaws[i]) continue;
        const struct context *x = alive(thaws[i]) ? &cells[thaws[i]->cell].context[thaws[i]->slot] : NULL;
        if (x) {
            kill(x->context, SIGKILL);
            kill(x->sentinel, SIGKILL);
        }
        forget(&thaws[i]);
    }
}
