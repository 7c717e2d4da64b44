/* A process of a cell, from its request to its end. */
#include "cell/proc.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cell/text.h"

#define COMMAND_SHOWN 400
#define KILL_GRACE_MS 3000 /* between the SIGKILL of a timeout and closing the channel, which kills whatever is left   \
                            */

/* ---- the request ---- */

static void add_text(struct json_object *o, const char *key, const char *s) {
    json_object_object_add(o, key, json_object_new_string(s));
}

/* cmd: a string for the shell or a list of arguments. */
static int parse_command(struct proc *p, struct json_object *body, struct json_object *op, struct err *err) {
    struct json_object *cmd = body_get(body, "cmd");
    struct buf shown = {0};
    if (json_object_is_type(cmd, json_type_string) && json_object_get_string_len(cmd) > 0) {
        if (!text_field(body, "cmd")) return err_set(err, ERR_INVALID, "cmd must not contain NUL");
        json_object_object_add(op, "cmd", json_object_get(cmd));
        buf_str(&shown, json_object_get_string(cmd));
    } else if (json_object_is_type(cmd, json_type_array) && json_object_array_length(cmd) > 0) {
        for (size_t i = 0; i < json_object_array_length(cmd); i++) {
            struct json_object *one = json_object_array_get_idx(cmd, i);
            bool fine = json_object_is_type(one, json_type_string) &&
                        strlen(json_object_get_string(one)) == (size_t)json_object_get_string_len(one);
            if (!fine || (i == 0 && !json_object_get_string_len(one))) {
                buf_free(&shown);
                return err_set(err, ERR_INVALID, "cmd[%zu] must be a string without NUL", i);
            }
            if (shown.len < COMMAND_SHOWN) buf_printf(&shown, "%s%s", i ? " " : "", json_object_get_string(one));
        }
        json_object_object_add(op, "argv", json_object_get(cmd));
    } else
        return err_set(err, ERR_INVALID, "cmd must be a string or a list of strings, and not empty");
    size_t n = shown.len < COMMAND_SHOWN ? shown.len : COMMAND_SHOWN;
    p->command = strndup(shown.data, n - text_partial_tail(shown.data, n));
    buf_free(&shown);
    return 0;
}

static int parse_pty(struct proc *p, struct json_object *body, struct json_object *op, struct err *err) {
    struct json_object *pty = body_get(body, "pty"), *size;
    int64_t rows = 24, cols = 80;
    if (!pty || (json_object_is_type(pty, json_type_boolean) && !json_object_get_boolean(pty))) return 0;
    if (!json_object_is_type(pty, json_type_object))
        return err_set(err, ERR_INVALID, "pty must be an object {rows, cols}");
    if (body_int(pty, "rows", 1, 4096, &rows, err) < 0 || body_int(pty, "cols", 1, 4096, &cols, err) < 0) return -1;
    size = json_object_new_object();
    json_object_object_add(size, "rows", json_object_new_int64(rows));
    json_object_object_add(size, "cols", json_object_new_int64(cols));
    json_object_object_add(op, "pty", size);
    p->pty = true;
    return 0;
}

/* stdin: true (somebody will write), a string (written, then closed), or nothing (/dev/null). */
static int parse_stdin(struct proc *p, struct json_object *body, struct json_object *op, bool can_write,
                       struct err *err) {
    struct json_object *in = body_get(body, "stdin");
    if (in && !json_object_is_type(in, json_type_string) && !json_object_is_type(in, json_type_boolean))
        return err_set(err, ERR_INVALID, "stdin must be true, false or a string");
    bool text = json_object_is_type(in, json_type_string), open = text || (can_write && json_object_get_boolean(in));
    if (text) {
        p->input = json_object_get(in);
        p->input_closes = !p->pty;
    }
    json_object_object_add(op, "stdin", json_object_new_boolean(open || p->pty));
    return 0;
}

