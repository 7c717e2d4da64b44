/* adopt.c: machines that outlived the last daemon. The keeper has copies of our ends of their connections, so nothing that they sent is lost but what the
 * last daemon had read already. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "driver/microvm/internal.h"

void machine_adopt(struct driver *base, driver_done done, void *arg) {
    struct keeper_request q = {.op = KEEPER_LIST};
    keeper_ask(((struct microvm *)base)->keeper, &q, done, arg); /* the cells come as events before the answer */
}

/* What ended while nobody looked; and a HOLD of the last daemon is taken back. One that is paused answers when it goes on. */
static void on_reset(void *arg, struct err *e, const struct machine_message *m) {
    struct driver_cell *c = arg;
    if (!c->listed || c->dying) return;
    if (e) {
        if (!c->maybe_paused || e->sys_errno != ETIMEDOUT) log_warn("%s: taken over, and it does not answer: %s", c->id, e->text);
        return;
    }
    c->maybe_paused = false;
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->slot[i].pump && !c->slot[i].exited && !(m->slots >> i & 1)) machine_context_exit(c, i, FATE_KILLED, 9);
    if (!c->holds) machine_go(c);
}

void machine_found(struct microvm *d, const struct keeper_reply *r, const int *fds, size_t n) {
    struct context_ends ends[DRIVER_SLOTS];
    int guest_fd;
    struct err e;
    struct driver_cell *c = machine_cell_by(d, r->cell, r->serial);
    if (c) { /* asked for twice */
        for (size_t i = 0; i < n; i++) close(fds[i]);
        return;
    }
    c = machine_cell_new(d, r->template_id, &d->config.limits);
    c->limits_unknown = true;
    c->index = r->cell;
    c->serial = r->serial;
    (void)snprintf(c->id, sizeof c->id, "%.36s", r->id);
    (void)snprintf(c->base, sizeof c->base, "%.36s", r->layer);
    if (!machine_take_fds(c, r->slots, fds, n)) {
        log_warn("%s: found without all its connections: destroyed", c->id); /* it was being made when the last daemon ended */
        machine_destroy(c, NULL, NULL);
        return;
    }
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (c->slot[i].conn >= 0 && machine_open_slot(c, i, steal_fd(&c->slot[i].conn), true, &c->ends[i], &e)) log_error("%s: %s", c->id, e.text);
    machine_hand_out(c, &guest_fd, ends);
    c->maybe_paused = true;
    machine_cell_hold(c);
    d->listener.on_adopt(d->listener.arg, c, c->template_id, guest_fd, ends);
    if (c->listed && !c->dying) {
        struct machine_message m = {.type = MACHINE_RESET};
        machine_ask(c, &m, RESET_MS, on_reset, c);
    }
    machine_cell_release(c);
}
