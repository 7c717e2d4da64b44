/* Life of a context: made by the driver, fed with executions, gone, made again. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "cell/domain.h"
#include "cell/inspect.h"
#include "wire/context_proto.h"

#define SETTLE_MS 20        /* an interrupt travels through the keeper; the next execution must not get it */
#define EOF_GRACE_MS 500    /* between the end of the stream and the exit of its process */
#define EXIT_MS 10000       /* between SIGKILL and the exit: a process in an uninterruptible call takes its time */
#define FAILED_STARTS_MAX 2 /* a context that dies this often before it was ready is not started again for what waits  \
                             */

const char *language_name(const char *word) {
    if (strcmp(word, "python") == 0 || strcmp(word, "py") == 0 || strcmp(word, "python3") == 0) return LANGUAGE_PYTHON;
    if (strcmp(word, "bash") == 0 || strcmp(word, "shell") == 0 || strcmp(word, "sh") == 0) return LANGUAGE_SHELL;
    return NULL;
}

struct context *context_new(struct cell *c, int slot, const char *language, const char *id) {
    struct context *x = calloc(1, sizeof *x);
    if (!x) abort();
    x->cell = c;
    x->slot = slot;
    x->language = language;
    x->state = CONTEXT_MAKING;
    x->created_ms = wall_ms();
    x->queue_last = &x->queue;
    if (id)
        (void)snprintf(x->id, sizeof x->id, "%s", id);
    else
        id_make(x->id, "ctx_");
    c->contexts[slot] = x;
    return x;
}

void context_free(struct context *x) {
    struct world *w = x->cell->world;
    if (x->running) execution_free(steal_ptr(&x->running));
    for (struct execution *e; (e = x->queue);) {
        x->queue = e->next;
        execution_free(e);
    }
    inspections_end(x, "the context is gone");
    if (x->link) context_link_close(x->link);
    buf_free(&x->rest.join);
    deadline_unset(w->deadlines, &x->settle);
    deadline_unset(w->deadlines, &x->eof);
    defer_cancel(w->defers, &x->later);
    x->cell->contexts[x->slot] = NULL;
    free(x->cwd);
    json_object_put(x->env);
    free(x);
}

/* ---- what the link says ---- */

static void on_output(void *arg, bool is_err, const void *bytes, size_t n) {
    struct context *x = arg;
    cell_log_put(x->cell, is_err, bytes, n);
    /* Printed while nothing runs (by a thread or a child that outlived its execution): the log has it. */
    if (x->running && x->running->stage == STAGE_RUNNING) execution_on_output(x->running, is_err, bytes, n);
}

static void on_ready(struct context *x) {
    if (x->ready) return;
    x->ready = true;
    x->failed_starts = 0;
    if (x->running && x->running->stage == STAGE_RUNNING) execution_ready(x->running);
    if (!x->interrupt_at_ready) return;
    x->interrupt_at_ready = false;
    if (x->cell->driver) x->cell->world->config.driver->ops->context_signal(x->cell->driver, x->slot, SIGINT);
}

static void on_frame(void *arg, uint16_t type, uint16_t flags, uint32_t number, struct json_object *json) {
    struct context *x = arg;
    if (type == CONTEXT_READY)
        on_ready(x);
    else if (x->taking_over)
        adopt_frame(x, type, flags, number, json);
    else if (x->inspecting && x->inspecting == number)
        inspection_frame(x, type, json);
    else if (type != CONTEXT_STATUS && x->running && x->running->stage == STAGE_RUNNING && x->running->number == number)
        execution_on_frame(x->running, type, json);
    /* Anything else belongs to an execution that is over: a thread of it that still displays. */
}

static void on_eof_grace(struct deadline *d) {
    struct context *x = container_of(d, struct context, eof);
    context_broken(x, "it closed its control stream");
}

