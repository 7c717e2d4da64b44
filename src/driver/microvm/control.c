/* control.c: contexts, limits, pause, numbers: what is asked of a living machine. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "driver/microvm/internal.h"

/* ---- contexts ---- */

#define CONNECT_AGAIN_MS 10 /* the connection is on its way into the guest while the request for the context is too */

struct context_call {
    struct driver_cell *cell;
    int slot;
    uint32_t language;
    int64_t deadline_ms;
    struct context_ends ends;
    uv_timer_t timer;
    driver_context_done done;
    void *arg;
    bool failed;
    struct err err;
};

static void on_call_closed(uv_handle_t *h) {
    struct context_call *x = h->data;
    machine_cell_release(x->cell);
    free(x);
}

static void close_ends(const struct context_ends *e) { close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd); }

static void context_over(struct context_call *x, struct err *e) {
    struct slot *s = &x->cell->slot[x->slot];
    if (e && x->ends.control_fd >= 0) {
        close_ends(&x->ends);
        if (s->pump) context_pump_close(s->pump);
        s->pump = NULL;
    }
    x->done(x->arg, e, e ? NULL : &x->ends);
    uv_close((uv_handle_t *)&x->timer, on_call_closed);
}

static void ask_context(uv_timer_t *t);

static void on_context(void *arg, struct err *e, const struct machine_message *m) {
    struct context_call *x = arg;
    (void)m;
    if (e && e->sys_errno == EAGAIN && monotonic_ms() < x->deadline_ms) uv_timer_start(&x->timer, ask_context, CONNECT_AGAIN_MS, 0);
    else context_over(x, e);
}

static void ask_context(uv_timer_t *t) {
    struct context_call *x = t->data;
    struct machine_message m = {.type = MACHINE_CONTEXT, .slot = (uint32_t)x->slot, .language = x->language};
    machine_ask(x->cell, &m, ANSWER_MS, on_context, x);
}

static void on_connected(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct context_call *x = arg;
    struct err odd;
    (void)r;
    if (!e && (n != 1 || !x->cell->listed)) {
        for (size_t i = 0; i < n; i++) close(fds[i]);
        err_set(&odd, ERR_LOST, "the machine gave no connection for a context");
        e = &odd;
    }
    if (!e && machine_open_slot(x->cell, x->slot, fds[0], false, &x->ends, &odd)) e = &odd;
    if (e) context_over(x, e);
    else ask_context(&x->timer);
}

void machine_context_make(struct driver_cell *c, int slot, const char *language, driver_context_done done, void *arg) {
    struct keeper_request q = machine_request(c, KEEPER_MACHINE_CONNECT);
    struct context_call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct context_call){.cell = machine_cell_hold(c), .slot = slot, .language = !strcmp(language, "shell") ? KEEPER_SHELL : KEEPER_PYTHON,
                               .deadline_ms = monotonic_ms() + ANSWER_MS, .ends = {-1, -1, -1}, .done = done, .arg = arg};
    uv_timer_init(c->driver->loop, &x->timer);
    x->timer.data = x;
    q.slot = (uint32_t)slot;
    keeper_call(c->driver->keeper, &q, on_connected, x);
}

static void on_signalled(void *arg, struct err *e, const struct machine_message *m) {
    const struct driver_cell *c = arg;
    (void)m;
    if (e && e->sys_errno != ESRCH && c->listed && !c->dying) log_warn("%s: a signal to a context: %s", c->id, e->text);
}

void machine_context_signal(struct driver_cell *c, int slot, int signo) {
    struct machine_message m = {.type = MACHINE_SIGNAL, .slot = (uint32_t)slot, .signo = signo};
    machine_ask(c, &m, ANSWER_MS, on_signalled, c);
}

/* ---- limits ---- */

int machine_limits_check(const struct microvm *d, const struct cell_limits *l, struct err *e) {
    if (l->memory_bytes > d->config.memory_bytes)
        return err_hint(e, ERR_INVALID, "ask for less, or let the operator raise microvm-memory-mb", "limits.memory_mb is %llu, and the machines of this daemon have %llu MB",
                        (unsigned long long)(l->memory_bytes >> 20), (unsigned long long)(d->config.memory_bytes >> 20));
    if (l->cpu_millis > d->config.vcpus * 1000)
        return err_hint(e, ERR_INVALID, "ask for less, or let the operator raise microvm-vcpus", "limits.cpus is %g, and the machines of this daemon have %u", l->cpu_millis / 1000.0,
                        d->config.vcpus);
    return 0;
}

struct limits_call {
    struct driver_cell *cell;
    struct cell_limits limits;
    driver_done done;
    void *arg;
    struct err err;
};

static void limits_over(struct limits_call *x, struct err *e) {
    if (!e) x->cell->limits = x->limits, x->cell->limits_unknown = false;
    if (x->done) x->done(x->arg, e);
    machine_cell_release(x->cell);
    free(x);
}

static void on_limits_inside(void *arg, struct err *e, const struct machine_message *m) {
    (void)m;
    limits_over(arg, e);
}

