/* bake.c: the machine that every cell of a template is a copy of. The keeper restores it from its base; where there is none, or none that this host can
 * use, one is made: a kernel boots, Python imports the template's libraries and waits, and what is in memory then is kept. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/microvm/internal.h"

#define KNOCK_MS 100        /* between two connections to a guest that does not listen yet */
#define HUNG_UP_MS 2000     /* the keeper sees the end of a monitor too, and knows why */
#define KNOCK_LONG_MS 60000 /* a connection waits in the machine until its kernel has a driver for it; one that says nothing for so long was not heard */

struct waiter {
    struct waiter *next;
    template_done done;
    void *arg;
};

struct baking { /* the machine on its way to a base */
    uint32_t index, serial;
    char id[CELL_ID_MAX], layer[CELL_ID_MAX];
    struct machine_link *link;
    int guest_fd, context_fd;
    bool greeted, stands; /* it said HELLO; the keeper has it */
    bool warm_again;      /* slot 0's connection had not arrived yet */
    int64_t hung_up_ms;   /* 0: it did not */
    int64_t began_ms, deadline_ms, knocked_ms;
};

struct template {
    struct template *next;
    struct microvm *driver;
    char template_id[TEMPLATE_ID_HEX + 1], layer[CELL_ID_MAX];
    bool ready, busy, cold, rebaked;
    struct waiter *waiting;
    struct baking *baking;
    uv_timer_t timer;
};

static void ask_template(struct template *);
static void knock(struct template *);

static struct template *template_of(struct microvm *d, const char *id) {
    struct template *t = d->templates;
    while (t && strcmp(t->template_id, id)) t = t->next;
    if (t) return t;
    if (!(t = calloc(1, sizeof *t))) abort();
    *t = (struct template){.next = d->templates, .driver = d};
    (void)snprintf(t->template_id, sizeof t->template_id, "%s", id);
    uv_timer_init(d->loop, &t->timer);
    t->timer.data = t;
    d->templates = t;
    return t;
}

/* ---- answers ---- */

static void baking_free(struct template *t) {
    struct baking *b = t->baking;
    if (!b) return;
    t->baking = NULL;
    uv_timer_stop(&t->timer);
    if (b->link) machine_link_close(b->link, true); /* of what was asked nobody wants to hear */
    close_fd(&b->guest_fd);
    close_fd(&b->context_fd);
    free(b);
}

static void answer(struct template *t, struct err *e) {
    struct waiter *w = t->waiting;
    const bool cold = t->cold;
    t->waiting = NULL;
    t->busy = t->cold = t->rebaked = false;
    t->ready = !e;
    while (w) {
        struct waiter *next = w->next;
        w->done(w->arg, e, e ? NULL : t->layer, cold);
        free(w);
        w = next;
    }
}

static void bake_failed(struct template *t, const struct err *why) {
    struct microvm *d = t->driver;
    struct baking *b = t->baking;
    struct err e = *why;
    if (b && b->stands) {
        struct keeper_request q = {.op = KEEPER_CELL_DESTROY, .cell = b->index, .serial = b->serial};
        keeper_ask(d->keeper, &q, NULL, NULL);
    }
    baking_free(t);
    d->bakes_failed++;
    err_wrap(&e, "the machine of template %.12s could not be made ready", t->template_id);
    if (!e.hint) e.hint = "the daemon's and the keeper's log have more; `cella template build` makes the template's machine again, the setting microvm-bake-seconds gives it more time";
    if (strcmp(e.code, ERR_TEMPLATE)) e.code = ERR_UNAVAILABLE;
    log_error("%s", e.text);
    answer(t, &e);
}

/* ---- the machine's way ---- */

static void on_base(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct template *t = arg;
    (void)fds, (void)n;
    if (!t->baking) return;
    if (e) {
        bake_failed(t, e);
        return;
    }
    struct microvm *d = t->driver;
    d->bake_ms_last = monotonic_ms() - t->baking->began_ms;
    d->bakes++;
    log_info("template %.12s: its machine is ready to be copied (%lld ms, %llu MB kept)", t->template_id, (long long)d->bake_ms_last,
             (unsigned long long)(r->bytes >> 20));
    baking_free(t);
    ask_template(t);
}

static void on_warm(void *arg, struct err *e, const struct machine_message *m) {
    struct template *t = arg;
    struct baking *b = t->baking;
    (void)m;
    if (e && e->sys_errno == EAGAIN) {
        b->warm_again = true;
        return;
    }
    if (e) {
        bake_failed(t, e);
        return;
    }
    struct keeper_request q = {.op = KEEPER_MACHINE_BASE, .cell = b->index, .serial = b->serial};
    memcpy(q.layer, b->layer, sizeof b->layer);
    memcpy(q.template_id, t->template_id, sizeof t->template_id);
    b->stands = false; /* it ends, whatever comes of it */
    uv_timer_stop(&t->timer); /* the disk takes what it takes */
    keeper_call(t->driver->keeper, &q, on_base, t);
}