static void on_end(void *arg, const char *why) {
    struct context *x = arg;
    if (why)
        context_broken(x, why);
    else
        deadline_set(x->cell->world->deadlines, &x->eof, monotonic_ms() + EOF_GRACE_MS, on_eof_grace);
}

void context_broken(struct context *x, const char *why) {
    if (x->state != CONTEXT_LIVE || x->broken) return;
    log_warn("%s: context %s: %s", x->cell->id, x->id, why);
    x->broken = why;
    context_kill(x);
}

/* ---- start ---- */

static void put_environment(struct context_link *l, uint16_t type, struct json_object *env) {
    if (!env || json_object_object_length(env) == 0) return;
    struct buf text = {0};
    json_object_object_foreach(env, name, value) {
        buf_str(&text, name);
        buf_str(&text, "=");
        buf_append(&text, json_object_get_string(value), (size_t)json_object_get_string_len(value) + 1);
    }
    context_link_put(l, type, 0, 0, text.data, text.len);
    buf_free(&text);
}

void context_put_environment(struct context *x, struct json_object *env) {
    put_environment(x->link, CONTEXT_SETENV, env);
    context_link_send(x->link);
}

void context_put_settings(struct context *x) {
    put_environment(x->link, CONTEXT_SETENV, x->cell->env);
    put_environment(x->link, CONTEXT_SETENV, x->env);
    if (x->cwd) context_link_put(x->link, CONTEXT_CWD, 0, 0, x->cwd, strlen(x->cwd) + 1);
}

void context_open_link(struct context *x, const struct context_ends *ends) {
    struct cell *c = x->cell;
    x->link = context_link_open(c->world->config.loop, ends,
                                &(struct context_link_events){on_output, on_frame, on_end, x}, &c->unfinished);
}

void context_attach(struct context *x, const struct context_ends *ends, bool taken_over) {
    context_open_link(x, ends);
    x->state = CONTEXT_LIVE;
    x->ready = taken_over;
    x->dying = false;
    x->broken = NULL;
    x->taking_over = taken_over;
    x->last_number = 0;
    x->execution_count = 0;
    if (taken_over) {
        context_link_replays(x->link, true);
        context_link_put(x->link, CONTEXT_HELLO, 0, 0, NULL, 0);
    } else
        context_put_settings(x);
    context_link_send(x->link);
}

static void finish_stopped(struct context *x, bool restarted, struct err *err) {
    struct execution *e = x->running;
    if (!e || e->stage != STAGE_RESTARTING) return;
    x->running = NULL;
    e->context_restarted = restarted;
    if (restarted) x->restart_unsaid = false;
    if (err && e->error) { /* say that too */
        char text[600];
        const char *value = json_object_get_string(body_get(e->error, "value"));
        (void)snprintf(text, sizeof text, "%.200s; the context could not be started again: %s", value ? value : "",
                       err->text);
        json_object_object_add(e->error, "value", json_object_new_string(text));
    }
    execution_finish(e, e->exit, NULL);
}

static void tell_restarted(struct context *x, struct err *err) {
    cell_json_cb cb = x->restart_cb;
    x->restart_cb = NULL;
    if (!cb) return;
    struct json_object *o = err ? NULL : context_describe(x->cell, x->id, err);
    cb(x->restart_arg, err, o);
    json_object_put(o);
}

static void deleted(struct context *x) {
    cell_done_cb cb = x->delete_cb;
    void *arg = x->delete_arg;
    struct cell *c = x->cell;
    struct err err;
    context_end_all(x, "killed", "the context was deleted");
    context_free(x);
    (void)cell_save(c, &err);
    if (cb) cb(arg, NULL);
}

/* The cell may have ended, or the context been asked to go, while the driver was at it. */
struct making {
    struct cell *cell;
    struct context *context;
    int slot;
};

static void close_ends(const struct context_ends *e) { close(e->control_fd), close(e->stdout_fd), close(e->stderr_fd); }

static void on_early_exit(struct deferred *d) {
    struct context *x = container_of(d, struct context, later);
    context_exited(x, x->early_fate, x->early_code);
}

