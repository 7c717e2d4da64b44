/* freeze.c: a machine written to disk. Its processes stop, the keeper captures it in a moment, they go on (or not: hold); what it has beyond its base is
 * written by a copy of the monitor, while the machine goes on. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/microvm/internal.h"
#include "driver/microvm/machine_manifest.h"

struct freeze {
    struct microvm *driver;
    struct driver_cell *cell; /* held */
    char dir[4096];
    bool hold, was_paused;
    driver_image_done done;
    void *arg;

    uint32_t capture;
    bool captured, stopped, layer_kept;
    unsigned waiting; /* answers of the keeper */
    int dir_fd, state_fd, memory_fd;
    int64_t stopped_us;
    uint64_t frozen_us;
    struct machine_manifest manifest;
    bool failed;
    struct err err;
};

static void freeze_free(struct freeze *f) {
    close_fd(&f->dir_fd);
    close_fd(&f->state_fd);
    close_fd(&f->memory_fd);
    free(f);
}

static void fail(struct freeze *f, const struct err *e) {
    if (!f->failed) f->err = *e;
    f->failed = true;
}

/* ---- the end ---- */

static void on_still(void *arg, struct err *e) {
    struct driver_cell *c = arg;
    if (e && c->listed) log_error("%s: it was paused, and is not any more: %s", c->id, e->text);
    machine_cell_release(c);
}

/* Its processes go on, if they ran before. */
static void go_on(struct driver_cell *c, bool was_paused) {
    if (!c->listed || c->dying) return;
    machine_go(c);
    if (was_paused) machine_stand(c, true, on_still, machine_cell_hold(c));
}

static void finish(struct freeze *f) {
    struct microvm *d = f->driver;
    struct driver_cell *c = f->cell;
    const bool stays = f->hold && f->captured && !f->failed && c->listed;
    if (stays) c->held = f->capture;
    else if (f->captured) microvm_capture_drop(d, f->capture);
    if (f->stopped && !stays) go_on(c, f->was_paused);
    if (f->failed && f->layer_kept) kept_layer_drop(d->keeper, f->manifest.image_id, NULL, NULL);
    struct json_object *nothing = json_object_new_array(); /* a machine is written whole */
    const struct driver_image image = {.memory_bytes = f->manifest.state.kept + f->manifest.memory.kept, .disk_bytes = f->manifest.layer_bytes, .frozen_us = f->frozen_us,
                                       .not_carried = nothing};
    f->done(f->arg, f->failed ? &f->err : NULL, f->failed ? NULL : &image);
    json_object_put(nothing);
    machine_cell_release(c);
    freeze_free(f);
}

static void write_thread(void *arg) {
    struct freeze *f = arg;
    struct err e;
    uint8_t key[IMAGE_KEY];
    struct machine_manifest *m = &f->manifest;
    if (f->failed) {
        (void)unlinkat(f->dir_fd, MACHINE_STATE_NAME, 0); /* nothing is left after a failure */
        (void)unlinkat(f->dir_fd, MACHINE_MEMORY_NAME, 0);
        (void)unlinkat(f->dir_fd, MANIFEST_NAME, 0);
        return;
    }
    m->made_at_ms = wall_ms();
    int rc = fsync(f->state_fd) || fsync(f->memory_fd) ? err_sys(&e, errno, "write an image") : 0;
    if (!rc) rc = machine_file_measure(f->state_fd, &m->state, &e);
    if (!rc) rc = machine_file_measure(f->memory_fd, &m->memory, &e);
    if (!rc) rc = fault_error("freeze.manifest", &e);
    if (!rc) rc = image_key(f->driver->config.key_file, key, &e);
    if (!rc) rc = machine_manifest_write(m, key, f->dir_fd, &e);
    if (!rc) rc = fault_error("freeze.manifest.written", &e);
    if (rc) fail(f, &e);
}

static void write_done(void *arg);

static void end(struct freeze *f) { work_start(&f->driver->works, write_thread, write_done, f); }