static void warm(struct template *t) {
    struct machine_message m = {.type = MACHINE_WARM, .language = KEEPER_PYTHON};
    const int64_t left = t->baking->deadline_ms - monotonic_ms();
    machine_call(t->baking->link, &m, left + 60000, on_warm, t); /* the timer speaks first: it says more */
}

static void on_connected(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct template *t = arg;
    struct baking *b = t->baking;
    struct err odd;
    (void)r;
    if (!e && n != 1) {
        for (size_t i = 0; i < n; i++) close(fds[i]);
        err_set(e = &odd, ERR_INTERNAL, "the keeper sent %zu descriptors for a connection", n);
    }
    if (!b) {
        if (!e) close(fds[0]);
    } else if (e) {
        bake_failed(t, e);
    } else if (b->guest_fd < 0) {
        b->guest_fd = fds[0];
    } else {
        b->context_fd = fds[0];
        warm(t);
    }
}

static void connect_port(struct template *t, uint32_t slot, keeper_answer done) {
    struct keeper_request q = {.op = KEEPER_MACHINE_CONNECT, .cell = t->baking->index, .serial = t->baking->serial, .slot = slot};
    keeper_call(t->driver->keeper, &q, done, t);
}

/* ---- until it greets ---- */

static void on_hello(void *arg) {
    struct template *t = arg;
    if (t->baking->greeted) return;
    t->baking->greeted = true;
    log_info("template %.12s: its machine is up after %lld ms; its Python imports what the template says", t->template_id,
             (long long)(monotonic_ms() - t->baking->began_ms));
    connect_port(t, KEEPER_SLOTS + 1, on_connected);
    connect_port(t, 0, on_connected);
}

static void on_early_exit(void *arg, int slot, enum context_fate fate, int code) {
    struct err e;
    (void)slot;
    if (fate == FATE_OOM) err_set(&e, ERR_UNAVAILABLE, "its Python ran out of memory while it imported the template's libraries");
    else err_set(&e, ERR_UNAVAILABLE, "its Python ended (%s %d) while it imported the template's libraries", fate == FATE_EXITED ? "exit code" : "signal", code);
    bake_failed(arg, &e);
}

static void on_link_end(void *arg, const char *why) {
    struct template *t = arg;
    struct baking *b = t->baking;
    struct err e;
    machine_link_close(b->link, true);
    b->link = NULL;
    if (!b->stands) return; /* it has been warm, and its memory is being kept */
    if (why) {
        err_set(&e, ERR_UNAVAILABLE, "its guest broke the protocol: %s", why);
        bake_failed(t, &e);
    } else if (b->greeted) {
        b->hung_up_ms = monotonic_ms(); /* the keeper says in a moment why, if it ended */
    } /* else nobody listened yet */
}

static void on_knocked(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct template *t = arg;
    struct baking *b = t->baking;
    (void)r;
    if (!b || e || n != 1) {
        for (size_t i = 0; !e && i < n; i++) close(fds[i]);
        if (b && e && e->sys_errno != EAGAIN) bake_failed(t, e);
        return;
    }
    b->link = machine_link_open(t->driver->loop, fds[0], &(struct machine_link_events){on_hello, on_early_exit, on_link_end, t});
}

static void on_knock_timer(uv_timer_t *timer) {
    struct template *t = timer->data;
    struct baking *b = t->baking;
    struct err e;
    const int64_t now = monotonic_ms();
    if (now >= b->deadline_ms) {
        err_set(&e, ERR_UNAVAILABLE, b->greeted ? "its Python was not ready after %lld s" : "its kernel was not up after %lld s", (long long)(now - b->began_ms) / 1000);
        bake_failed(t, &e);
        return;
    }
    if (b->hung_up_ms && now > b->hung_up_ms + HUNG_UP_MS) {
        err_set(&e, ERR_UNAVAILABLE, "its guest closed the connection");
        bake_failed(t, &e);
        return;
    }
    if (!b->greeted && b->link && now > b->knocked_ms + KNOCK_LONG_MS) {
        machine_link_close(b->link, true);
        b->link = NULL;
    }
    if (!b->greeted && !b->link) knock(t);
    if (b->warm_again && b->link) {
        b->warm_again = false;
        warm(t);
    }
}

static void knock(struct template *t) {
    t->baking->knocked_ms = monotonic_ms();
    connect_port(t, KEEPER_SLOTS, on_knocked);
}

static void on_booted(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct template *t = arg;
    for (size_t i = 0; !e && i < n; i++) close(fds[i]);
    if (!t->baking) return;
    if (e) {
        bake_failed(t, e);
        return;
    }
    t->baking->index = r->cell;
    t->baking->serial = r->serial;
    t->baking->stands = true;
    uv_timer_start(&t->timer, on_knock_timer, KNOCK_MS, KNOCK_MS);
    knock(t);
}

