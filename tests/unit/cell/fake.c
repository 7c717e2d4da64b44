#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "fake.h"
#include "plain_driver.h"
#include "plain_spawn.h"

struct fake_driver {
    struct driver base;
    struct fake *fake;
    struct driver_listener listener;
    struct task *tasks;
};

/* ---- callbacks on the next turn ---- */
struct task {
    struct task *next;
    void (*run)(struct task *);
    struct driver_cell *cell;
    driver_done done;
    driver_create_done create_done;
    driver_context_done context_done;
    driver_stats_done stats_done;
    driver_child_done child_done;
    driver_fork_done fork_done;
    struct driver_copy copy;
    driver_image_done image_done;
    driver_copy_done copy_done;
    const char *word;
    unsigned index;
    void *arg;
    int slot, code;
    enum context_fate fate;
    bool failed;
    struct driver_created created;
    struct context_ends ends;
};

static struct fake_driver *fd_of(struct fake *f) { return (struct fake_driver *)f->driver; }

static struct task *task(struct fake *f, void (*run)(struct task *), void *arg) {
    struct task *t = calloc(1, sizeof *t), **at = &fd_of(f)->tasks;
    t->run = run;
    t->arg = arg;
    while (*at) at = &(*at)->next;
    *at = t;
    return t;
}

static void run_child(struct task *);
static void run_forked(struct task *);
static void run_freeze(struct task *);
static void run_thaw(struct task *);

static void run_tasks(struct fake *f) {
    struct task *t = fd_of(f)->tasks;
    fd_of(f)->tasks = NULL;
    struct task *held = NULL, **held_at = &held;
    for (struct task **at = &t; (f->hold_forks || f->hold_images) && *at;) {
        struct task *one = *at;
        bool hold = (f->hold_forks && (one->run == run_child || one->run == run_forked)) ||
                    (f->hold_images && (one->run == run_freeze || one->run == run_thaw));
        if (hold) *at = one->next, one->next = NULL, *held_at = one, held_at = &one->next;
        else at = &one->next;
    }
    fd_of(f)->tasks = held;
    for (struct task *next; t; t = next) {
        next = t->next;
        t->run(t);
        free(t);
    }
}

static void run_done(struct task *t) {
    struct err err;
    if (t->failed) err_set(&err, ERR_UNAVAILABLE, "the fake driver was told to fail");
    t->done(t->arg, t->failed ? &err : NULL);
}
static void later_done(struct fake *f, driver_done done, void *arg) { task(f, run_done, arg)->done = done; }

/* ---- making ends ---- */
static int keep(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }

static void make_ends(struct fake_slot *s, struct context_ends *e) {
    int c[2], o[2], r[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, c), 0);
    assert_int_equal(pipe2(o, O_NONBLOCK | O_CLOEXEC), 0);
    assert_int_equal(pipe2(r, O_NONBLOCK | O_CLOEXEC), 0);
    *e = (struct context_ends){c[0], o[0], r[0]};
    s->alive = true;
    s->control = c[1];
    s->out = o[1];
    s->err = r[1];
    s->makes++;
    s->kept = (struct context_ends){keep(c[0]), keep(o[0]), keep(r[0])};
}

static void drop_ends(struct fake_slot *s) {
    if (!s->alive) return;
    s->alive = false;
    close(s->control), close(s->out), close(s->err);
    close(s->kept.control_fd), close(s->kept.stdout_fd), close(s->kept.stderr_fd);
}

static void drop_cell(struct driver_cell *c) {
    if (!c->alive) return;
    c->alive = false;
    for (int i = 0; i < DRIVER_SLOTS; i++) drop_ends(&c->slots[i]);
    close(c->guest);
    close(c->guest_kept);
}

/* ---- operations ---- */
static void op_set_listener(struct driver *d, const struct driver_listener *l) {
    ((struct fake_driver *)d)->listener = *l;
}

