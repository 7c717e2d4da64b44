/* image_tool: the process driver by hand, for tests: one JSON object per line in, one per line out. No daemon, no HTTP, no database.
 *
 *   {"op": "create", "template"}                          -> {"cell", "from"}          {"op": "context", "cell", "slot", "language"} -> {}
 *   {"op": "run", "cell", "slot", "code"}                 -> {"output", "done"}        {"op": "start", "cell", "slot", "code"} -> {}
 *   {"op": "freeze", "cell", "image", "dir", "hold"}      -> {"memory_bytes", "disk_bytes", "frozen_us", "not_carried", "ms"}
 *   {"op": "thaw", "image", "dir", "id"?, "memory_bytes"?} -> {"cell", "slots", "not_carried", "ms"}
 *   {"op": "release" | "destroy" | "stats", "cell"}       {"op": "drop", "image"}      {"op": "keep", "images": []}
 *   {"op": "finish", "cell", "slot"}: what a "start" printed, when it is done
 * A failure: {"error", "code", "hint"}. Exit of a context: {"event": "exit", …} lines in between. Cells live on when the tool ends. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "driver/process/process_driver.h"
#include "wire/context_proto.h"
#include "wire/frame.h"

struct known {
    struct known *next;
    struct driver_cell *cell;
    int guest_fd;
    struct context_ends ends[DRIVER_SLOTS];
};

static uv_loop_t loop;
static struct driver *driver;
static struct known *cells;
static bool answered;
static int64_t asked_us;
static uint32_t number = 1000; /* of executions: beyond what an earlier tool used */

static void say(struct json_object *o) {
    puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
    json_object_put(o);
}

static void answer(struct json_object *o) {
    json_object_object_add(o, "ms", json_object_new_double((double)(monotonic_us() - asked_us) / 1000));
    say(o);
    answered = true;
}

static void refuse(const struct err *e) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "error", json_object_new_string(e->text));
    json_object_object_add(o, "code", json_object_new_string(e->code));
    json_object_object_add(o, "hint", e->hint ? json_object_new_string(e->hint) : NULL);
    answer(o);
}

static struct known *remember(struct driver_cell *cell, int guest_fd) {
    struct known *k = calloc(1, sizeof *k);
    if (!k) abort();
    k->cell = cell;
    k->guest_fd = guest_fd;
    for (int i = 0; i < DRIVER_SLOTS; i++) k->ends[i] = (struct context_ends){-1, -1, -1};
    k->next = cells;
    cells = k;
    return k;
}

static struct known *known_as(const char *id) {
    for (struct known *k = cells; k; k = k->next)
        if (k->cell && !strcmp(driver->ops->id(k->cell), id)) return k;
    return NULL;
}

static void drop_ends(struct context_ends *e) {
    if (e->control_fd < 0) return;
    close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd);
    *e = (struct context_ends){-1, -1, -1};
}

/* ---- callbacks ---- */

static void on_done(void *arg, struct err *e) {
    (void)arg;
    if (e) refuse(e);
    else answer(json_object_new_object());
}

static void on_created(void *arg, struct err *e, const struct driver_created *c) {
    (void)arg;
    if (e) {
        refuse(e);
        return;
    }
    remember(c->cell, c->guest_fd)->ends[0] = c->python;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "cell", json_object_new_string(driver->ops->id(c->cell)));
    json_object_object_add(o, "from", json_object_new_string(c->from));
    answer(o);
}

struct place {
    struct known *cell;
    int slot;
};

static void on_context(void *arg, struct err *e, const struct context_ends *ends) {
    struct place *p = arg;
    if (e) {
        refuse(e);
    } else {
        p->cell->ends[p->slot] = *ends;
        answer(json_object_new_object());
    }
    free(p);
}

static void on_image(void *arg, struct err *e, const struct driver_image *i) {
    (void)arg;
    if (e) {
        refuse(e);
        return;
    }
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "memory_bytes", json_object_new_int64((int64_t)i->memory_bytes));
    json_object_object_add(o, "disk_bytes", json_object_new_int64((int64_t)i->disk_bytes));
    json_object_object_add(o, "frozen_us", json_object_new_int64((int64_t)i->frozen_us));
    json_object_object_add(o, "not_carried", json_object_get(i->not_carried));
    answer(o);
}

static void on_copy(void *arg, struct err *e, const struct driver_copy *c) {
    (void)arg;
    if (e) {
        refuse(e);
        return;
    }
    struct known *k = remember(c->cell, c->guest_fd);
    struct json_object *o = json_object_new_object(), *slots = json_object_new_array();
    memcpy(k->ends, c->ends, sizeof k->ends);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (k->ends[i].control_fd >= 0) json_object_array_add(slots, json_object_new_int(i));
    json_object_object_add(o, "cell", json_object_new_string(driver->ops->id(c->cell)));
    json_object_object_add(o, "slots", slots);
    json_object_object_add(o, "not_carried", json_object_get(c->not_carried));
    answer(o);
}

