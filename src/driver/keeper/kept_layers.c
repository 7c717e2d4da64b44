#include "driver/keeper/kept_layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct drop {
    driver_done done;
    void *arg;
};

static void drop_answer(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct drop *s = arg;
    (void)r, (void)fds, (void)n;
    if (s->done) s->done(s->arg, e && e->sys_errno != ENOENT && strcmp(e->code, ERR_NOT_FOUND) ? e : NULL);
    free(s);
}

void kept_layer_drop(struct keeper_client *k, const char *image_id, driver_done done, void *arg) {
    struct drop *s = calloc(1, sizeof *s);
    struct keeper_request q = {.op = KEEPER_LAYER_DROP};
    if (!s) abort();
    *s = (struct drop){done, arg};
    (void)snprintf(q.id, sizeof q.id, "%s", image_id);
    keeper_call(k, &q, drop_answer, s);
}

struct kept_layers {
    struct keeper_client *keeper;
    struct kept_layers **slot;
    char (*keep)[CELL_ID_MAX];
    size_t n;
    unsigned waiting;
    bool failed;
    struct err err;
    driver_done done;
    void *arg;
};

void kept_layers_forget(struct kept_layers *k) {
    if (!k) return;
    *k->slot = NULL;
    free(k->keep);
    free(k);
}

static void sweep_over(struct kept_layers *k) {
    if (--k->waiting) return;
    k->done(k->arg, k->failed ? &k->err : NULL);
    free(k->keep);
    free(k);
}

static void on_dropped(void *arg, struct err *e) {
    struct kept_layers *k = arg;
    if (e && !k->failed) k->err = *e;
    k->failed = k->failed || e;
    sweep_over(k);
}

void kept_layers_told(struct kept_layers *k, const char *id) {
    for (size_t i = 0; i < k->n; i++)
        if (!strcmp(k->keep[i], id)) return;
    log_info("the files of image %s belong to nothing any more", id);
    k->waiting++;
    kept_layer_drop(k->keeper, id, on_dropped, k);
}

static void on_listed(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct kept_layers *k = arg;
    (void)r, (void)fds, (void)n;
    *k->slot = NULL;
    on_dropped(k, e);
}

void kept_layers_sweep(struct keeper_client *keeper, struct kept_layers **slot, const char *const *keep, size_t n, driver_done done, void *arg) {
    struct kept_layers *k = calloc(1, sizeof *k);
    if (!k || !(k->keep = calloc(n ? n : 1, sizeof *k->keep))) abort();
    k->keeper = keeper, k->slot = slot, k->n = n, k->waiting = 1, k->done = done, k->arg = arg;
    for (size_t i = 0; i < n; i++) (void)snprintf(k->keep[i], sizeof k->keep[i], "%s", keep[i]);
    *slot = k; /* asked once, at the start: one at a time */
    struct keeper_request q = {.op = KEEPER_LAYER_LIST};
    keeper_call(keeper, &q, on_listed, k);
}
