/* thaw.c: a machine from an image. Every check that can be made here comes first; the keeper's monitor then makes its own. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "driver/microvm/internal.h"
#include "driver/microvm/machine_manifest.h"

struct thaw {
    struct microvm *driver;
    char image_id[CELL_ID_MAX], dir[4096], cell_id[CELL_ID_MAX];
    bool limited;
    struct cell_limits limits;
    driver_copy_done done;
    void *arg;
    struct machine_manifest manifest;
    struct driver_cell *cell;
    int fd[2]; /* state, memory */
    bool failed;
    struct err err;
};

static void thaw_free(struct thaw *t) {
    close_fd(&t->fd[0]);
    close_fd(&t->fd[1]);
    free(t);
}

static void give_up(struct thaw *t, const struct err *e) {
    if (e != &t->err) t->err = *e;
    t->done(t->arg, &t->err, NULL);
    thaw_free(t);
}

static void on_become(void *arg, struct err *e, struct driver_cell *c) {
    struct thaw *t = arg;
    if (e) {
        give_up(t, e);
        return;
    }
    struct driver_copy copy = {.cell = c, .not_carried = json_object_new_array()};
    machine_hand_out(c, &copy.guest_fd, copy.ends);
    machine_cell_hold(c);
    t->done(t->arg, NULL, &copy);
    machine_told(c);
    machine_cell_release(c);
    json_object_put(copy.not_carried);
    thaw_free(t);
}

static void on_restored(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct thaw *t = arg;
    struct driver_cell *c = t->cell;
    struct err odd;
    if (e) {
        machine_cell_end(c); /* the keeper has none */
        if (e->sys_errno == ENOENT) e->code = ERR_IMAGE;
        if (!strcmp(e->code, ERR_IMAGE) && !e->hint) e->hint = "the image cannot be used; an older one of the same cell may be whole";
        give_up(t, e);
        return;
    }
    c->index = r->cell;
    c->serial = r->serial;
    const bool whole = machine_take_fds(c, r->slots, fds, n);
    if (whole && !fault_error("thaw.cell.made", &odd)) {
        machine_become(c, on_become, t);
        return;
    }
    if (!whole) err_set(&odd, ERR_INTERNAL, "the keeper sent %zu descriptors for a restored machine", n);
    machine_destroy(c, NULL, NULL);
    give_up(t, &odd);
}

static void restore(struct thaw *t) {
    struct microvm *d = t->driver;
    const struct cell_limits *l = t->limited ? &t->limits : &t->manifest.limits;
    struct driver_cell *c = t->cell = machine_cell_new(d, t->manifest.template_id, l);
    if (t->cell_id[0]) memcpy(c->id, t->cell_id, sizeof c->id);
    memcpy(c->base, t->manifest.base, sizeof c->base);
    struct keeper_request q = machine_request(c, KEEPER_MACHINE_RESTORE);
    q.limits = keeper_limits_of(l);
    q.vcpus = t->manifest.vcpus;
    memcpy(q.layer, t->manifest.base, sizeof t->manifest.base);
    memcpy(q.files, t->image_id, sizeof t->image_id);
    const int give[2] = {steal_fd(&t->fd[0]), steal_fd(&t->fd[1])};
    keeper_call_fds(d->keeper, &q, give, 2, on_restored, t);
}

/* ---- before the cell ---- */

static int open_file(int dir, const char *name, const struct machine_file *said, struct err *e) {
    cleanup_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? sealed_damaged(e, "a file of it is missing") : err_sys(e, errno, "open a file of an image");
    return machine_file_check(fd, said, name, e) ? -1 : steal_fd(&fd);
}

static int open_image(struct thaw *t, struct err *e) {
    uint8_t key[IMAGE_KEY];
    struct machine_manifest *m = &t->manifest;
    cleanup_close int dir = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0 && errno == ENOENT) return err_hint(e, ERR_IMAGE, "the image cannot be used; an older one of the same cell may be whole", "the files of the image are missing");
    if (dir < 0) return err_sys(e, errno, "open the directory of an image");
    if (image_key(t->driver->config.key_file, key, e) || machine_manifest_read(m, key, dir, e)) return -1;
    if (strcmp(m->image_id, t->image_id)) return err_hint(e, ERR_IMAGE, "the files of images were exchanged", "the files are those of another image");
    const struct cell_limits *l = t->limited ? &t->limits : &m->limits;
    if (l->memory_bytes > m->memory_bytes)
        return err_hint(e, ERR_INVALID, "ask for less: a machine keeps the memory it was booted with", "limits.memory_mb is %llu, and the machine of this image has %llu MB",
                        (unsigned long long)(l->memory_bytes >> 20), (unsigned long long)(m->memory_bytes >> 20));
    if ((t->fd[0] = open_file(dir, MACHINE_STATE_NAME, &m->state, e)) < 0) return -1;
    return (t->fd[1] = open_file(dir, MACHINE_MEMORY_NAME, &m->memory, e)) < 0 ? -1 : fault_error("thaw.cell", e);
}

static void open_thread(void *arg) {
    struct thaw *t = arg;
    t->failed = open_image(t, &t->err) != 0;
}

static void open_done(void *arg) {
    struct thaw *t = arg;
    if (t->driver->closing) thaw_free(t);
    else if (t->failed) give_up(t, &t->err);
    else restore(t);
}

static void refuse(void *arg) {
    struct thaw *t = arg;
    err_set(&t->err, ERR_INVALID, "not the id of an image or a cell");
    give_up(t, &t->err);
}

void machine_thaw(struct driver *base, const char *image_id, const char *dir, const char *cell_id, const struct cell_limits *limits, driver_copy_done done, void *arg) {
    struct microvm *d = (struct microvm *)base;
    struct thaw *t = calloc(1, sizeof *t);
    if (!t) abort();
    *t = (struct thaw){.driver = d, .limited = limits != NULL, .done = done, .arg = arg, .fd = {-1, -1}};
    (void)snprintf(t->image_id, sizeof t->image_id, "%.36s", image_id);
    (void)snprintf(t->dir, sizeof t->dir, "%s", dir);
    if (cell_id) (void)snprintf(t->cell_id, sizeof t->cell_id, "%.36s", cell_id);
    if (limits) t->limits = *limits;
    if (id_valid(image_id, "img_") && (!cell_id || id_valid(cell_id, "sbx_"))) work_start(&d->works, open_thread, open_done, t);
    else microvm_later(d, refuse, t);
}