static void on_stats(void *arg, struct err *e, const struct cell_stats *s) {
    (void)arg;
    if (e) {
        refuse(e);
        return;
    }
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "memory_bytes", json_object_new_int64((int64_t)s->memory_bytes));
    json_object_object_add(o, "disk_bytes", json_object_new_int64((int64_t)s->disk_bytes));
    answer(o);
}

static void on_exit_of(void *arg, struct driver_cell *c, int slot, enum context_fate fate, int code) {
    struct json_object *o = json_object_new_object();
    (void)arg;
    json_object_object_add(o, "event", json_object_new_string("exit"));
    json_object_object_add(o, "cell", json_object_new_string(driver->ops->id(c)));
    json_object_object_add(o, "slot", json_object_new_int(slot));
    json_object_object_add(o, "fate", json_object_new_int(fate));
    json_object_object_add(o, "code", json_object_new_int(code));
    say(o);
}

static void on_gone(void *arg, struct driver_cell *c, enum cell_fate fate) {
    struct json_object *o = json_object_new_object();
    (void)arg;
    json_object_object_add(o, "event", json_object_new_string("gone"));
    json_object_object_add(o, "cell", json_object_new_string(driver->ops->id(c)));
    json_object_object_add(o, "fate", json_object_new_int(fate));
    for (struct known *k = cells; k; k = k->next)
        if (k->cell == c) k->cell = NULL;
    say(o);
}

static void on_adopt(void *arg, struct driver_cell *c, const char *template_id, int guest_fd, const struct context_ends ends[DRIVER_SLOTS]) {
    (void)arg, (void)template_id;
    memcpy(remember(c, guest_fd)->ends, ends, sizeof(struct context_ends) * DRIVER_SLOTS);
}

/* ---- running code: blocking, it is a test ---- */

static void start(const struct known *k, int slot, const char *code) {
    const size_t n = strlen(code);
    number++;
    for (size_t at = 0; at < n || !at;) {
        uint8_t packet[WIRE_PACKET_MAX];
        size_t len = 0, part = n - at < WIRE_PAYLOAD_MAX ? n - at : WIRE_PAYLOAD_MAX;
        (void)frame_put(packet, &len, CONTEXT_EXECUTE, at + part < n ? FRAME_MORE : 0, number, code + at, part);
        struct pollfd p = {k->ends[slot].control_fd, POLLOUT, 0};
        (void)poll(&p, 1, 20000);
        if (send(k->ends[slot].control_fd, packet, len, MSG_NOSIGNAL) < 0) perror("send");
        at += part;
        if (!n) break;
    }
}

static void drain(int fd, struct buf *out) {
    char piece[65536];
    for (ssize_t got; (got = read(fd, piece, sizeof piece)) > 0;) buf_append(out, piece, (size_t)got);
}

/* Until DONE of any execution, or its end. */
static struct json_object *finish(const struct known *k, int slot) {
    const struct context_ends *e = &k->ends[slot];
    struct buf out = {0}, done = {0};
    const int64_t until = monotonic_ms() + 60000;
    bool over = false;
    while (!over && monotonic_ms() < until) {
        struct pollfd p[3] = {{e->control_fd, POLLIN, 0}, {e->stdout_fd, POLLIN, 0}, {e->stderr_fd, POLLIN, 0}};
        uint8_t packet[WIRE_PACKET_MAX];
        (void)poll(p, 3, 1000);
        ssize_t got = recv(e->control_fd, packet, sizeof packet, MSG_DONTWAIT);
        struct frame f;
        size_t at = 0;
        drain(e->stdout_fd, &out);
        drain(e->stderr_fd, &out);
        while (got > 0 && frame_next(packet, (size_t)got, &at, &f) == 1) {
            if (f.type == CONTEXT_ERROR || f.type == CONTEXT_DONE) buf_append(&done, f.payload, f.length);
            over = over || f.type == CONTEXT_DONE;
        }
        over = over || !got || (got < 0 && errno != EAGAIN && errno != EINTR);
    }
    drain(e->stdout_fd, &out);
    drain(e->stderr_fd, &out);
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "output", json_object_new_string_len(out.len ? out.data : "", (int)out.len));
    json_object_object_add(o, "done", json_object_new_string_len(done.len ? done.data : "", (int)done.len));
    buf_free(&out);
    buf_free(&done);
    return o;
}

/* ---- commands ---- */

static const char *text(struct json_object *o, const char *key) {
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) && v ? json_object_get_string(v) : NULL;
}
static int64_t integer(struct json_object *o, const char *key) {
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_int64(v) : 0;
}

