/* What the API asks of processes: start, attach, signal, list. The record behind a view: proc.c. */
#include "cell/process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cell/files.h"
#include "cell/proc.h"
#include "cell/text.h"

#define SIGNAL_MAX 64

struct process *process_start(struct cell *c, struct json_object *body, process_cb cb, void *arg, struct err *err) {
    struct proc *p = proc_start(c, body, true, err);
    return p ? proc_view(p, cb, arg) : NULL;
}

const char *process_id(const struct process *v) { return v->proc->id; }

size_t process_stdin(struct process *v, const void *bytes, size_t n) {
    struct proc *p = v->proc;
    return p->channel && !p->input ? guest_channel_write(p->channel, bytes, n) : 0;
}

void process_stdin_close(struct process *v) {
    struct proc *p = v->proc;
    if (p->input)
        p->input_closes = true;
    else if (p->channel)
        guest_channel_eof(p->channel);
}

static int send_signal(struct proc *p, int signo, struct err *err) {
    if (signo < 1 || signo > SIGNAL_MAX)
        return err_set(err, ERR_INVALID, "signal must be a number from 1 to %d", SIGNAL_MAX);
    if (!p->channel) return err_set(err, ERR_CONFLICT, "the process %s has ended", p->id);
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "signal", json_object_new_int(signo));
    json_object_object_add(o, "group",
                           json_object_new_boolean(true)); /* what a shell started hears it too, as at a terminal */
    guest_channel_control(p->channel, o);
    json_object_put(o);
    return 0;
}

int process_signal(struct process *v, int signo, struct err *err) { return send_signal(v->proc, signo, err); }

int process_resize(struct process *v, int rows, int cols, struct err *err) {
    struct proc *p = v->proc;
    if (!p->pty) return err_set(err, ERR_CONFLICT, "the process has no terminal");
    if (rows < 1 || rows > 4096 || cols < 1 || cols > 4096)
        return err_set(err, ERR_INVALID, "rows and cols must be from 1 to 4096");
    if (!p->channel) return err_set(err, ERR_CONFLICT, "the process %s has ended", p->id);
    struct json_object *o = json_object_new_object(), *size = json_object_new_object();
    json_object_object_add(size, "rows", json_object_new_int(rows));
    json_object_object_add(size, "cols", json_object_new_int(cols));
    json_object_object_add(o, "resize", size);
    guest_channel_control(p->channel, o);
    json_object_put(o);
    return 0;
}

void process_pause(struct process *v, bool paused) {
    v->paused = paused;
    if (!paused) proc_credit(v->proc);
}

void process_detach(struct process *v, bool kill_it) {
    struct proc *p = v->proc;
    v->cb = NULL;
    defer_cancel(p->cell->world->defers, &v->replay);
    if (kill_it) proc_kill(p);
    proc_credit(p);
    if (p->telling) return; /* freed when the round is over */
    struct process **at = &p->views;
    while (*at && *at != v) at = &(*at)->next;
    if (*at) *at = v->next;
    free(v);
}

/* ---- attach ---- */

static void replay_stream(struct process *v, int stream) {
    struct buf text = {0};
    tail_copy(&v->proc->kept[stream], -1, &text);
    if (text.len && v->cb) v->cb(v->arg, v, stream ? PROCESS_STDERR : PROCESS_STDOUT, NULL, text.data, text.len, NULL);
    buf_free(&text);
}

/* What was before it came: that it runs, and what is kept of its output; for one that ended, also how. */
static void on_replay(struct deferred *d) {
    struct process *v = container_of(d, struct process, replay);
    struct proc *p = v->proc;
    p->telling++;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string(p->id));
    json_object_object_add(o, "pid", json_object_new_int64(p->pid));
    if (v->cb) v->cb(v->arg, v, PROCESS_START, o, NULL, 0, NULL);
    json_object_put(o);
    replay_stream(v, 0);
    replay_stream(v, 1);
    v->live = true;
    process_cb cb = v->cb;
    if (p->state == PROC_ENDED && cb) {
        v->cb = NULL;
        cb(v->arg, v, PROCESS_END, p->end, NULL, 0, NULL);
    }
    p->telling--;
    proc_sweep(p);
}

struct proc *proc_find(struct cell *c, const char *id, struct err *err) {
    char *end;
    long pid = strtol(id, &end, 10);
    bool number = *id && !*end;
    for (struct proc *p = c->procs; p; p = p->next)
        if (strcmp(p->id, id) == 0 || (number && p->pid == pid && p->state != PROC_ENDED)) return p;
    err_set(err, ERR_NOT_FOUND, "Cella started no process %.60s in this sandbox", id);
    return NULL;
}

struct process *process_attach(struct cell *c, const char *id, process_cb cb, void *arg, struct err *err) {
    struct proc *p = proc_find(c, id, err);
    if (!p) return NULL;
    struct process *v = proc_view(p, cb, arg);
    if (!v->live) defer(c->world->defers, &v->replay, on_replay);
    cell_touch(c);
    return v;
}

