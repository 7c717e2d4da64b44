/* arrive.c: from the keeper's answer to a cell with an identity and streams of its own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/microvm/internal.h"

/* ---- contexts' ends ---- */

/* A context's exit is told when everything that it wrote was handed over. */
static void tell_exit(struct slot *s) {
    struct driver_cell *c = s->cell;
    struct microvm *d = c->driver;
    if (!s->exited || s->pump || !c->out || c->dying) return;
    s->exited = false;
    d->listener.on_context_exit(d->listener.arg, c, (int)(s - c->slot), s->fate, s->code);
}

static void on_pump_end(void *arg, const char *why) {
    struct slot *s = arg;
    context_pump_close(s->pump);
    s->pump = NULL;
    if (why) log_warn("%s: context in slot %d: %s", s->cell->id, (int)(s - s->cell->slot), why);
    tell_exit(s);
}

void machine_context_exit(struct driver_cell *c, int slot, enum context_fate fate, int code) {
    struct slot *s = &c->slot[slot];
    s->exited = true;
    s->fate = fate;
    s->code = code;
    if (s->pump) context_pump_last(s->pump);
    else tell_exit(s);
}

int machine_open_slot(struct driver_cell *c, int slot, int conn, bool carried, struct context_ends *ends, struct err *e) {
    struct slot *s = &c->slot[slot];
    if (s->pump) context_pump_close(s->pump);
    s->exited = false;
    s->pump = context_pump_open(c->driver->loop, conn, carried, &(struct context_pump_events){on_pump_end, s}, ends, e);
    return s->pump ? 0 : -1;
}

/* ---- the control connection ---- */

static void on_context_exit(void *arg, int slot, enum context_fate fate, int code) { machine_context_exit(arg, slot, fate, code); }

/* Without it nothing can be asked of the machine any more. That it hung up has a reason that the keeper tells, if it is the machine's end. */
static void on_link_end(void *arg, const char *why) {
    struct driver_cell *c = arg;
    if (c->dying || c->gone) return;
    if (why) log_warn("%s: the guest broke the protocol: %s", c->id, why);
    if (!c->out) { /* whoever makes it is told by what it asked; in the pool nobody asks */
        if (c->pool) machine_destroy(c, NULL, NULL);
        return;
    }
    if (why) { /* it lies: whatever it is, it is not to be talked to */
        struct keeper_request q = machine_request(c, KEEPER_CELL_DESTROY);
        keeper_ask(c->driver->keeper, &q, NULL, NULL);
        machine_gone(c, CELL_FATE_LOST);
        return;
    }
    machine_ended_soon(c);
}

bool machine_take_fds(struct driver_cell *c, uint32_t slots, const int *fds, size_t n) {
    size_t at = 2;
    if (n != 2u + (size_t)__builtin_popcount(slots)) {
        for (size_t i = 0; i < n; i++) close(fds[i]);
        return false;
    }
    c->link = machine_link_open(c->driver->loop, fds[0], &(struct machine_link_events){NULL, on_context_exit, on_link_end, c});
    c->guest_fd = fds[1];
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (slots >> i & 1) c->slot[i].conn = fds[at++];
    return true;
}

/* ---- identity ---- */

struct become {
    struct driver_cell *cell;
    void (*done)(void *arg, struct err *, struct driver_cell *);
    void *arg;
    struct err err;
};

static void on_away(void *arg, struct err *e) {
    struct become *b = arg;
    (void)e; /* that it could not be removed either stands in the keeper's log */
    b->done(b->arg, &b->err, NULL);
    free(b);
}

static int open_slots(struct driver_cell *c, uint32_t living, struct err *e) {
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        struct slot *s = &c->slot[i];
        if (s->conn < 0) continue;
        if (living >> i & 1) {
            if (machine_open_slot(c, i, steal_fd(&s->conn), true, &c->ends[i], e)) return -1;
        } else {
            close_fd(&s->conn);
        }
    }
    return 0;
}

/* What comes now is for this machine, not for the one that it was copied from. */
static int mark_fresh(const struct driver_cell *c, struct err *e) {
    const uint8_t mark = MACHINE_PIECE_FRESH;
    for (int i = -1; i < DRIVER_SLOTS; i++) {
        const int fd = i < 0 ? c->guest_fd : c->slot[i].conn;
        if (fd >= 0 && send(fd, &mark, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1 && errno != EPIPE) return err_sys(e, errno, "first word to a copied machine");
    }
    return 0;
}

static void on_identity(void *arg, struct err *e, const struct machine_message *m) {
    struct become *b = arg;
    struct driver_cell *c = b->cell;
    if (e) b->err = *e;
    if (!e && !c->listed) err_set(&b->err, ERR_LOST, "the machine ended while it was made");
    if (e || !c->listed || mark_fresh(c, &b->err) || open_slots(c, m->slots, &b->err)) {
        if (c->listed) machine_destroy(c, on_away, b);
        else on_away(b, NULL);
        return;
    }
    for (int i = 0; i < DRIVER_SLOTS; i++) /* a context whose stream nobody has can only be ended */
        if (m->slots >> i & 1 && c->ends[i].control_fd < 0) machine_context_signal(c, i, 9);
    b->done(b->arg, NULL, c);
    free(b);
}

static void put_identity(struct machine_message *m, const struct driver_cell *c) {
    struct machine_identity *id = &m->identity;
    memcpy(id->id, c->id, sizeof c->id);
    random_fill(id->entropy, sizeof id->entropy);
    id->wall_ns = (uint64_t)clock_ns(CLOCK_REALTIME);
    if (c->limits_unknown) return; /* zeros: those of its original */
    id->limits = (struct machine_limits){.memory_bytes = c->limits.memory_bytes, .disk_bytes = c->limits.disk_bytes, .cpu_millis = c->limits.cpu_millis,
                                         .pids_max = c->limits.pids_max, .open_files = c->limits.open_files};
}

void machine_become(struct driver_cell *c, void (*done)(void *, struct err *, struct driver_cell *), void *arg) {
    struct machine_message m = {.type = MACHINE_IDENTITY};
    struct become *b = calloc(1, sizeof *b);
    if (!b) abort();
    *b = (struct become){.cell = c, .done = done, .arg = arg};
    put_identity(&m, c);
    machine_ask(c, &m, BECOME_MS, on_identity, b);
    memset(&m, 0, sizeof m);
}

/* ---- handing out ---- */

void machine_hand_out(struct driver_cell *c, int *guest_fd, struct context_ends ends[DRIVER_SLOTS]) {
    *guest_fd = steal_fd(&c->guest_fd);
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        ends[i] = c->ends[i];
        c->ends[i] = (struct context_ends){-1, -1, -1};
    }
    machine_pool_forget(c);
    c->out = true;
}

void machine_told(struct driver_cell *c) {
    machine_cell_hold(c); /* the domain may let it go while it hears */
    for (int i = 0; i < DRIVER_SLOTS && c->listed; i++) tell_exit(&c->slot[i]);
    machine_cell_release(c);
}