static const struct cell_limits limits = {.memory_bytes = 4ull << 30, .disk_bytes = 1ull << 30, .cpu_millis = 2000, .pids_max = 256, .open_files = 1024};

static void keep(struct json_object *o) {
    struct json_object *list;
    const char *ids[64];
    size_t n = 0;
    if (json_object_object_get_ex(o, "images", &list))
        for (; n < json_object_array_length(list) && n < 64; n++) ids[n] = json_object_get_string(json_object_array_get_idx(list, n));
    driver->ops->images_keep(driver, ids, n, on_done, NULL);
}

static void thaw(struct json_object *o) {
    struct cell_limits l = limits;
    if (integer(o, "memory_bytes")) l.memory_bytes = (uint64_t)integer(o, "memory_bytes");
    driver->ops->thaw(driver, text(o, "image"), text(o, "dir"), text(o, "id"), integer(o, "memory_bytes") ? &l : NULL, on_copy, NULL);
}

static void with_cell(const char *op, struct known *k, struct json_object *o) {
    const int slot = (int)integer(o, "slot");
    if (!strcmp(op, "run") || !strcmp(op, "start")) start(k, slot, text(o, "code"));
    if (!strcmp(op, "run") || !strcmp(op, "finish")) answer(finish(k, slot));
    else if (!strcmp(op, "start")) answer(json_object_new_object());
    else if (!strcmp(op, "freeze")) driver->ops->freeze(k->cell, text(o, "image"), text(o, "dir"), integer(o, "hold") != 0, on_image, NULL);
    else if (!strcmp(op, "release")) driver->ops->release(k->cell, on_done, NULL);
    else if (!strcmp(op, "stats")) driver->ops->stats(k->cell, on_stats, NULL);
    else if (!strcmp(op, "destroy")) {
        for (int i = 0; i < DRIVER_SLOTS; i++) drop_ends(&k->ends[i]);
        struct driver_cell *cell = k->cell;
        k->cell = NULL;
        driver->ops->destroy(cell, on_done, NULL);
    } else if (!strcmp(op, "context")) {
        struct place *p = malloc(sizeof *p);
        if (!p) abort();
        *p = (struct place){k, slot};
        driver->ops->context_make(k->cell, slot, text(o, "language"), on_context, p);
    }
}

static void command(const char *line) {
    struct json_object *o = json_tokener_parse(line);
    const char *op = o ? text(o, "op") : NULL, *id = o ? text(o, "cell") : NULL;
    struct known *k = id ? known_as(id) : NULL;
    struct err e;
    answered = false;
    asked_us = monotonic_us();
    if (op && !strcmp(op, "create")) driver->ops->create(driver, text(o, "template"), &limits, on_created, NULL);
    else if (op && !strcmp(op, "thaw")) thaw(o);
    else if (op && !strcmp(op, "drop")) driver->ops->image_drop(driver, text(o, "image"), on_done, NULL);
    else if (op && !strcmp(op, "keep")) keep(o);
    else if (op && !strcmp(op, "warm")) driver->ops->warm(driver, text(o, "template"), on_done, NULL);
    else if (op && k) with_cell(op, k, o);
    else {
        err_set(&e, ERR_INVALID, "unknown command or cell");
        refuse(&e);
    }
    while (!answered) uv_run(&loop, UV_RUN_ONCE);
    json_object_put(o);
}

int main(int argc, char **argv) {
    struct err e;
    char *line = NULL;
    size_t space = 0;
    log_open("image_tool", LOG_INFO);
    if (argc != 3) {
        fprintf(stderr, "usage: image_tool SOCKET STATE\n");
        return 2;
    }
    uv_loop_init(&loop);
    driver = process_driver_open(&loop, argv[1], &e);
    char bases[4096], key[4096];
    (void)snprintf(bases, sizeof bases, "%s/bases", argv[2]);
    (void)snprintf(key, sizeof key, "%s/image.key", argv[2]);
    if (!driver || process_driver_images(driver, bases, key, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    const struct driver_listener listener = {.on_context_exit = on_exit_of, .on_cell_gone = on_gone, .on_adopt = on_adopt};
    driver->ops->set_listener(driver, &listener);
    process_driver_pool(driver, 0, 0);
    asked_us = monotonic_us();
    driver->ops->adopt(driver, on_done, NULL);
    while (!answered) uv_run(&loop, UV_RUN_ONCE);
    while (getline(&line, &space, stdin) > 0) command(line);
    free(line);
    for (struct known *k = cells, *next; k; k = next) {
        next = k->next;
        for (int i = 0; i < DRIVER_SLOTS; i++) drop_ends(&k->ends[i]);
        if (k->guest_fd >= 0) close(k->guest_fd);
        free(k);
    }
    driver->ops->close(driver);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) ? 3 : 0;
}
