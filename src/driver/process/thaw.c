/* thaw.c: a cell made from an image. Every check that can be made comes before the cell; then a copy of the warm interpreter stands in it for each
 * context, stopped, gets the image's memory, and only when all of them are whole do they run. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/process/image_fill.h"
#include "driver/process/image_manifest.h"
#include "driver/process/image_plan.h"
#include "driver/process/internal.h"
#include "driver/process/notes.h"
#include "driver/work.h"

struct thaw {
    struct process_driver *driver;
    char image_id[CELL_ID_MAX], dir[4096], cell_id[CELL_ID_MAX];
    bool limited;
    struct cell_limits limits;
    driver_copy_done done;
    void *arg;

    struct image_manifest manifest;
    struct slot_file file[DRIVER_SLOTS];
    struct base_view *view[DRIVER_SLOTS];
    struct driver_cell *cell;
    int guest_fd;
    struct context_ends ends[DRIVER_SLOTS];
    struct json_object *not_carried;
    /* the context at hand */
    int slot;
    int memory_fd, maps_fd;
    struct thaw_plan plan;
    size_t table;
    int table_fd;
    bool failed;
    struct err err;
    uint32_t ended; /* contexts that ended already, as bits */
    struct {
        enum context_fate fate;
        int code;
    } end[DRIVER_SLOTS];
};

static void end_context(struct thaw *t) {
    close_fd(&t->memory_fd);
    close_fd(&t->maps_fd);
    close_fd(&t->table_fd);
    thaw_plan_free(&t->plan);
}

static void thaw_free(struct thaw *t) {
    end_context(t);
    close_fd(&t->guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        slot_free(&t->file[i]);
        view_release(t->driver, t->view[i]);
        close_fd(&t->ends[i].control_fd);
        close_fd(&t->ends[i].stdout_fd);
        close_fd(&t->ends[i].stderr_fd);
    }
    image_manifest_free(&t->manifest);
    json_object_put(t->not_carried);
    free(t);
}

/* ---- the end ---- */

static void on_gone(void *arg, struct err *e) {
    struct thaw *t = arg;
    (void)e; /* it could not be made; that it could not be removed either stands in the keeper's log */
    t->done(t->arg, &t->err, NULL);
    thaw_free(t);
}

/* Nothing is left of a cell that could not be made whole. */
static void give_up(struct thaw *t, const struct err *e) {
    if (e != &t->err) t->err = *e;
    struct driver_cell *cell = t->cell;
    t->cell = NULL;
    if (cell) cell->making = NULL, cell->dying = true;
    if (cell && !t->driver->keeper_lost) {
        t->driver->base.ops->destroy(cell, on_gone, t);
        return;
    }
    if (cell) process_cell_free(cell);
    t->done(t->arg, &t->err, NULL);
    thaw_free(t);
}

static void succeed(struct thaw *t) {
    struct driver_copy copy = {.cell = t->cell, .guest_fd = t->guest_fd, .not_carried = t->not_carried};
    memcpy(copy.ends, t->ends, sizeof copy.ends);
    t->guest_fd = -1;
    t->cell->making = NULL;
    for (int i = 0; i < DRIVER_SLOTS; i++) t->ends[i] = (struct context_ends){-1, -1, -1};
    const uint32_t index = t->cell->index, serial = t->cell->serial;
    struct process_driver *d = t->driver;
    t->done(t->arg, NULL, &copy);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct driver_cell *cell = t->ended >> i & 1 ? process_cell_by(d, index, serial) : NULL; /* done() may have destroyed it */
        if (cell && !cell->dying) d->listener.on_context_exit(d->listener.arg, cell, i, t->end[i].fate, t->end[i].code);
    }
    thaw_free(t);
}

void process_thaw_exit(struct driver_cell *c, int slot, enum context_fate fate, int code) {
    struct thaw *t = c->making;
    if (slot < 0 || slot >= DRIVER_SLOTS) return;
    t->ended |= 1u << slot;
    t->end[slot].fate = fate;
    t->end[slot].code = code;
}

/* The cell died while it was being made (the keeper with it, or by itself). */
static bool cell_is_there(struct thaw *t) {
    if (!t->cell->gone) return true;
    struct err e;
    process_cell_free(t->cell);
    t->cell = NULL;
    err_set(&e, ERR_LOST, "the cell ended while it was made from its image");
    give_up(t, &e);
    return false;
}