static void run_adopt(struct task *t) {
    struct fake *f = t->cell->fake;
    struct fake_driver *d = fd_of(f);
    for (int k = 0; k < f->cell_count; k++) {
        struct driver_cell *c = &f->cells[k];
        struct context_ends ends[DRIVER_SLOTS];
        if (!c->alive) continue;
        for (int i = 0; i < DRIVER_SLOTS; i++) {
            struct fake_slot *s = &c->slots[i];
            ends[i] = s->alive ? (struct context_ends){keep(s->kept.control_fd), keep(s->kept.stdout_fd),
                                                       keep(s->kept.stderr_fd)}
                               : (struct context_ends){-1, -1, -1};
        }
        d->listener.on_adopt(d->listener.arg, c, c->template_id, keep(c->guest_kept), ends);
    }
    run_done(t);
}
static void op_adopt(struct driver *d, driver_done done, void *arg) {
    struct fake *f = ((struct fake_driver *)d)->fake;
    struct task *t = task(f, run_adopt, arg);
    t->done = done;
    t->cell = &f->cells[0];
    t->cell->fake = f;
}
static void op_warm(struct driver *d, const char *id, driver_done done, void *arg) {
    (void)id;
    later_done(((struct fake_driver *)d)->fake, done, arg);
}
static void run_create(struct task *t) {
    struct err err;
    if (t->failed) err_set(&err, ERR_UNAVAILABLE, "no template is ready");
    t->create_done(t->arg, t->failed ? &err : NULL, t->failed ? NULL : &t->created);
}
static void op_create(struct driver *d, const char *template_id, const struct cell_limits *l, driver_create_done done,
                      void *arg) {
    (void)l;
    struct fake *f = ((struct fake_driver *)d)->fake;
    struct task *t = task(f, run_create, arg);
    t->create_done = done;
    t->failed = f->fail_create;
    if (t->failed) return;
    struct driver_cell *c = &f->cells[f->cell_count++];
    int pair[2];
    *c = (struct driver_cell){.ops = f->driver->ops, .fake = f, .alive = true};
    id_make(c->id, "sbx_");
    (void)snprintf(c->template_id, sizeof c->template_id, "%s", template_id);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    c->guest = pair[1];
    c->guest_kept = keep(pair[0]);
    t->created = (struct driver_created){.cell = c, .guest_fd = pair[0], .from = "filled"};
    make_ends(&c->slots[0], &t->created.python);
}
static void run_context(struct task *t) {
    struct err err;
    if (t->failed) err_set(&err, ERR_UNAVAILABLE, "the template's image is gone");
    t->context_done(t->arg, t->failed ? &err : NULL, t->failed ? NULL : &t->ends);
}
static void op_context_make(struct driver_cell *c, int slot, const char *language, driver_context_done done,
                            void *arg) {
    (void)language;
    struct task *t = task(c->fake, run_context, arg);
    t->context_done = done;
    t->failed = c->fake->fail_make;
    assert_false(c->slots[slot].alive);
    if (!t->failed) make_ends(&c->slots[slot], &t->ends);
}
static void run_exit(struct task *t) {
    struct fake_driver *d = fd_of(t->cell->fake);
    d->listener.on_context_exit(d->listener.arg, t->cell, t->slot, t->fate, t->code);
}
void fake_exit(struct driver_cell *c, int slot, enum context_fate fate, int code) {
    struct task *t = task(c->fake, run_exit, NULL);
    drop_ends(&c->slots[slot]);
    t->cell = c;
    t->slot = slot;
    t->fate = fate;
    t->code = code;
}
static void op_context_signal(struct driver_cell *c, int slot, int signo) {
    c->signals[slot][signo]++;
    if (signo == SIGKILL && c->slots[slot].alive && !c->fake->no_exit_on_kill) fake_exit(c, slot, FATE_KILLED, SIGKILL);
}
static void op_set_limits(struct driver_cell *c, const struct cell_limits *l, driver_done done, void *arg) {
    (void)l;
    later_done(c->fake, done, arg);
}
static void op_pause(struct driver_cell *c, driver_done done, void *arg) {
    c->paused = true;
    later_done(c->fake, done, arg);
}
static void op_resume(struct driver_cell *c, driver_done done, void *arg) {
    c->paused = false;
    later_done(c->fake, done, arg);
}
static void run_stats(struct task *t) { t->stats_done(t->arg, NULL, &t->cell->stats); }
static void op_stats(struct driver_cell *c, driver_stats_done done, void *arg) {
    struct task *t = task(c->fake, run_stats, arg);
    t->stats_done = done;
    t->cell = c;
}
static void op_destroy(struct driver_cell *c, driver_done done, void *arg) {
    c->fake->destroyed++;
    drop_cell(c);
    later_done(c->fake, done, arg);
}
/* ---- branches ---- */
static void run_child(struct task *t) {
    struct err err;
    if (t->failed) err_set(&err, ERR_NO_SPACE, "child %u: the disk is full", t->index);
    t->child_done(t->arg, t->index, t->failed ? &err : NULL, t->failed ? NULL : &t->copy);
}
static void run_forked(struct task *t) {
    struct err err;
    if (t->failed) err_set(&err, ERR_CONFLICT, "the context cannot be stopped");
    t->fork_done(t->arg, t->failed ? &err : NULL, 1500);
}
static void copy_cell(struct driver_cell *of, struct task *t) {
    struct fake *f = of->fake;
    assert_true(f->cell_count < FAKE_CELLS);
    struct driver_cell *c = &f->cells[f->cell_count++];
    int pair[2];
    *c = (struct driver_cell){.ops = f->driver->ops, .fake = f, .alive = true};
    id_make(c->id, "sbx_");
    memcpy(c->template_id, of->template_id, sizeof c->template_id);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    c->guest = pair[1];
    c->guest_kept = keep(pair[0]);
    t->copy = (struct driver_copy){.cell = c, .guest_fd = pair[0], .not_carried = f->not_carried};
    for (int i = 0; i < DRIVER_SLOTS; i++) {
        t->copy.ends[i] = (struct context_ends){-1, -1, -1};
        if (of->slots[i].alive && !f->lose_contexts) make_ends(&c->slots[i], &t->copy.ends[i]);
    }
}
/* An image: in its directory the template and which slots were alive; the driver remembers its id, as the real one keeps a layer. */
static bool keeps(struct fake *f, const char *id) {
    for (int i = 0; i < FAKE_IMAGES; i++)
        if (strcmp(f->images[i], id) == 0) return true;
    return false;
}
static void forget(struct fake *f, const char *id) {
    for (int i = 0; i < FAKE_IMAGES; i++)
        if (strcmp(f->images[i], id) == 0) f->images[i][0] = 0;
}
static void run_freeze(struct task *t) {
    struct err err;
    struct driver_image image = {.memory_bytes = 1000, .disk_bytes = 500, .frozen_us = 7000};
    if (t->failed) err_set(&err, t->word, "the fake driver was told to fail");
    image.not_carried = t->cell->fake->not_carried;
    t->image_done(t->arg, t->failed ? &err : NULL, t->failed ? NULL : &image);
}
static void op_freeze(struct driver_cell *c, const char *id, const char *dir, bool hold, driver_image_done done, void *arg) {
    struct fake *f = c->fake;
    char path[4400];
    f->freezes++;
    struct task *t = task(f, run_freeze, arg);
    t->image_done = done;
    t->cell = c;
    t->failed = f->fail_freeze || !c->alive;
    t->word = f->fail_freeze ? f->fail_freeze : ERR_LOST;
    if (t->failed) return;
    (void)snprintf(path, sizeof path, "%s/image", dir);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    uint32_t slots = 0;
    for (int i = 0; i < DRIVER_SLOTS; i++) slots |= (uint32_t)c->slots[i].alive << i;
    fprintf(file, "%s %u\n", c->template_id, slots);
    assert_int_equal(fclose(file), 0);
    c->held = hold;
    int i = 0;
    while (i < FAKE_IMAGES && f->images[i][0]) i++;
    assert_true(i < FAKE_IMAGES);
    memcpy(f->images[i], id, sizeof f->images[i]);
}
static void op_release(struct driver_cell *c, driver_done done, void *arg) {
    c->fake->releases++;
    c->held = false;
    later_done(c->fake, done, arg);
}
static void run_thaw(struct task *t) {
    struct err err;
    if (t->failed) err_hint(&err, t->word, "Do something else.", "the image is not what it was");
    t->copy_done(t->arg, t->failed ? &err : NULL, t->failed ? NULL : &t->copy);
}
static void op_thaw(struct driver *d, const char *id, const char *dir, const char *cell_id, const struct cell_limits *l, driver_copy_done done,
                    void *arg) {
    struct fake *f = ((struct fake_driver *)d)->fake;
    struct driver_cell original = {.fake = f};
    char path[4400];
    uint32_t slots = 0;
    (void)l;
    f->thaws++;
    struct task *t = task(f, run_thaw, arg);
    t->copy_done = done;
    t->word = f->fail_thaw ? f->fail_thaw : ERR_IMAGE;
    (void)snprintf(path, sizeof path, "%s/image", dir);
    FILE *file = fopen(path, "re");
    t->failed = f->fail_thaw || !file || !keeps(f, id) || fscanf(file, "%64s %u", original.template_id, &slots) != 2;
    if (file) fclose(file);
    if (t->failed) return;
    for (int i = 0; i < DRIVER_SLOTS; i++) original.slots[i].alive = slots >> i & 1;
    for (int i = 0; cell_id && i < f->cell_count; i++) assert_false(f->cells[i].alive && strcmp(f->cells[i].id, cell_id) == 0);
    copy_cell(&original, t);
    if (cell_id) (void)snprintf(t->copy.cell->id, sizeof t->copy.cell->id, "%s", cell_id);
}
static void op_image_drop(struct driver *d, const char *id, driver_done done, void *arg) {
    struct fake *f = ((struct fake_driver *)d)->fake;
    f->images_dropped++;
    forget(f, id);
    later_done(f, done, arg);
}
static void op_images_keep(struct driver *d, const char *const *keep, size_t n, driver_done done, void *arg) {
    struct fake *f = ((struct fake_driver *)d)->fake;
    for (int i = 0; i < FAKE_IMAGES; i++) {
        bool wanted = false;
        for (size_t k = 0; k < n; k++) wanted |= strcmp(keep[k], f->images[i]) == 0;
        if (!wanted) f->images[i][0] = 0;
    }
    later_done(f, done, arg);
}
static void run_gone(struct task *t) {
    struct fake_driver *d = fd_of(t->cell->fake);
    d->listener.on_cell_gone(d->listener.arg, t->cell, (enum cell_fate)t->code);
}
void fake_gone(struct driver_cell *c, enum cell_fate fate) {
    struct task *t = task(c->fake, run_gone, NULL);
    t->cell = c;
    t->code = (int)fate;
    drop_cell(c);
}
struct driver_cell *fake_newest(struct fake *f) {
    for (int i = f->cell_count; i-- > 0;)
        if (f->cells[i].alive) return &f->cells[i];
    fail_msg("no cell is alive");
    return NULL;
}