static void made(struct context *x, struct err *err, const struct context_ends *ends) {
    struct world *w = x->cell->world;
    if (err) {
        x->state = CONTEXT_LOST;
        log_warn("%s: context %s: %s", x->cell->id, x->id, err->text);
        world_event(w, x->cell->id, "context.lost", err->code, err->text, NULL);
        finish_stopped(x, false, err);
        context_end_all(x, "lost", err->text);
    } else {
        context_attach(x, ends, false);
        finish_stopped(x, true, NULL);
        if (x->early_exit) defer(w->defers, &x->later, on_early_exit);
    }
    tell_restarted(x, err);
    if (!x->deleting)
        context_next(x);
    else if (err)
        deleted(x);
    else
        context_kill(x);
}

static void on_made(void *arg, struct err *err, const struct context_ends *ends) {
    struct making *m = arg;
    struct cell *c = m->cell;
    bool there = c->status < CELL_ENDING && c->contexts[m->slot] == m->context && m->context->state == CONTEXT_MAKING;
    if (there)
        made(m->context, err, ends);
    else if (!err)
        close_ends(ends);
    cell_release(c);
    free(m);
}

void context_make(struct context *x) {
    struct making *m = malloc(sizeof *m);
    if (!m) abort();
    *m = (struct making){cell_hold(x->cell), x, x->slot};
    x->state = CONTEXT_MAKING;
    x->early_exit = false;
    x->cell->world->config.driver->ops->context_make(x->cell->driver, x->slot, x->language, on_made, m);
}

/* ---- end ---- */

/* The driver owes an exit after a SIGKILL; whoever waits for this context must not wait for ever when it does not come.
 */
static void on_no_exit(struct deadline *d) {
    struct context *x = container_of(d, struct context, eof);
    log_error("%s: context %s was killed and no exit was reported", x->cell->id, x->id);
    context_exited(x, FATE_KILLED, SIGKILL);
}

void context_kill(struct context *x) {
    if (x->state != CONTEXT_LIVE || x->dying || !x->cell->driver) return;
    x->dying = true;
    x->cell->world->config.driver->ops->context_signal(x->cell->driver, x->slot, SIGKILL);
    deadline_set(x->cell->world->deadlines, &x->eof, monotonic_ms() + EXIT_MS, on_no_exit);
}

/* The word and the sentence for what ran when its context went. */
static void judge(struct context *x, struct execution *e, enum context_fate fate, int code) {
    struct world *w = x->cell->world;
    const char *name = "ContextKilled";
    char text[320];
    e->exit = "killed";
    if (x->broken) {
        e->exit = "lost";
        name = "ContextLost";
        (void)snprintf(text, sizeof text, "the result is lost: the context broke its protocol: %s", x->broken);
    } else if (fate == FATE_OOM) {
        e->exit = "oom";
        name = "OutOfMemory";
        w->counters.oom++;
        (void)snprintf(text, sizeof text,
                       "the sandbox ran out of memory (limit %llu MB) and the interpreter was killed",
                       (unsigned long long)(x->cell->limits.memory_bytes >> 20));
    } else if (e->stop == STOP_TIMEOUT) {
        e->exit = "timeout";
        name = "TimeoutError";
        (void)snprintf(text, sizeof text,
                       fate == FATE_KILLED && code == SIGKILL
                           ? "the code ran longer than %g s, did not stop on an interrupt and was killed"
                           : "the code ran longer than %g s, and its interpreter ended on the interrupt",
                       (double)e->timeout_ms / 1000);
    } else if (e->stop == STOP_INTERRUPT && fate == FATE_KILLED && code == SIGKILL)
        (void)snprintf(text, sizeof text, "the code did not stop on an interrupt and was killed");
    else if (e->stop == STOP_KILL)
        (void)snprintf(text, sizeof text, "the context was restarted or deleted while the code ran");
    else if (fate == FATE_EXITED)
        (void)snprintf(text, sizeof text, "the interpreter exited with code %d", code);
    else
        (void)snprintf(text, sizeof text, "the interpreter was killed by signal %d (%s)", code, strsignal(code));
    if (!x->deleting) {
        size_t n = strlen(text);
        (void)snprintf(text + n, sizeof text - n, "; the state of the context is gone");
    }
    json_object_put(e->error);
    e->error = execution_error(name, "", "%s", text);
}