/* ---- running ---- */

static int next_slot(const struct thaw *t, int from) {
    while (from < DRIVER_SLOTS && !t->manifest.slot[from].used) from++;
    return from;
}

static void run_next(struct thaw *t, int slot);

static void on_running(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct thaw *t = arg;
    if (!e && r->notes && n) notes_append(t->not_carried, fds[n - 1], r->notes);
    for (size_t i = 0; !e && i < n; i++) close(fds[i]);
    if (!cell_is_there(t)) return;
    if (e) give_up(t, e);
    else run_next(t, (int)r->slot + 1);
}

static void run_next(struct thaw *t, int slot) {
    struct err e;
    slot = next_slot(t, slot);
    if (slot == DRIVER_SLOTS) {
        if (fault_error("thaw.running", &e)) give_up(t, &e);
        else succeed(t);
        return;
    }
    if (fault_error("thaw.run", &e)) {
        give_up(t, &e);
        return;
    }
    struct keeper_request q = process_cell_request(t->cell, KEEPER_THAW_RUN);
    q.slot = (uint32_t)slot;
    keeper_call(t->driver->keeper, &q, on_running, t);
}

/* ---- one context: its memory ---- */

static void begin_context(struct thaw *t, int slot);
static void fill_thread(void *arg);
static void fill_done(void *arg);

static int table_file(const struct keeper_calls *k, struct err *e) {
    cleanup_close int fd = memfd_create("calls", MFD_CLOEXEC);
    if (fd < 0 || pwrite(fd, k, sizeof *k, 0) != (ssize_t)sizeof *k) return err_sys(e, errno, "memory file for calls");
    return steal_fd(&fd);
}

static void send_tables(struct thaw *t, struct call_tables *c, void (*then)(struct thaw *));

struct sending {
    struct thaw *thaw;
    struct call_tables *tables;
    void (*then)(struct thaw *);
};

static void on_calls(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct sending s = *(struct sending *)arg;
    struct thaw *t = s.thaw;
    struct err why;
    (void)r, (void)fds, (void)n;
    free(arg);
    if (!cell_is_there(t)) return;
    struct keeper_calls *k = &s.tables->table[t->table];
    int rc = pread(t->table_fd, k, sizeof *k, 0) == (ssize_t)sizeof *k ? thaw_calls_check(k, &why) : err_sys(&why, errno, "results of calls");
    close_fd(&t->table_fd);
    if (e || rc) {
        give_up(t, rc ? &why : e); /* the results say more than the keeper's sentence */
        return;
    }
    t->table++;
    send_tables(t, s.tables, s.then);
}

static void send_tables(struct thaw *t, struct call_tables *c, void (*then)(struct thaw *)) {
    struct err e;
    if (t->table == c->tables) {
        t->table = 0;
        then(t);
        return;
    }
    t->table_fd = table_file(&c->table[t->table], &e);
    int other = t->table_fd < 0 ? -1 : dup(t->table_fd);
    if (other < 0) {
        if (t->table_fd >= 0) err_sys(&e, errno, "memory file for calls");
        give_up(t, &e);
        return;
    }
    struct sending *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct sending){t, c, then};
    struct keeper_request q = process_cell_request(t->cell, KEEPER_THAW_CALLS);
    q.slot = (uint32_t)t->slot;
    keeper_call_fd(t->driver->keeper, &q, other, on_calls, s);
}

static void start_fill(struct thaw *t) { work_start(&t->driver->works, fill_thread, fill_done, t); }

static void context_filled(struct thaw *t) {
    end_context(t);
    begin_context(t, t->slot + 1);
}

static void plan_thread(void *arg) {
    struct thaw *t = arg;
    struct memory_map now = {0};
    const struct slot_file *f = &t->file[t->slot];
    uint8_t kernel[IMAGE_DIGEST];
    int rc = memory_map_read(&now, t->maps_fd, &t->err);
    if (!rc) rc = vdso_digest(t->memory_fd, &now, kernel, &t->err);
    if (!rc && (memcmp(kernel, f->index.vdso_digest, sizeof kernel) || now.vdso != f->index.map.vdso))
        rc = err_hint(&t->err, ERR_IMAGE, "resume it under the kernel it was made with", "this kernel's own code in a process is not the one the image was made with");
    if (!rc) rc = thaw_plan_make(&t->plan, &now, &f->index, t->view[t->slot], &t->err);
    memory_map_free(&now);
    t->failed = rc != 0;
}