static void op_fork(struct driver_cell *c, unsigned n, driver_child_done each, driver_fork_done done, void *arg) {
    struct fake *f = c->fake;
    f->forks++;
    for (unsigned i = 0; i < n && !f->fail_fork; i++) {
        struct task *t = task(f, run_child, arg);
        t->child_done = each;
        t->index = i;
        t->failed = f->fail_children >> i & 1;
        if (!t->failed) copy_cell(c, t);
    }
    struct task *t = task(f, run_forked, arg);
    t->fork_done = done;
    t->failed = f->fail_fork;
}
static void op_rename(struct driver_cell *c, const char *id, driver_done done, void *arg) {
    struct fake *f = c->fake;
    if (f->drop_rename) return;
    f->renames++;
    struct task *t = task(f, run_done, arg);
    t->done = done;
    t->failed = f->fail_rename;
    if (t->failed) return;
    for (int i = 0; i < f->cell_count; i++)
        if (&f->cells[i] != c && f->cells[i].alive && strcmp(f->cells[i].id, id) == 0) drop_cell(&f->cells[i]);
    (void)snprintf(c->id, sizeof c->id, "%s", id);
}
static uint64_t op_incarnation(const struct driver_cell *c) { return (uint64_t)(c - c->fake->cells) + 1; }