static void bake(struct template *t) {
    const struct microvm_config *config = &t->driver->config;
    struct baking *b = calloc(1, sizeof *b);
    if (!b) abort();
    *b = (struct baking){.guest_fd = -1, .context_fd = -1, .began_ms = monotonic_ms(), .deadline_ms = monotonic_ms() + config->bake_ms};
    id_make(b->id, "sbx_");
    id_make(b->layer, "bas_");
    t->baking = b;
    t->cold = true;
    struct keeper_request q = {.op = KEEPER_MACHINE_BOOT, .vcpus = config->vcpus, .limits = keeper_limits_of(&config->limits)};
    q.limits.memory_bytes = config->memory_bytes;
    memcpy(q.id, b->id, sizeof b->id);
    memcpy(q.template_id, t->template_id, sizeof t->template_id);
    log_info("template %.12s: its machine is booted and warmed, once; at most %lld s", t->template_id, (long long)config->bake_ms / 1000);
    keeper_call(t->driver->keeper, &q, on_booted, t);
}

/* ---- the template's machine ---- */

static void on_template(void *arg, struct err *e, const struct keeper_reply *r, const int *fds, size_t n) {
    struct template *t = arg;
    struct err none;
    for (size_t i = 0; !e && i < n; i++) close(fds[i]);
    const bool must_bake = e && !t->cold && (e->sys_errno == ENOENT || e->sys_errno == EBADMSG);
    if (must_bake && microvm_driver_has(&t->driver->base, t->template_id, &none)) {
        log_error("%s", none.text);
        answer(t, &none);
    } else if (must_bake) {
        if (e->sys_errno == EBADMSG) log_warn("template %.12s: %s: its machine is made again", t->template_id, e->text);
        bake(t);
    } else if (e) {
        struct err why = *e;
        err_wrap(&why, "the machine of template %.12s could not be started", t->template_id);
        answer(t, &why);
    } else {
        (void)snprintf(t->layer, sizeof t->layer, "%.36s", r->layer);
        answer(t, NULL);
    }
}

static void ask_template(struct template *t) {
    const struct microvm_config *wanted = &t->driver->config;
    struct keeper_request q = {.op = KEEPER_MACHINE_TEMPLATE, .limits.memory_bytes = wanted->memory_bytes, .vcpus = wanted->vcpus};
    memcpy(q.template_id, t->template_id, sizeof t->template_id);
    keeper_call(t->driver->keeper, &q, on_template, t);
}

void template_need(struct microvm *d, const char *template_id, template_done done, void *arg) {
    struct template *t = template_of(d, template_id);
    struct waiter *w = calloc(1, sizeof *w), **at = &t->waiting;
    if (!w) abort();
    *w = (struct waiter){NULL, done, arg};
    while (*at) at = &(*at)->next;
    *at = w;
    if (t->busy) return;
    t->busy = true;
    t->ready = false;
    ask_template(t);
}

const char *template_ready(struct microvm *d, const char *template_id) {
    const struct template *t = template_of(d, template_id);
    return t->ready ? t->layer : NULL;
}

void template_forget(struct microvm *d, const char *template_id) { template_of(d, template_id)->ready = false; }

void templates_forget(struct microvm *d) {
    for (struct template *t = d->templates; t; t = t->next) {
        t->ready = false;
        if (t->baking) t->baking->stands = false;
    }
}

bool template_event(struct microvm *d, const struct keeper_reply *r) {
    for (struct template *t = d->templates; t; t = t->next) {
        const struct baking *b = t->baking;
        if (!b || !b->serial || b->index != r->cell || b->serial != r->serial) continue;
        if (r->op != KEEPER_EVENT_CELL_GONE || !b->stands) return true;
        struct err e;
        t->baking->stands = false;
        err_set(&e, ERR_UNAVAILABLE, "it ended %s", r->fate == KEEPER_FATE_OOM ? "for want of memory" : b->greeted ? "while its Python imported the template's libraries" : "before its kernel was up");
        bake_failed(t, &e);
        return true;
    }
    return false;
}

static void on_timer_closed(uv_handle_t *h) {
    struct template *t = h->data;
    struct microvm *d = t->driver;
    free(t);
    d->handles--;
    microvm_free_last(d);
}

void templates_close(struct microvm *d) {
    for (struct template *t = d->templates, *next; t; t = next) {
        next = t->next;
        baking_free(t);
        for (struct waiter *w = t->waiting, *wn; w; w = wn) {
            wn = w->next;
            free(w);
        }
        d->handles++;
        uv_close((uv_handle_t *)&t->timer, on_timer_closed);
    }
    d->templates = NULL;
}

struct json_object *templates_report(struct microvm *d) {
    struct json_object *list = json_object_new_array();
    for (const struct template *t = d->templates; t; t = t->next) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "template", json_object_new_string(t->template_id));
        json_object_object_add(o, "state", json_object_new_string(t->baking ? "baking" : t->busy ? "starting" : t->ready ? "ready" : "not_ready"));
        json_object_object_add(o, "base", t->ready ? json_object_new_string(t->layer) : NULL);
        json_object_array_add(list, o);
    }
    return list;
}