void context_exited(struct context *x, enum context_fate fate, int code) {
    struct cell *c = x->cell;
    struct world *w = c->world;
    if (x->state == CONTEXT_MAKING) { /* it died before the driver had said that it is there */
        x->early_exit = true;
        x->early_fate = fate;
        x->early_code = code;
        return;
    }
    if (x->state != CONTEXT_LIVE) return;
    context_link_drain(x->link); /* its last words, a DONE among them */
    bool was_ready = x->ready, asked = x->dying && !x->broken;
    struct execution *e = x->running;
    context_link_close(x->link);
    x->link = NULL;
    inspections_end(x, "the context ended");
    x->state = CONTEXT_LOST;
    x->interrupt_at_ready = false;
    deadline_unset(w->deadlines, &x->eof);
    if (e) {
        judge(x, e, fate, code);
        e->stage = STAGE_RESTARTING;
        deadline_unset(w->deadlines, &e->clock);
    }
    x->broken = NULL;
    x->dying = false;
    x->taking_over = false;
    if (x->deleting) {
        finish_stopped(x, false, NULL);
        deleted(x);
        return;
    }
    if (!asked || fate == FATE_OOM)
        world_event(w, c->id, fate == FATE_OOM ? "context.oom" : "context.exited", NULL, NULL, NULL);
    x->failed_starts = was_ready ? 0 : x->failed_starts + 1;
    x->restart_unsaid = true;
    if (x->failed_starts > FAILED_STARTS_MAX) {
        finish_stopped(x, false, NULL);
        context_end_all(x, "lost", "the context does not start");
    } else if (e || x->queue || x->restart_cb) {
        x->restarts++;
        w->counters.context_restarts++;
        context_make(x);
    } /* else: it died idle and is made again when it is needed */
}

void context_end_all(struct context *x, const char *exit, const char *why) {
    struct execution *e = x->running;
    x->running = NULL;
    if (e)
        execution_finish(e, e->stage == STAGE_RESTARTING ? e->exit : exit,
                         e->error ? NULL : execution_error("SandboxEnded", "", "%s", why));
    struct execution *queue = x->queue; /* what a callback starts from here on is not part of it */
    x->queue = NULL;
    x->queue_last = &x->queue;
    x->queued = 0;
    while ((e = queue)) {
        queue = e->next;
        execution_finish(e, exit, execution_error("NotRun", "", "the code did not run: %s", why));
    }
}

static void on_settled(struct deadline *d) { context_next(container_of(d, struct context, settle)); }

void context_next(struct context *x) {
    struct world *w = x->cell->world;
    if (x->cell->holds || inspection_next(x) || x->running || !x->queue || x->cell->status != CELL_RUNNING || x->taking_over || x->dying || x->deleting ||
        x->settle.pos)
        return;
    if (x->state == CONTEXT_LOST) { /* it died while idle */
        x->failed_starts = 0;
        x->restarts++;
        w->counters.context_restarts++;
        context_make(x);
    }
    if (x->state != CONTEXT_LIVE) return;
    struct execution *e = x->queue;
    while (e && e->stop != STOP_NONE) e = e->next; /* interrupted before it ran: ends on this turn */
    if (!e) return;
    execution_unqueue(e);
    x->running = e;
    execution_dispatch(e);
}

void context_settle(struct context *x) {
    deadline_set(x->cell->world->deadlines, &x->settle, monotonic_ms() + SETTLE_MS, on_settled);
}