static const char *op_id(const struct driver_cell *c) { return c->id; }
static struct json_object *op_report(struct driver *d) {
    (void)d;
    return json_object_new_object();
}
static void op_close(struct driver *d) {
    struct fake_driver *x = (struct fake_driver *)d;
    for (struct task *t; (t = x->tasks);) {
        x->tasks = t->next;
        free(t);
    }
    x->fake->driver = NULL;
    free(x);
}
static const struct driver_ops ops = {
    .name = "fake",
    .isolation = "none",
    .set_listener = op_set_listener,
    .adopt = op_adopt,
    .warm = op_warm,
    .create = op_create,
    .context_make = op_context_make,
    .context_signal = op_context_signal,
    .set_limits = op_set_limits,
    .pause = op_pause,
    .resume = op_resume,
    .stats = op_stats,
    .destroy = op_destroy,
    .id = op_id,
    .fork = op_fork,
    .freeze = op_freeze,
    .release = op_release,
    .thaw = op_thaw,
    .image_drop = op_image_drop,
    .images_keep = op_images_keep,
    .rename = op_rename,
    .incarnation = op_incarnation,
    .report = op_report,
    .close = op_close,
};

/* ---- the world ---- */
static void on_beat(uv_timer_t *t) { (void)t; }

static void make_driver(struct fake *f) {
    struct fake_driver *d = calloc(1, sizeof *d);
    d->base.ops = &ops;
    d->fake = f;
    f->driver = f->config.driver = &d->base;
}