/* Of a background process the newest output is kept; of others nothing is, and nothing was dropped by that. */
static struct json_object *truncated(struct proc *p) {
    if (!p->kept[0].dropped && !p->kept[1].dropped) return NULL;
    struct json_object *o = json_object_new_object();
    for (int i = 0; i < 2; i++) {
        if (!p->kept[i].dropped) continue;
        struct json_object *v = json_object_new_object();
        json_object_object_add(v, "dropped_bytes", json_object_new_uint64(p->kept[i].dropped));
        json_object_object_add(o, i ? "stderr" : "stdout", v);
    }
    return o;
}

struct json_object *process_get(struct cell *c, const char *id, struct err *err) {
    struct proc *p = proc_find(c, id, err);
    if (!p) return NULL;
    struct json_object *o = json_object_new_object();
    char time[32];
    format_time(time, p->started_ms);
    json_object_object_add(o, "id", json_object_new_string(p->id));
    json_object_object_add(o, "pid", json_object_new_int64(p->pid));
    json_object_object_add(o, "command", json_object_new_string(p->command));
    json_object_object_add(o, "background", json_object_new_boolean(p->background));
    json_object_object_add(o, "status", json_object_new_string(p->state == PROC_ENDED ? "ended" : "running"));
    json_object_object_add(o, "started_at", json_object_new_string(time));
    if (p->end) {
        json_object_object_foreach(p->end, key, value) json_object_object_add(o, key, json_object_get(value));
    }
    for (int i = 0; i < 2; i++) {
        struct buf text = {0};
        tail_copy(&p->kept[i], -1, &text);
        json_object_object_add(o, i ? "stderr" : "stdout", text_json(text.data, text.len));
        buf_free(&text);
    }
    json_object_object_add(o, "truncated", truncated(p));
    return o;
}

/* ---- calls that answer later ---- */

struct call {
    struct cell *cell;
    cell_json_cb json_cb;
    cell_done_cb done_cb;
    void *arg;
    bool failed;
    struct err err;
    char target[64];
    struct deferred later;
};

static struct call *call_new(struct cell *c, cell_json_cb json_cb, cell_done_cb done_cb, void *arg) {
    struct call *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct call){.cell = cell_hold(c), .json_cb = json_cb, .done_cb = done_cb, .arg = arg};
    return x;
}

static void call_free(struct call *x) {
    cell_release(x->cell);
    free(x);
}

static void on_list(void *arg, struct err *err, struct json_object *borrowed) {
    struct call *x = arg;
    struct json_object *list = err ? NULL : body_get(borrowed, "processes");
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i);
        if (!json_object_is_type(one, json_type_object)) continue;
        int64_t pid = json_object_get_int64(body_get(one, "pid"));
        for (struct proc *p = x->cell->procs; p; p = p->next)
            if (p->state == PROC_RUNNING && p->pid == pid)
                json_object_object_add(one, "id", json_object_new_string(p->id));
    }
    x->json_cb(x->arg, err, borrowed);
    call_free(x);
}

void process_list(struct cell *c, cell_json_cb cb, void *arg) {
    struct json_object *op = json_object_new_object();
    json_object_object_add(op, "op", json_object_new_string("processes"));
    files_call(c, op, on_list, call_new(c, cb, NULL, arg));
    json_object_put(op);
}

static void on_answer(struct deferred *d) {
    struct call *x = container_of(d, struct call, later);
    x->done_cb(x->arg, x->failed ? &x->err : NULL);
    call_free(x);
}

/* What the shell's kill said. */
static void on_killed(void *arg, struct err *err, struct json_object *answer) {
    struct call *x = arg;
    struct err failed;
    const char *said = answer ? text_field(answer, "stderr") : NULL, *exit = answer ? text_field(answer, "exit") : NULL;
    if (!err && exit && strcmp(exit, "ok") != 0) {
        err = &failed;
        if (said && strstr(said, "permitted"))
            err_set(err, ERR_PERMISSION, "the process %s may not be signalled", x->target);
        else if (said && strstr(said, "No such process"))
            err_set(err, ERR_NOT_FOUND, "the sandbox has no process %s", x->target);
        else
            err_set(err, ERR_INTERNAL, "the process %s could not be signalled: %s", x->target, exit);
    }
    x->done_cb(x->arg, err);
    call_free(x);
}

void process_signal_by_id(struct cell *c, const char *id, int signo, cell_done_cb cb, void *arg) {
    struct call *x = call_new(c, NULL, cb, arg);
    struct proc *p = proc_find(c, id, &x->err);
    char *end, command[96];
    long pid = strtol(id, &end, 10);
    if (!p && *id && !*end && pid > 1 && pid < INT32_MAX && signo >= 1 && signo <= SIGNAL_MAX) {
        /* Not one that Cella started: the cell's own user sends the signal, so the cell's own rules say whether it may.
         */
        (void)snprintf(x->target, sizeof x->target, "%ld", pid);
        (void)snprintf(command, sizeof command, "LC_ALL=C kill -%d %ld", signo, pid);
        struct json_object *body = json_object_new_object();
        json_object_object_add(body, "cmd", json_object_new_string(command));
        process_run_ours(c, body, on_killed, x);
        json_object_put(body);
        return;
    }
    x->failed = cell_usable(c, &x->err) < 0 || !p || send_signal(p, signo, &x->err) < 0;
    if (!p && !x->err.code) err_set(&x->err, ERR_NOT_FOUND, "the sandbox has no process \"%.60s\"", id);
    defer(c->world->defers, &x->later, on_answer);
}