static struct json_object *parse(struct proc *p, struct json_object *body, bool can_write, struct err *err) {
    const char *cwd = NULL, *user = NULL;
    struct json_object *op = json_object_new_object(), *env = NULL;
    add_text(op, "op", "exec");
    if (parse_command(p, body, op, err) < 0 || body_text(body, "cwd", &cwd, err) < 0 ||
        body_text(body, "user", &user, err) < 0 || body_map(body, "env", true, &env, err) < 0 ||
        body_seconds(body, "timeout_seconds", &p->timeout_ms, err) < 0 ||
        body_bool(body, "background", &p->background, err) < 0 || parse_pty(p, body, op, err) < 0 ||
        parse_stdin(p, body, op, can_write, err) < 0)
        goto refused;
    if (user && strcmp(user, "user") != 0 && strcmp(user, "root") != 0) {
        err_set(err, ERR_INVALID, "user must be \"user\" or \"root\"");
        goto refused;
    }
    if (cwd) add_text(op, "cwd", cwd);
    if (user) add_text(op, "user", user);
    if (env) json_object_object_add(op, "env", json_object_get(env));
    return op;
refused:
    json_object_put(op);
    return NULL;
}

/* ---- telling the views ---- */

void proc_sweep(struct proc *p) {
    for (struct process **at = &p->views; *at;) {
        struct process *v = *at;
        if (!v->cb) {
            *at = v->next;
            defer_cancel(p->cell->world->defers, &v->replay);
            free(v);
        } else
            at = &v->next;
    }
}

void proc_tell(struct proc *p, enum process_event event, struct json_object *json, const void *bytes, size_t n,
               struct err *err) {
    if (p->cell->world->closing) return;
    p->telling++;
    for (struct process *v = p->views; v; v = v->next)
        if (v->cb && v->live) {
            process_cb cb = v->cb;
            if (event == PROCESS_END) v->cb = NULL; /* the last one: the view is over */
            cb(v->arg, v, event, json, bytes, n, err);
        }
    if (--p->telling == 0) proc_sweep(p);
}

struct process *proc_view(struct proc *p, process_cb cb, void *arg) {
    struct process *v = calloc(1, sizeof *v);
    if (!v) abort();
    *v = (struct process){.proc = p, .next = p->views, .cb = cb, .arg = arg, .live = p->state == PROC_STARTING};
    p->views = v;
    return v;
}

void proc_credit(struct proc *p) {
    for (struct process *v = p->views; v; v = v->next)
        if (v->cb && v->paused) return;
    size_t n = p->held;
    p->held = 0;
    if (n && p->channel) guest_channel_consumed(p->channel, n);
}

/* ---- what the guest says ---- */

static void feed_input(struct proc *p) {
    if (!p->input) return;
    size_t n = (size_t)json_object_get_string_len(p->input);
    p->input_at += guest_channel_write(p->channel, json_object_get_string(p->input) + p->input_at, n - p->input_at);
    if (p->input_at < n) return;
    json_object_put(p->input);
    p->input = NULL;
    if (p->input_closes) guest_channel_eof(p->channel);
}

static void on_reply(void *arg, struct json_object *reply) {
    struct proc *p = arg;
    if (p->state != PROC_STARTING) return;
    p->state = PROC_RUNNING;
    if (!p->ours) cell_used(p->cell, USE_COMMANDS, 1);
    p->pid = json_object_get_int64(body_get(reply, "pid"));
    struct json_object *o = json_object_new_object();
    add_text(o, "id", p->id);
    json_object_object_add(o, "pid", json_object_new_int64(p->pid));
    proc_tell(p, PROCESS_START, o, NULL, 0, NULL);
    json_object_put(o);
}

static void on_data(void *arg, bool is_err, const void *bytes, size_t n) {
    struct proc *p = arg;
    p->cell->world->counters.output_bytes += n;
    cell_log_put(p->cell, is_err, bytes, n);
    if (p->background) tail_append(&p->kept[is_err], is_err, bytes, n);
    p->held += n;
    proc_tell(p, is_err ? PROCESS_STDERR : PROCESS_STDOUT, NULL, bytes, n, NULL);
    proc_credit(p);
}