struct fake *fake_open(void) {
    struct err err;
    struct fake *f = calloc(1, sizeof *f);
    signal(SIGPIPE, SIG_IGN); /* the test's own ends may be written to after the daemon closed its side */
    uv_loop_init(&f->loop);
    uv_timer_init(&f->loop, &f->beat);
    uv_timer_start(&f->beat, on_beat, 1, 1); /* keeps a turn short */
    (void)snprintf(f->state_dir, sizeof f->state_dir, "/tmp/cella-unit-XXXXXX");
    assert_non_null(mkdtemp(f->state_dir));
    assert_int_equal(plain_state_make(f->state_dir, &err), 0);
    f->store = store_open(":memory:", &err);
    assert_non_null(f->store);
    world_config_defaults(&f->config);
    f->config.loop = &f->loop;
    f->config.store = f->store;
    f->config.state_dir = f->state_dir;
    make_driver(f);
    return f;
}

static void on_started(void *arg, struct err *err) {
    assert_null(err);
    *(bool *)arg = true;
}

void fake_start(struct fake *f) {
    struct err err;
    bool started = false;
    f->world = world_open(&f->config, &err);
    assert_non_null(f->world);
    world_start(f->world, on_started, &started);
    run_until(f, started);
}

void fake_restart(struct fake *f) {
    world_close(f->world);
    fake_turns(f, 3);
    make_driver(f);
    fake_start(f);
}

void fake_close(struct fake *f) {
    world_close(f->world);
    for (int i = 0; i < f->cell_count; i++) drop_cell(&f->cells[i]);
    uv_close((uv_handle_t *)&f->beat, NULL);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0); /* every handle was closed */
    store_close(f->store);
    plain_remove_tree(f->state_dir);
    json_object_put(f->not_carried);
    free(f);
}

void fake_turn(struct fake *f) {
    if (f->driver) run_tasks(f);
    uv_run(&f->loop, UV_RUN_ONCE);
}
void fake_turns(struct fake *f, int n) {
    while (n-- > 0) fake_turn(f);
}

struct made {
    struct cell *cell;
    bool done;
};
static void on_cell(void *arg, struct err *err, struct cell *c) {
    struct made *m = arg;
    assert_null(err);
    m->cell = c;
    m->done = true;
}