static void plan_done(void *arg) {
    struct thaw *t = arg;
    if (t->driver->closing) thaw_free(t);
    else if (!cell_is_there(t)) return;
    else if (t->failed) give_up(t, &t->err);
    else send_tables(t, &t->plan.before, start_fill);
}

static void fill_thread(void *arg) {
    struct thaw *t = arg;
    struct memory_map now = {0};
    const struct slot_file *f = &t->file[t->slot];
    int rc = memory_map_read(&now, t->maps_fd, &t->err);
    if (!rc) rc = thaw_files_check(&now, &f->index, &t->err);
    if (!rc) rc = fault_error("thaw.memory", &t->err);
    if (!rc) rc = slot_fill(f, &t->plan, t->view[t->slot]->base, t->memory_fd, &t->err);
    if (!rc) rc = fault_error("thaw.memory.written", &t->err);
    memory_map_free(&now);
    t->failed = rc != 0;
}

static void fill_done(void *arg) {
    struct thaw *t = arg;
    if (t->driver->closing) thaw_free(t);
    else if (!cell_is_there(t)) return;
    else if (t->failed) give_up(t, &t->err);
    else send_tables(t, &t->plan.after, context_filled);
}

static void on_begun(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct thaw *t = arg;
    struct err odd;
    if (!e && n == 5) {
        t->ends[t->slot] = (struct context_ends){fds[0], fds[1], fds[2]};
        t->memory_fd = fds[3];
        t->maps_fd = fds[4];
    } else if (!e) {
        for (size_t i = 0; i < n; i++) close(fds[i]);
        err_set(e = &odd, ERR_INTERNAL, "the keeper sent %zu descriptors for a context", n);
    }
    if (!cell_is_there(t)) return;
    if (!e && r->zygote != t->view[t->slot]->zygote) { /* another one was warmed meanwhile: it is not known yet how it differs */
        bases_forget_zygote(t->driver, t->manifest.template_id, t->manifest.slot[t->slot].language);
        err_hint(e = &odd, ERR_UNAVAILABLE, "try again", "the template's interpreter was started again meanwhile");
    }
    if (e) give_up(t, e);
    else work_start(&t->driver->works, plan_thread, plan_done, t);
}

static int state_file(const struct buf *state, struct err *e) {
    cleanup_close int fd = memfd_create("state", MFD_CLOEXEC);
    if (fd < 0 || pwrite(fd, state->data, state->len, 0) != (ssize_t)state->len) return err_sys(e, errno, "memory file for a state");
    return steal_fd(&fd);
}

static void begin_context(struct thaw *t, int slot) {
    struct err e;
    t->slot = next_slot(t, slot);
    if (t->slot == DRIVER_SLOTS) {
        run_next(t, 0);
        return;
    }
    int fd = state_file(&t->file[t->slot].index.state, &e);
    if (fd < 0) {
        give_up(t, &e);
        return;
    }
    struct keeper_request q = process_cell_request(t->cell, KEEPER_THAW_BEGIN);
    q.slot = (uint32_t)t->slot;
    q.language = t->manifest.slot[t->slot].language;
    keeper_call_fd(t->driver->keeper, &q, fd, on_begun, t);
}

/* ---- the cell ---- */

static void on_made(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct thaw *t = arg;
    struct err asked;
    if (e) {
        process_cell_free(t->cell); /* the keeper has none */
        t->cell = NULL;
        if (e->sys_errno == ENOENT) e->code = ERR_IMAGE, e->hint = "the image cannot be used; an older one of the same cell may be whole";
        give_up(t, e);
        return;
    }
    t->cell->index = r->cell;
    t->cell->serial = r->serial;
    t->guest_fd = n ? fds[0] : -1;
    for (size_t i = 1; i < n; i++) close(fds[i]);
    if (!cell_is_there(t)) return;
    if (fault_error("thaw.cell.made", &asked)) give_up(t, &asked);
    else begin_context(t, 0);
}

