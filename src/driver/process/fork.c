/* fork.c: copies of a living cell. One capture, and a cell made of it for each child; the keeper takes the requests in order, so the first ones go
 * out together, without waiting for the capture's answer. */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/id.h"
#include "base/log.h"
#include "driver/process/internal.h"
#include "driver/process/notes.h"

/* Requests for children that are with the keeper at once. More would not make it faster, it does one after the other; but whatever else is asked of it
 * meanwhile (an interrupt, say) stands behind all of them. */
#define MAKES_AHEAD 4

struct fork {
    struct process_driver *driver;
    struct cell_limits limits;
    char template_id[TEMPLATE_ID_HEX + 1];
    uint32_t capture;
    unsigned n, asked, answered;
    bool captured;  /* the capture was answered */
    bool failed;    /* and it failed: why is in err */
    struct err err;
    uint64_t frozen_us;
    struct json_object *not_carried; /* by any child; NULL: nothing */
    driver_child_done each;
    driver_fork_done done;
    void *arg;
};

struct child {
    struct fork *fork;
    unsigned index;
    char id[CELL_ID_MAX];
};

uint32_t process_capture_number(struct process_driver *d) {
    if (!++d->last_capture) d->last_capture = 1;
    return d->last_capture;
}

void process_take_streams(uint32_t slots, const int *fds, size_t n, int *guest_fd, struct context_ends ends[DRIVER_SLOTS]) {
    size_t at = 0;
    *guest_fd = n ? fds[at++] : -1;
    for (int slot = 0; slot < DRIVER_SLOTS; slot++) {
        ends[slot] = (struct context_ends){-1, -1, -1};
        if (!(slots >> slot & 1) || at + 3 > n) continue;
        ends[slot] = (struct context_ends){fds[at], fds[at + 1], fds[at + 2]};
        at += 3;
    }
}

static void fork_over(struct fork *f) {
    if (!f->captured || f->answered < f->n) return;
    f->done(f->arg, f->failed ? &f->err : NULL, f->frozen_us);
    json_object_put(f->not_carried);
    free(f);
}

/* ---- children ---- */

static void ask(struct fork *f);

/* What this child lacks besides what all of them lack. New reference, NULL when it is the same list. */
static struct json_object *own_notes(struct fork *f, const struct keeper_reply *r, int fd) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; f->not_carried && i < json_object_array_length(f->not_carried); i++)
        json_object_array_add(list, json_object_get(json_object_array_get_idx(f->not_carried, i)));
    notes_append(list, fd, r->notes);
    return list;
}

static void hand_out(struct child *c, const struct keeper_reply *r, const int *fds, size_t n) {
    struct fork *f = c->fork;
    struct json_object *own = NULL;
    if (r->notes && n) {
        own = own_notes(f, r, fds[--n]);
        close(fds[n]);
    }
    struct driver_cell *cell = process_cell_new(f->driver, f->template_id, &f->limits);
    cell->index = r->cell;
    cell->serial = r->serial;
    memcpy(cell->id, c->id, sizeof cell->id);
    struct driver_copy copy = {.cell = cell, .not_carried = own ? own : f->not_carried};
    process_take_streams(r->slots, fds, n, &copy.guest_fd, copy.ends);
    f->driver->copies++;
    f->each(f->arg, c->index, NULL, &copy);
    json_object_put(own);
}

static void on_child(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct child *c = arg;
    struct fork *f = c->fork;
    f->answered++;
    if (!f->failed && e) f->each(f->arg, c->index, e, NULL);
    if (!e) hand_out(c, r, fds, n);
    free(c);
    ask(f);
    fork_over(f);
}

static void ask(struct fork *f) {
    while (!f->failed && f->asked < f->n && f->asked - f->answered < MAKES_AHEAD) {
        struct child *c = calloc(1, sizeof *c);
        if (!c) abort();
        *c = (struct child){.fork = f, .index = f->asked++};
        id_make(c->id, "sbx_");
        struct keeper_request q = {.op = KEEPER_CAPTURE_MAKE, .capture = f->capture, .flags = f->asked == f->n ? KEEPER_LAST : 0};
        memcpy(q.id, c->id, sizeof c->id);
        keeper_call(f->driver->keeper, &q, on_child, c);
    }
}

/* ---- the capture ---- */

static void on_capture(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct fork *f = arg;
    f->captured = true;
    if (e) {
        f->failed = true;
        f->err = *e;
        f->n = f->asked; /* those that are asked for already fail too: nobody hears of them */
        fork_over(f);
        return;
    }
    f->frozen_us = r->frozen_us;
    if (r->notes && n) {
        f->not_carried = json_object_new_array();
        notes_append(f->not_carried, fds[n - 1], r->notes);
    }
    for (size_t i = 0; i < n; i++) close(fds[i]);
}

void process_fork(struct driver_cell *c, unsigned n, driver_child_done each, driver_fork_done done, void *arg) {
    struct fork *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct fork){.driver = c->driver, .limits = c->limits, .n = n, .each = each, .done = done, .arg = arg};
    memcpy(f->template_id, c->template_id, sizeof f->template_id);
    f->capture = process_capture_number(c->driver);
    c->driver->forks++;
    struct keeper_request q = process_cell_request(c, KEEPER_CAPTURE);
    q.capture = f->capture;
    keeper_call(c->driver->keeper, &q, on_capture, f);
    ask(f);
}

/* ---- a cell takes another's name ---- */

struct rename {
    struct process_driver *driver;
    uint32_t index, serial; /* the cell may be gone before the answer comes */
    char id[CELL_ID_MAX];
    driver_done done;
    void *arg;
};

static void on_renamed(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct rename *x = arg;
    (void)r, (void)fds, (void)n;
    struct driver_cell *c = process_cell_by(x->driver, x->index, x->serial);
    struct driver_cell *old = e ? NULL : process_cell_named(x->driver, x->id);
    if (old && old != c && !old->dying) process_cell_free(old); /* dying: the answer to its destroy() frees it */
    if (c && !e) memcpy(c->id, x->id, sizeof c->id);
    x->done(x->arg, e);
    free(x);
}

void process_rename(struct driver_cell *c, const char *id, driver_done done, void *arg) {
    struct rename *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct rename){.driver = c->driver, .index = c->index, .serial = c->serial, .done = done, .arg = arg};
    (void)snprintf(x->id, sizeof x->id, "%s", id);
    struct keeper_request q = process_cell_request(c, KEEPER_CELL_RENAME);
    memset(q.id, 0, sizeof q.id);
    memcpy(q.id, x->id, sizeof x->id);
    keeper_call(c->driver->keeper, &q, on_renamed, x);
}

/* The keeper counts its cells and never gives a number twice. */
uint64_t process_incarnation(const struct driver_cell *c) { return ((uint64_t)c->index + 1) << 32 | c->serial; }
