#include "keeper/capture.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "keeper/ferry.h"
#include "keeper/host.h"
#include "keeper/layers.h"

/* A thread inside vfork() stops only when its child execs: a fork waits no longer than this for it. */
#define FREEZE_MS 1000

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

static int freeze_and_copy(struct capture *k, const struct cell *c, struct err *e) {
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        const struct context *x = &c->context[i];
        if (!x->context) continue;
        if (!x->sentinel) return err_set(e, ERR_CONFLICT, "the sentinel of a context is gone");
        if (same_memory(x, e) || image_freeze(&k->slot[i].image, x->context, e)) return -1;
        k->slot[i].language = x->language;
    }
    /* everything stands still: memory and files of one instant */
    if (layer_snapshot(c->id, k->layer, e)) return -1;
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        if (!k->slot[i].image.thread) continue;
        pid_t copy = sentinel_copy(c->context[i].sentinel, &k->slot[i].image, e);
        if (copy < 0) return -1;
        k->slot[i].sentinel = copy;
    }
    return 0;
}

struct capture *capture_cell(const struct cell *c, uint32_t serial, struct err *e) {
    struct capture *k = NULL;
    /* A process of the cell that shares the context's memory (CLONE_VM) runs on while its threads stand. Where the stub is not sealed it could
     * put other code or a shared table in its place, and S runs there as the owner of all cells. */
    if (!(host.features & KEEPER_HAS_MSEAL)) return err_set(e, ERR_UNSUPPORTED, "copies of a running cell need mseal (Linux 6.10)"), NULL;
    for (size_t i = 0; i < CAPTURES_MAX && !k; i++)
        if (!captures[i].used) k = &captures[i];
    if (!serial || capture_find(serial)) return err_set(e, ERR_INVALID, "the number of a capture is 0 or in use"), NULL;
    if (!k) return err_set(e, ERR_LIMIT, "%d forks are under way", CAPTURES_MAX), NULL;
    *k = (struct capture){.used = true, .serial = serial, .limits = c->limits};
    memcpy(k->template_id, c->template_id, sizeof k->template_id);
    id_make(k->layer, "sbx_");
    if (layer_flush(c->id, e)) return k->used = false, NULL; /* before the freeze, so that the snapshot has little to write */
    int64_t from = monotonic_us();
    inject_deadline(FREEZE_MS);
    int rc = freeze_and_copy(k, c, e);
    for (int i = 0; i < KEEPER_SLOTS; i++) image_thaw(&k->slot[i].image);
    inject_deadline(0);
    k->frozen_us = (uint64_t)(monotonic_us() - from);
    if (!rc) return k;
    capture_drop(k);
    return NULL;
}

struct cell *capture_make_cell(struct capture *k, const char *id, struct err *e) {
    struct cell *c = cell_make(id, k->template_id, &k->limits, k->layer, e);
    if (!c) return NULL;
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        const struct captured *s = &k->slot[i];
        if (!s->sentinel || !cell_fill(c, i, s->sentinel, 0, &s->image, s->language, e)) continue;
        cell_destroy(c);
        return NULL;
    }
    return c;
}

void capture_drop(struct capture *k) {
    struct err e;
    for (int i = 0; i < KEEPER_SLOTS; i++) {
        if (k->slot[i].sentinel) kill(k->slot[i].sentinel, SIGKILL); /* reaped like any child; belongs to nobody then */
        image_free(&k->slot[i].image);
    }
    if (layer_remove(k->layer, &e)) log_warn("%s", e.text);
    *k = (struct capture){0};
}

static struct captured *captured_by(pid_t pid) {
    for (size_t i = 0; i < CAPTURES_MAX; i++)
        for (int slot = 0; captures[i].used && slot < KEEPER_SLOTS; slot++)
            if (captures[i].slot[slot].sentinel == pid) return &captures[i].slot[slot];
    return NULL;
}

bool capture_has_sentinel(pid_t pid) { return captured_by(pid) != NULL; }

bool capture_reaped(pid_t pid) {
    struct captured *s = captured_by(pid);
    if (s) s->sentinel = 0;
    return s != NULL;
}