static void make_cell(struct thaw *t) {
    struct process_driver *d = t->driver;
    const struct cell_limits *l = t->limited ? &t->limits : &t->manifest.limits;
    struct err e;
    if (fault_error("thaw.cell", &e)) {
        give_up(t, &e);
        return;
    }
    t->cell = process_cell_new(d, t->manifest.template_id, l);
    t->cell->making = t;
    if (t->cell_id[0]) memcpy(t->cell->id, t->cell_id, sizeof t->cell_id);
    struct keeper_request q = process_cell_request(t->cell, KEEPER_CELL_MAKE);
    q.limits = keeper_limits_of(l);
    memcpy(q.layer, t->image_id, sizeof t->image_id);
    keeper_call(d->keeper, &q, on_made, t);
}

/* ---- before the cell ---- */

static void need_views(struct thaw *t, int slot);

static void on_view(void *arg, struct err *e, struct base_view *v) {
    struct thaw *t = arg;
    if (e) {
        give_up(t, e);
        return;
    }
    t->view[t->slot] = v;
    need_views(t, t->slot + 1);
}

static void need_views(struct thaw *t, int slot) {
    t->slot = next_slot(t, slot);
    if (t->slot == DRIVER_SLOTS) make_cell(t);
    else base_need(t->driver, t->manifest.template_id, t->manifest.slot[t->slot].language, t->manifest.slot[t->slot].base, true, on_view, t);
}

static int open_image(struct thaw *t, struct err *e) {
    uint8_t key[IMAGE_KEY];
    cleanup_close int dir = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (dir < 0 && errno == ENOENT) return err_hint(e, ERR_IMAGE, "the image cannot be used; an older one of the same cell may be whole", "the files of the image are missing");
    if (dir < 0) return err_sys(e, errno, "open the directory of an image");
    if (image_key(t->driver->key_file, key, e) || image_manifest_read(&t->manifest, key, dir, e) || image_manifest_fits(&t->manifest, e)) return -1;
    if (strcmp(t->manifest.image_id, t->image_id)) return err_hint(e, ERR_IMAGE, "the files of images were exchanged", "the files are those of another image");
    for (int i = next_slot(t, 0); i < DRIVER_SLOTS; i = next_slot(t, i + 1))
        if (slot_open(&t->file[i], dir, i, &t->manifest.slot[i], e)) return -1;
    return 0;
}

static void open_thread(void *arg) {
    struct thaw *t = arg;
    t->failed = open_image(t, &t->err) != 0;
}

static void open_done(void *arg) {
    struct thaw *t = arg;
    if (t->driver->closing) {
        thaw_free(t);
        return;
    }
    if (t->failed) {
        give_up(t, &t->err);
        return;
    }
    json_object_put(t->not_carried);
    t->not_carried = json_object_get(t->manifest.not_carried);
    need_views(t, 0);
}

static void refuse_thread(void *arg) { (void)arg; }
static void refuse_done(void *arg) {
    struct thaw *t = arg;
    if (t->driver->closing) thaw_free(t);
    else give_up(t, &t->err);
}

void process_thaw(struct driver *base, const char *image_id, const char *dir, const char *cell_id, const struct cell_limits *limits, driver_copy_done done, void *arg) {
    struct process_driver *d = (struct process_driver *)base;
    struct thaw *t = calloc(1, sizeof *t);
    if (!t) abort();
    *t = (struct thaw){.driver = d, .limited = limits != NULL, .done = done, .arg = arg, .guest_fd = -1, .memory_fd = -1, .maps_fd = -1, .table_fd = -1,
                       .not_carried = json_object_new_array()};
    for (int i = 0; i < DRIVER_SLOTS; i++) t->ends[i] = (struct context_ends){-1, -1, -1}, t->file[i].fd = -1;
    (void)snprintf(t->image_id, sizeof t->image_id, "%s", image_id);
    (void)snprintf(t->dir, sizeof t->dir, "%s", dir);
    if (cell_id) (void)snprintf(t->cell_id, sizeof t->cell_id, "%s", cell_id);
    if (limits) t->limits = *limits;
    const bool named = id_valid(image_id, "img_") && (!cell_id || id_valid(cell_id, "sbx_"));
    if (named && d->bases) {
        work_start(&d->works, open_thread, open_done, t);
        return;
    }
    if (!d->bases) err_set(&t->err, ERR_UNSUPPORTED, "this daemon has no directory for images");
    else err_set(&t->err, ERR_INVALID, "not the id of an image or a cell");
    work_start(&d->works, refuse_thread, refuse_done, t); /* the callback does not come from inside this call */
}