static void on_limits_outside(void *arg, struct err *e) {
    struct limits_call *x = arg;
    const struct cell_limits *l = &x->limits;
    struct machine_message m = {.type = MACHINE_LIMITS,
                                .identity.limits = {.memory_bytes = l->memory_bytes, .disk_bytes = l->disk_bytes, .cpu_millis = l->cpu_millis, .pids_max = l->pids_max,
                                                    .open_files = l->open_files}};
    if (e) limits_over(x, e);
    else machine_ask(x->cell, &m, ANSWER_MS, on_limits_inside, x);
}

static void refuse_limits(void *arg) {
    struct limits_call *x = arg;
    limits_over(x, &x->err);
}

void machine_set_limits(struct driver_cell *c, const struct cell_limits *l, driver_done done, void *arg) {
    struct limits_call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct limits_call){.cell = machine_cell_hold(c), .limits = *l, .done = done, .arg = arg};
    if (machine_limits_check(c->driver, l, &x->err)) {
        microvm_later(c->driver, refuse_limits, x);
        return;
    }
    struct keeper_request q = machine_request(c, KEEPER_CELL_LIMITS);
    q.limits = keeper_limits_of(l);
    keeper_ask(c->driver->keeper, &q, on_limits_outside, x);
}

/* ---- pause: its processes stop inside, then the machine itself. So it can be copied while it is paused: the machine goes on, they do not. ---- */

struct pause_call {
    struct driver_cell *cell;
    driver_done done;
    void *arg;
};

static void pause_over(struct pause_call *x, struct err *e) {
    x->done(x->arg, e);
    machine_cell_release(x->cell);
    free(x);
}

static struct pause_call *pause_call(struct driver_cell *c, driver_done done, void *arg) {
    struct pause_call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct pause_call){machine_cell_hold(c), done, arg};
    return x;
}

void machine_stand(struct driver_cell *c, bool still, driver_done done, void *arg) {
    struct keeper_request q = machine_request(c, KEEPER_CELL_FREEZE);
    q.on = still;
    if (c->link) machine_link_hold(c->link, still);
    keeper_ask(c->driver->keeper, &q, done, arg);
}

static void on_stopped(void *arg, struct err *e) {
    struct pause_call *x = arg;
    struct driver_cell *c = x->cell;
    if (e && c->listed) {
        c->paused = false;
        if (c->link) machine_link_hold(c->link, false);
        machine_go(c);
    }
    pause_over(x, e);
}

static void on_quiet(void *arg, struct err *e, const struct machine_message *m) {
    struct pause_call *x = arg;
    (void)m;
    if (e && x->cell->listed) log_warn("%s: its processes did not stop (%s); the whole machine does", x->cell->id, e->text);
    machine_stand(x->cell, true, on_stopped, x);
}

void machine_pause(struct driver_cell *c, driver_done done, void *arg) {
    c->paused = true;
    machine_hold(c, on_quiet, pause_call(c, done, arg));
}

static void on_running(void *arg, struct err *e) {
    struct pause_call *x = arg;
    struct driver_cell *c = x->cell;
    if (!e && c->listed) {
        c->paused = false;
        machine_go(c);
    }
    pause_over(x, e);
}

void machine_resume(struct driver_cell *c, driver_done done, void *arg) { machine_stand(c, false, on_running, pause_call(c, done, arg)); }

/* ---- numbers: the keeper's, and what only the guest knows ---- */

struct stats_call {
    struct driver_cell *cell;
    unsigned waiting;
    struct cell_stats out;
    bool failed;
    struct err err;
    driver_stats_done done;
    void *arg;
};

static void stats_over(struct stats_call *s) {
    if (--s->waiting) return;
    s->out.pids = s->cell->pids; /* its newest word, when it stands still or is slow */
    s->out.oom_kills += s->cell->oom_kills;
    s->done(s->arg, s->failed ? &s->err : NULL, s->failed ? NULL : &s->out);
    machine_cell_release(s->cell);
    free(s);
}

static void on_stats_inside(void *arg, struct err *e, const struct machine_message *m) {
    struct stats_call *s = arg;
    if (!e) {
        s->cell->pids = m->pids;
        s->cell->oom_kills = m->oom_kills;
    }
    stats_over(s);
}

static void on_stats(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct stats_call *s = arg;
    (void)fds, (void)n;
    if (e) s->failed = true, s->err = *e;
    else
        s->out = (struct cell_stats){.memory_bytes = r->stats.memory_bytes, .memory_peak_bytes = r->stats.memory_peak_bytes, .cpu_us = r->stats.cpu_us,
                                     .disk_bytes = r->stats.disk_bytes, .oom_kills = r->stats.oom_kills};
    stats_over(s);
}

void machine_stats(struct driver_cell *c, driver_stats_done done, void *arg) {
    struct keeper_request q = machine_request(c, KEEPER_CELL_STATS);
    struct stats_call *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct stats_call){.cell = machine_cell_hold(c), .waiting = 1, .done = done, .arg = arg};
    if (c->link && !c->paused && !c->maybe_paused && !c->dying) {
        struct machine_message m = {.type = MACHINE_STATS};
        s->waiting++;
        machine_ask(c, &m, STATS_MS, on_stats_inside, s);
    }
    keeper_call(c->driver->keeper, &q, on_stats, s);
}
