/* freeze.c: a cell written to disk. The keeper copies it in a moment (a capture) and makes its files durable; memory is searched and written here, by
 * a thread of the pool, while the cell goes on. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/process/image_fill.h"
#include "driver/process/image_manifest.h"
#include "driver/process/image_scan.h"
#include "driver/process/internal.h"
#include "driver/process/notes.h"
#include "driver/work.h"
#include "wire/context_state.h"

struct frozen {
    bool used;
    uint32_t language;
    uint64_t zygote;
    struct memory_source from;
    int state_fd;
    struct memory_written memory;
};

struct freeze {
    struct process_driver *driver;
    uint32_t cell, serial; /* it may be gone before this is over */
    struct cell_limits limits;
    char template_id[TEMPLATE_ID_HEX + 1], image_id[CELL_ID_MAX], dir[4096];
    bool hold;
    driver_image_done done;
    void *arg;

    uint32_t capture;
    bool captured, layer_answered, layer_kept, pages_written;
    uint64_t frozen_us, layer_bytes;
    unsigned opening;
    struct frozen slot[DRIVER_SLOTS];
    struct base_view *view[KEEPER_LANGUAGES];
    struct json_object *not_carried;
    bool failed;
    struct err err;
};

void process_capture_drop(struct process_driver *d, uint32_t capture) {
    struct keeper_request q = {.op = KEEPER_CAPTURE_DROP, .capture = capture};
    keeper_ask(d->keeper, &q, NULL, NULL);
}

static void freeze_free(struct freeze *f) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        memory_source_close(&f->slot[i].from);
        close_fd(&f->slot[i].state_fd);
    }
    for (int i = 0; i < KEEPER_LANGUAGES; i++) view_release(f->driver, f->view[i]);
    json_object_put(f->not_carried);
    free(f);
}

static void fail(struct freeze *f, const struct err *e) {
    if (!f->failed) f->err = *e;
    f->failed = true;
}

/* ---- the end ---- */

static void finish(struct freeze *f) {
    struct process_driver *d = f->driver;
    struct driver_cell *cell = process_cell_by(d, f->cell, f->serial);
    if (f->captured && (f->failed || !f->hold || !cell)) process_capture_drop(d, f->capture);
    else if (f->captured) cell->held = f->capture;
    if (f->failed && f->layer_kept) {
        struct keeper_request q = {.op = KEEPER_LAYER_DROP};
        memcpy(q.id, f->image_id, sizeof f->image_id);
        keeper_ask(d->keeper, &q, NULL, NULL);
    }
    struct driver_image image = {.disk_bytes = f->layer_bytes, .frozen_us = f->frozen_us, .not_carried = f->not_carried};
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (f->slot[i].used) image.memory_bytes += f->slot[i].memory.file_bytes;
    f->done(f->arg, f->failed ? &f->err : NULL, f->failed ? NULL : &image);
    freeze_free(f);
}

static int open_dir(const struct freeze *f, struct err *e) {
    int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? err_sys(e, errno, "open the directory of an image") : fd;
}

static void clean_thread(void *arg) {
    struct freeze *f = arg;
    struct err ignored;
    char name[16];
    cleanup_close int dir = open_dir(f, &ignored);
    for (int i = 0; dir >= 0 && i < DRIVER_SLOTS; i++) {
        slot_name(name, i);
        if (f->slot[i].used) (void)unlinkat(dir, name, 0);
    }
    if (dir >= 0) (void)unlinkat(dir, MANIFEST_NAME, 0);
}

static void clean_done(void *arg) {
    struct freeze *f = arg;
    if (f->driver->closing) freeze_free(f);
    else finish(f);
}

/* Nothing is left after a failure. */
static void give_up(struct freeze *f) { work_start(&f->driver->works, clean_thread, clean_done, f); }

/* ---- the manifest ---- */