static void on_room(void *arg) {
    struct proc *p = arg;
    if (p->input)
        feed_input(p);
    else
        proc_tell(p, PROCESS_STDIN_DRAINED, NULL, NULL, 0, NULL);
}

static struct json_object *end_json(struct proc *p, struct json_object *code, struct json_object *signal,
                                    const char *word) {
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "exit_code", json_object_get(code));
    json_object_object_add(o, "signal", json_object_get(signal));
    json_object_object_add(o, "duration_ms", text_number((double)(monotonic_us() - p->started_us) / 1000));
    add_text(o, "exit", word);
    return o;
}

static void finish(struct proc *p) {
    struct cell *c = cell_hold(p->cell);
    p->state = PROC_ENDED;
    deadline_unset(c->world->deadlines, &p->clock);
    cell_touch(c);
    proc_tell(p, PROCESS_END, p->failed ? NULL : p->end, NULL, 0, p->failed ? &p->err : NULL);
    if (!p->background || p->failed)
        proc_remove(p);
    else {
        struct proc *oldest = NULL;
        size_t ended = 0;
        for (struct proc *q = c->procs; q; q = q->next)
            if (q->state == PROC_ENDED) ended++, oldest = q;
        if (ended > PROC_RECORDS_MAX) proc_remove(oldest);
    }
    cell_release(c);
}

/* ---- was it out of memory? The driver's count of kills says so: it must have grown while the process ran. ---- */

struct verdict {
    struct cell *cell;
    char id[DOMAIN_ID];
    bool base;
};

static struct proc *by_id(struct cell *c, const char *id) {
    for (struct proc *p = c->procs; p; p = p->next)
        if (strcmp(p->id, id) == 0) return p;
    return NULL;
}

static void on_oom_stats(void *arg, struct err *err, const struct cell_stats *s) {
    struct verdict *v = arg;
    struct cell *c = v->cell;
    struct proc *p = by_id(c, v->id);
    if (!err) c->oom_seen = s->oom_kills;
    if (p && v->base && !err) {
        p->oom_base = s->oom_kills;
        p->oom_base_known = true;
    } else if (p && !v->base && p->state != PROC_ENDED) {
        if (!err && s->oom_kills > p->oom_base) {
            c->world->counters.oom++;
            json_object_object_add(p->end, "exit", json_object_new_string("oom"));
        }
        finish(p);
    }
    free(v);
    cell_release(c);
}

static bool ask_oom(struct proc *p, bool base) {
    struct cell *c = p->cell;
    if (!c->driver || c->status >= CELL_ENDING || cell_asleep(c)) return false;
    struct verdict *v = calloc(1, sizeof *v);
    if (!v) abort();
    *v = (struct verdict){.cell = cell_hold(c), .base = base};
    memcpy(v->id, p->id, sizeof v->id);
    c->world->config.driver->ops->stats(c->driver, on_oom_stats, v);
    return true;
}

static void on_end(void *arg, struct json_object *end, struct err *err) {
    struct proc *p = arg;
    p->channel = NULL;
    struct cell *c = p->cell;
    if (err && p->state == PROC_STARTING) {
        p->failed = true;
        p->err = *err;
        finish(p);
        return;
    }
    struct json_object *code = end ? body_get(end, "exit_code") : NULL, *signal = end ? body_get(end, "signal") : NULL;
    if (!json_object_is_type(code, json_type_int)) code = NULL;
    if (!json_object_is_type(signal, json_type_int)) signal = NULL;
    const char *word = "lost"; /* it ended and nobody said how */
    if (code)
        word = json_object_get_int(code) == 0 ? "ok" : "error";
    else if (signal)
        word = "killed";
    else if (c->status == CELL_FREEZING && !c->rolling_back)
        word = "killed"; /* its memory is not in the image */
    else if (c->status >= CELL_ENDING)
        word = strcmp(c->reason, "lost") == 0 ? "lost" : strcmp(c->reason, "out of memory") == 0 ? "oom" : "killed";
    if (p->timed_out) word = "timeout";
    p->end = end_json(p, code, signal, word);
    if (c->status == CELL_FREEZING && !code && !signal) add_text(p->end, "reason", c->rolling_back ? "lost" : "hibernated");
    /* 137: a shell says this way that what it ran was killed */
    bool maybe_oom = !p->timed_out && ((signal && json_object_get_int(signal) == SIGKILL) ||
                                       (code && json_object_get_int(code) == 128 + SIGKILL));
    if (!maybe_oom || !ask_oom(p, false)) finish(p);
}