struct cell *fake_cell(struct fake *f, const char *body, struct driver_cell **dc) {
    struct made m = {0};
    struct json_object *o = parse(body);
    cell_create(f->world, o, "", on_cell, &m);
    json_object_put(o);
    run_until(f, m.done);
    *dc = &f->cells[f->cell_count - 1];
    peer_frame((*dc)->guest, GUEST_HELLO, 0, 0, "{\"version\":1}");
    peer_frame((*dc)->slots[0].control, CONTEXT_READY, 0, 0, "{\"language\":\"python\",\"version\":\"3\",\"pid\":2}");
    fake_turns(f, 3);
    return m.cell;
}

/* ---- the other side ---- */
void peer_bytes(int fd, const void *packet, size_t n) { assert_int_equal(send(fd, packet, n, MSG_NOSIGNAL), n); }

void peer_frame(int fd, uint16_t type, uint16_t flags, uint32_t channel, const char *text) {
    uint8_t packet[WIRE_PACKET_MAX];
    size_t len = 0;
    assert_true(frame_put(packet, &len, type, flags, channel, text, text ? strlen(text) : 0));
    peer_bytes(fd, packet, len);
}

struct received *peer_receive(struct fake *f, int fd) {
    static struct received r;
    static uint8_t packet[WIRE_PACKET_MAX];
    static size_t len, at;
    static int from = -1;
    if (from != fd || at == len) {
        ssize_t n = -1;
        len = at = 0;
        run_until(f, (n = recv(fd, packet, sizeof packet, MSG_DONTWAIT)) >= 0);
        len = (size_t)n;
        from = fd;
    }
    struct frame frame;
    assert_int_equal(frame_next(packet, len, &at, &frame), 1);
    r.type = frame.type;
    r.flags = frame.flags;
    r.channel = frame.channel;
    r.length = frame.length;
    memcpy(r.payload, frame.payload, frame.length);
    r.payload[frame.length] = 0;
    return &r;
}

bool peer_silent(struct fake *f, int fd) {
    char c;
    fake_turns(f, 5);
    return recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

void print_to(int fd, const char *text) { assert_int_equal(write(fd, text, strlen(text)), strlen(text)); }

/* ---- executions ---- */
void heard_event(void *arg, struct execution *x, enum execution_event e, struct json_object *json, const void *bytes,
                 size_t n) {
    static const char letters[] = "SoeDREI.";
    struct heard *h = arg;
    size_t at = strlen(h->order);
    if (at < sizeof h->order - 1) h->order[at] = letters[e];
    (void)x;
    if (e == EXECUTION_STDOUT) strncat(h->out, bytes, n < 1000 ? n : 1000);
    if (e == EXECUTION_STDERR) strncat(h->err, bytes, n < 1000 ? n : 1000);
    if (e == EXECUTION_END) {
        assert_null(h->end); /* exactly once */
        h->end = json_object_get(json);
    }
}

struct json_object *parse(const char *text) {
    struct json_object *o = json_tokener_parse(text);
    if (!o) fail_msg("not JSON: %s", text);
    return o;
}

struct execution *fake_execute(struct cell *c, const char *body, bool collect, struct heard *h, const char **code) {
    struct err err = {0};
    struct json_object *o = parse(body);
    *h = (struct heard){0};
    h->x = execution_start(c, o, collect, true, heard_event, h, &err);
    json_object_put(o);
    if (code) *code = h->x ? NULL : err.code;
    return h->x;
}

const char *end_text(struct heard *h, const char *key) {
    struct json_object *v = NULL;
    assert_non_null(h->end);
    json_object_object_get_ex(h->end, key, &v);
    return v ? json_object_get_string(v) : "(null)";
}

uint32_t peer_executes(struct fake *f, struct driver_cell *dc, int slot, const char *code) {
    struct received *r = peer_receive(f, dc->slots[slot].control);
    assert_int_equal(r->type, CONTEXT_EXECUTE);
    assert_string_equal(r->payload, code);
    return r->channel;
}

void peer_done(struct driver_cell *dc, int slot, uint32_t number, const char *status) {
    char text[128];
    (void)snprintf(text, sizeof text, "{\"status\":\"%s\",\"execution_count\":%u}", status, number);
    peer_frame(dc->slots[slot].control, CONTEXT_DONE, 0, number, text);
}