static int write_manifest(struct freeze *f, struct err *e) {
    uint8_t key[IMAGE_KEY];
    cleanup_close int dir = open_dir(f, e);
    struct image_manifest m = {.made_at_ms = wall_ms(), .limits = f->limits, .layer_bytes = f->layer_bytes, .not_carried = f->not_carried};
    if (dir < 0 || image_key(f->driver->key_file, key, e) || fault_error("freeze.manifest", e)) return -1;
    memcpy(m.image_id, f->image_id, sizeof m.image_id);
    memcpy(m.template_id, f->template_id, sizeof m.template_id);
    arch_features_here(&m.features);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        const struct frozen *s = &f->slot[i];
        if (!s->used) continue;
        m.slot[i] = (struct image_slot){.used = true, .language = s->language, .memory = s->memory};
        memcpy(m.slot[i].base, f->view[s->language]->base->digest, IMAGE_DIGEST);
    }
    return image_manifest_write(&m, key, dir, e) ? -1 : fault_error("freeze.manifest.written", e);
}

static void manifest_thread(void *arg) {
    struct freeze *f = arg;
    struct err e;
    if (write_manifest(f, &e)) fail(f, &e);
}

static void manifest_done(void *arg) {
    struct freeze *f = arg;
    if (f->driver->closing) freeze_free(f);
    else if (f->failed) give_up(f);
    else finish(f);
}

/* Memory and files are two errands; the manifest follows when both are done. */
static void join(struct freeze *f) {
    if (!f->pages_written || !f->layer_answered) return;
    if (f->failed) give_up(f);
    else work_start(&f->driver->works, manifest_thread, manifest_done, f);
}

/* ---- memory ---- */

static int read_state(int fd, struct buf *out, struct err *e) {
    struct stat st;
    if (fstat(fd, &st) || st.st_size <= 0 || st.st_size > STATE_BYTES_MAX) return err_set(e, ERR_INTERNAL, "the keeper's state of a context has an odd size");
    cleanup_free char *bytes = malloc((size_t)st.st_size);
    if (!bytes) abort();
    if (pread(fd, bytes, (size_t)st.st_size, 0) != (ssize_t)st.st_size) return err_sys(e, errno, "read the keeper's state of a context");
    buf_append(out, bytes, (size_t)st.st_size);
    return 0;
}

static int write_slot(struct freeze *f, int i, int dir, struct err *e) {
    struct frozen *s = &f->slot[i];
    const struct base_view *v = f->view[s->language];
    struct buf state = {0};
    char name[16];
    slot_name(name, i);
    int rc = read_state(s->state_fd, &state, e);
    if (!rc) rc = memory_write(&s->from, v, s->zygote && s->zygote == v->zygote, &state, dir, name, &s->memory, e);
    buf_free(&state);
    return rc;
}

static void pages_thread(void *arg) {
    struct freeze *f = arg;
    struct err e;
    cleanup_close int dir = open_dir(f, &e);
    int rc = dir < 0 || fault_error("freeze.pages", &e) ? -1 : 0;
    for (int i = 0; i < DRIVER_SLOTS && !rc; i++)
        if (f->slot[i].used) rc = write_slot(f, i, dir, &e);
    if (!rc) rc = fault_error("freeze.pages.written", &e);
    if (rc) fail(f, &e);
}

static void pages_done(void *arg) {
    struct freeze *f = arg;
    if (f->driver->closing) {
        freeze_free(f);
        return;
    }
    f->pages_written = true;
    join(f);
}

/* ---- what it is compared with ---- */

static void need_views(struct freeze *f);

static void on_view(void *arg, struct err *e, struct base_view *v) {
    struct freeze *f = arg;
    if (e) {
        fail(f, e);
        f->pages_written = true; /* none will be */
        join(f);
        return;
    }
    f->view[v->language] = v;
    need_views(f);
}

static void need_views(struct freeze *f) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        const struct frozen *s = &f->slot[i];
        if (!s->used || f->view[s->language]) continue;
        base_need(f->driver, f->template_id, s->language, NULL, false, on_view, f);
        return;
    }
    work_start(&f->driver->works, pages_thread, pages_done, f);
}

/* ---- the keeper's part ---- */

struct opening {
    struct freeze *freeze;
    int slot;
};

static void opened_all(struct freeze *f) {
    if (f->opening) return;
    if (!f->failed) {
        need_views(f);
        return;
    }
    f->pages_written = true;
    join(f);
}