/* ---- start, timeout, end ---- */

void proc_kill(struct proc *p) {
    if (!p->channel) return;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "signal", json_object_new_int(SIGKILL));
    json_object_object_add(o, "group", json_object_new_boolean(true));
    guest_channel_control(p->channel, o);
    json_object_put(o);
}

static void on_kill_grace(struct deadline *d) {
    struct proc *p = container_of(d, struct proc, clock);
    if (p->channel) guest_channel_close(p->channel);
}

static void on_timeout(struct deadline *d) {
    struct proc *p = container_of(d, struct proc, clock);
    p->timed_out = true;
    p->cell->world->counters.timeouts++;
    proc_kill(p);
    deadline_set(p->cell->world->deadlines, &p->clock, monotonic_ms() + KILL_GRACE_MS, on_kill_grace);
}

struct proc *proc_start(struct cell *c, struct json_object *body, bool can_write, struct err *err) {
    static const struct guest_channel_events events = {on_reply, on_data, on_room, on_end};
    if (cell_usable(c, err) < 0) return NULL;
    struct proc *p = calloc(1, sizeof *p);
    if (!p) abort();
    p->cell = c;
    id_make(p->id, "proc_");
    struct json_object *op = parse(p, body, can_write, err);
    if (op) p->channel = guest_channel_open(c->guest, op, &events, p, err);
    json_object_put(op);
    p->next = c->procs;
    c->procs = p;
    c->proc_count++;
    if (!p->channel) {
        proc_remove(p);
        return NULL;
    }
    p->started_ms = wall_ms();
    p->started_us = monotonic_us();
    p->oom_base = c->oom_seen;
    c->world->counters.processes++;
    cell_touch(c);
    feed_input(p);
    (void)ask_oom(p, true);
    if (p->timeout_ms) deadline_set(c->world->deadlines, &p->clock, monotonic_ms() + p->timeout_ms, on_timeout);
    return p;
}

void proc_remove(struct proc *p) {
    struct cell *c = p->cell;
    struct proc **at = &c->procs;
    while (*at && *at != p) at = &(*at)->next;
    if (*at) {
        *at = p->next;
        c->proc_count--;
    }
    deadline_unset(c->world->deadlines, &p->clock);
    for (struct process *v = p->views; v; v = v->next) v->cb = NULL;
    proc_sweep(p);
    json_object_put(p->input);
    json_object_put(p->end);
    tail_free(&p->kept[0]);
    tail_free(&p->kept[1]);
    free(p->command);
    free(p);
}

void procs_free(struct cell *c) {
    while (c->procs) proc_remove(c->procs);
}

bool procs_alive(const struct cell *c) {
    for (struct proc *p = c->procs; p; p = p->next)
        if (p->state != PROC_ENDED) return true;
    return false;
}

void procs_clocks(struct cell *c, bool hold, int64_t slept_ms) {
    for (struct proc *p = c->procs; p; p = p->next) {
        if (hold)
            p->clock_held = p->clock.pos > 0, deadline_unset(c->world->deadlines, &p->clock);
        else if (p->clock_held) {
            deadline_set(c->world->deadlines, &p->clock, p->clock.at_ms + slept_ms, p->clock.fire);
            p->clock_held = false;
        }
    }
}