static void write_done(void *arg) {
    struct freeze *f = arg;
    if (f->driver->closing) {
        freeze_free(f);
        return;
    }
    const bool clean = f->failed && faccessat(f->dir_fd, MACHINE_STATE_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (clean) end(f); /* it failed only now: once more, to take the files away */
    else finish(f);
}

/* ---- the keeper's part ---- */

static void answered(struct freeze *f, struct err *e) {
    if (e) fail(f, e);
    if (!--f->waiting) end(f);
}

static void on_layer(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct freeze *f = arg;
    struct err asked;
    (void)fds, (void)n;
    f->layer_kept = !e;
    if (!e) f->manifest.layer_bytes = r->bytes;
    if (!e && fault_error("freeze.layer.kept", &asked)) e = &asked;
    answered(f, e);
}

static void on_saved(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct freeze *f = arg;
    struct err odd;
    for (size_t i = 0; !e && i < n; i++) close(fds[i]);
    if (!e) {
        f->manifest.vcpus = r->vcpus;
        (void)snprintf(f->manifest.base, sizeof f->manifest.base, "%.36s", r->layer);
        if (!id_valid(f->manifest.base, "bas_")) err_set(e = &odd, ERR_INTERNAL, "the keeper does not say what the image is relative to");
    }
    if (!e && fault_error("freeze.pages.written", &odd)) e = &odd;
    answered(f, e);
}

static int make_file(int dir, const char *name, struct err *e) {
    const int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? err_sys(e, errno, "make a file of an image") : fd;
}

static int make_files(struct freeze *f, int give[2], struct err *e) {
    if ((f->state_fd = make_file(f->dir_fd, MACHINE_STATE_NAME, e)) < 0 || (f->memory_fd = make_file(f->dir_fd, MACHINE_MEMORY_NAME, e)) < 0) return -1;
    give[0] = fcntl(f->state_fd, F_DUPFD_CLOEXEC, 0);
    give[1] = fcntl(f->memory_fd, F_DUPFD_CLOEXEC, 0);
    if (give[0] >= 0 && give[1] >= 0) return 0;
    for (int i = 0; i < 2; i++) close_fd(&give[i]);
    return err_sys(e, errno, "files of an image");
}

static void save(struct freeze *f) {
    struct err e;
    int give[2] = {-1, -1};
    if (make_files(f, give, &e)) {
        fail(f, &e);
        end(f);
        return;
    }
    struct keeper_request q = {.op = KEEPER_MACHINE_SAVE, .capture = f->capture}, keep = {.op = KEEPER_LAYER_KEEP, .capture = f->capture};
    memcpy(keep.id, f->manifest.image_id, sizeof f->manifest.image_id);
    f->waiting = 2;
    keeper_call_fds(f->driver->keeper, &q, give, 2, on_saved, f);
    keeper_call(f->driver->keeper, &keep, on_layer, f);
}

static void on_captured(void *arg, struct err *e) {
    struct freeze *f = arg;
    struct err asked;
    f->captured = !e;
    f->frozen_us = (uint64_t)(monotonic_us() - f->stopped_us);
    if (!e && fault_error("freeze.captured", &asked)) e = &asked;
    if (e) {
        fail(f, e);
        end(f);
        return;
    }
    if (!f->hold) {
        f->stopped = false;
        go_on(f->cell, f->was_paused);
    }
    save(f);
}

static void on_held(void *arg, struct err *e, const struct machine_message *m) {
    struct freeze *f = arg;
    (void)m;
    if (e) {
        fail(f, e);
        err_wrap(&f->err, "its processes could not be stopped for the image");
        end(f);
        return;
    }
    struct keeper_request q = machine_request(f->cell, KEEPER_CAPTURE);
    q.capture = f->capture;
    q.flags = f->hold ? KEEPER_HOLD : 0;
    keeper_ask(f->driver->keeper, &q, on_captured, f);
}

static void stop(struct freeze *f) {
    f->stopped = true;
    f->stopped_us = monotonic_us();
    machine_hold(f->cell, on_held, f);
}

static void on_moving(void *arg, struct err *e) {
    struct freeze *f = arg;
    if (!e) {
        stop(f);
        return;
    }
    fail(f, e);
    end(f);
}

static void begin(void *arg) {
    struct freeze *f = arg;
    struct err e;
    if (!f->failed && (f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)) < 0) {
        err_sys(&e, errno, "open the directory of an image");
        fail(f, &e);
    }
    if (!f->failed && fault_error("freeze.capture", &e)) fail(f, &e);
    if (f->failed) end(f);
    else if (f->was_paused) machine_stand(f->cell, false, on_moving, f); /* its processes stay stopped: pause() held them */
    else stop(f);
}

void machine_freeze(struct driver_cell *c, const char *image_id, const char *dir, bool hold, driver_image_done done, void *arg) {
    struct microvm *d = c->driver;
    struct freeze *f = calloc(1, sizeof *f);
    struct err e;
    if (!f) abort();
    *f = (struct freeze){.driver = d, .cell = machine_cell_hold(c), .hold = hold, .was_paused = c->paused || c->maybe_paused, .done = done, .arg = arg,
                         .capture = microvm_capture_number(d), .dir_fd = -1, .state_fd = -1, .memory_fd = -1};
    (void)snprintf(f->dir, sizeof f->dir, "%s", dir);
    f->manifest.limits = c->limits;
    f->manifest.memory_bytes = d->config.memory_bytes;
    memcpy(f->manifest.template_id, c->template_id, sizeof c->template_id);
    (void)snprintf(f->manifest.image_id, sizeof f->manifest.image_id, "%.36s", image_id);
    if (!id_valid(image_id, "img_")) err_set(&e, ERR_INVALID, "not the id of an image"), fail(f, &e);
    microvm_later(d, begin, f);
}

/* ---- a held cell goes on ---- */

struct release {
    struct driver_cell *cell;
    driver_done done;
    void *arg;
};

static void release_over(struct release *x, struct err *e) {
    if (x->done) x->done(x->arg, e);
    machine_cell_release(x->cell);
    free(x);
}

static void on_dropped(void *arg, struct err *e) {
    struct release *x = arg;
    if (x->cell->listed) go_on(x->cell, x->cell->paused);
    release_over(x, e);
}

static void not_held(void *arg) { release_over(arg, NULL); }

void machine_release_held(struct driver_cell *c, driver_done done, void *arg) {
    struct keeper_request q = {.op = KEEPER_CAPTURE_DROP, .capture = c->held};
    struct release *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct release){machine_cell_hold(c), done, arg};
    if (!c->held) { /* by the last daemon, whose captures went with it; adopt.c lets it go on */
        microvm_later(c->driver, not_held, x);
        return;
    }
    c->held = 0;
    keeper_ask(c->driver->keeper, &q, on_dropped, x);
}