static void on_open(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct opening *o = arg;
    struct freeze *f = o->freeze;
    struct frozen *s = &f->slot[o->slot];
    struct err odd;
    if (!e && n == 4 && r->language > KEEPER_NONE && r->language < KEEPER_LANGUAGES) {
        s->used = true;
        s->language = r->language;
        s->zygote = r->zygote;
        s->from = (struct memory_source){fds[0], fds[1], fds[2]};
        s->state_fd = fds[3];
    } else {
        for (size_t i = 0; !e && i < n; i++) close(fds[i]);
        if (!e) err_set(&odd, ERR_INTERNAL, "the keeper's answer to an image is not understood");
        fail(f, e ? e : &odd);
    }
    f->opening--;
    free(o);
    opened_all(f);
}

static void open_slot(struct freeze *f, int slot) {
    struct keeper_request q = {.op = KEEPER_CAPTURE_OPEN, .capture = f->capture, .slot = (uint32_t)slot};
    struct opening *o = calloc(1, sizeof *o);
    if (!o) abort();
    *o = (struct opening){f, slot};
    f->opening++;
    keeper_call(f->driver->keeper, &q, on_open, o);
}

static void on_captured(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct freeze *f = arg;
    if (e) {
        fail(f, e);
    } else {
        f->captured = true;
        f->frozen_us = r->frozen_us;
        if (r->notes && n) notes_append(f->not_carried, fds[n - 1], r->notes);
        for (size_t i = 0; i < n; i++) close(fds[i]);
        struct err asked;
        if (fault_error("freeze.captured", &asked)) fail(f, &asked);
        for (int slot = 0; !f->failed && slot < DRIVER_SLOTS; slot++)
            if (r->slots >> slot & 1) open_slot(f, slot);
    }
    opened_all(f);
}

static void on_layer(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct freeze *f = arg;
    struct err asked;
    (void)fds, (void)n;
    f->layer_answered = true;
    f->layer_kept = !e;
    if (e) fail(f, e); /* after the capture's own failure, which says more */
    else f->layer_bytes = r->bytes;
    if (!e && fault_error("freeze.layer.kept", &asked)) fail(f, &asked);
    join(f);
}

void process_freeze(struct driver_cell *c, const char *image_id, const char *dir, bool hold, driver_image_done done, void *arg) {
    struct process_driver *d = c->driver;
    struct freeze *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct freeze){.driver = d, .cell = c->index, .serial = c->serial, .limits = c->limits, .hold = hold, .done = done, .arg = arg,
                         .capture = process_capture_number(d), .not_carried = json_object_new_array()};
    memcpy(f->template_id, c->template_id, sizeof f->template_id);
    (void)snprintf(f->image_id, sizeof f->image_id, "%s", image_id);
    (void)snprintf(f->dir, sizeof f->dir, "%s", dir);
    for (int i = 0; i < DRIVER_SLOTS; i++) f->slot[i] = (struct frozen){.from = {-1, -1, -1}, .state_fd = -1};
    struct err e;
    if (!d->bases || !id_valid(image_id, "img_") || fault_error("freeze.capture", &e)) {
        if (!d->bases) err_set(&e, ERR_UNSUPPORTED, "this daemon has no directory for images");
        else if (!id_valid(image_id, "img_")) err_set(&e, ERR_INVALID, "not the id of an image");
        fail(f, &e);
        give_up(f);
        return;
    }
    struct keeper_request q = process_cell_request(c, KEEPER_CAPTURE);
    q.capture = f->capture;
    q.flags = hold ? KEEPER_HOLD : 0;
    keeper_call(d->keeper, &q, on_captured, f);
    struct keeper_request keep = {.op = KEEPER_LAYER_KEEP, .capture = f->capture};
    memcpy(keep.id, f->image_id, sizeof f->image_id);
    keeper_call(d->keeper, &keep, on_layer, f); /* taken in order: it finds the capture */
}

void process_release(struct driver_cell *c, driver_done done, void *arg) {
    struct keeper_request q = {.op = KEEPER_CAPTURE_DROP, .capture = c->held};
    c->held = 0;
    keeper_ask(c->driver->keeper, &q, done, arg);
}
