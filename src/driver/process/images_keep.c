/* images_keep.c: forget what a crash left of images. The keeper tells what layers it keeps; those that nobody knows are dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "driver/process/internal.h"

static void nothing(void *arg, struct err *e) { (void)arg, (void)e; }

static void drop_answer(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct process_done *s = arg;
    (void)r, (void)fds, (void)n;
    s->done(s->arg, e && e->sys_errno != ENOENT && strcmp(e->code, ERR_NOT_FOUND) ? e : NULL);
    free(s);
}

void process_image_drop(struct driver *base, const char *image_id, driver_done done, void *arg) {
    struct process_done *s = calloc(1, sizeof *s);
    struct keeper_request q = {.op = KEEPER_LAYER_DROP};
    if (!s) abort();
    *s = (struct process_done){done ? done : nothing, arg};
    (void)snprintf(q.id, sizeof q.id, "%s", image_id);
    keeper_call(((struct process_driver *)base)->keeper, &q, drop_answer, s);
}

struct keeping {
    struct process_driver *driver;
    char (*keep)[CELL_ID_MAX];
    size_t n;
    unsigned waiting;
    bool failed;
    struct err err;
    driver_done done;
    void *arg;
};

static void keeping_over(struct keeping *k) {
    if (--k->waiting) return;
    k->done(k->arg, k->failed ? &k->err : NULL);
    free(k->keep);
    free(k);
}

static void on_dropped(void *arg, struct err *e) {
    struct keeping *k = arg;
    if (e && !k->failed) k->err = *e;
    k->failed = k->failed || e;
    keeping_over(k);
}

/* KEEPER_EVENT_LAYER. */
void process_layer_told(struct process_driver *d, const char *id) {
    struct keeping *k = d->keeping;
    if (!k) return;
    for (size_t i = 0; i < k->n; i++)
        if (!strcmp(k->keep[i], id)) return;
    log_info("the files of image %s belong to nothing any more", id);
    k->waiting++;
    process_image_drop(&d->base, id, on_dropped, k);
}

static void on_listed(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct keeping *k = arg;
    (void)r, (void)fds, (void)n;
    k->driver->keeping = NULL;
    on_dropped(k, e);
}

void process_images_keep(struct driver *base, const char *const *keep, size_t n, driver_done done, void *arg) {
    struct process_driver *d = (struct process_driver *)base;
    struct keeping *k = calloc(1, sizeof *k);
    if (!k || !(k->keep = calloc(n ? n : 1, sizeof *k->keep))) abort();
    k->driver = d, k->n = n, k->waiting = 1, k->done = done, k->arg = arg;
    for (size_t i = 0; i < n; i++) strncpy(k->keep[i], keep[i], CELL_ID_MAX - 1);
    d->keeping = k; /* asked once, at the start: one at a time */
    struct keeper_request q = {.op = KEEPER_LAYER_LIST};
    keeper_call(d->keeper, &q, on_listed, k);
}
