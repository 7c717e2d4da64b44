/* Ways an execution is held up or ended from outside: timeout, interrupt, a slow client, a client that went away. */
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "cell/domain.h"
#include "wire/context_proto.h"
#include "wire/frame.h"

#define INPUT_MAX 60000 /* bytes of one line for input(): fits one frame */

static void on_grace(struct deadline *d) {
    struct execution *x = container_of(d, struct execution, clock);
    context_kill(x->context);
}

static void on_timeout(struct deadline *d) {
    struct execution *x = container_of(d, struct execution, clock);
    (void)execution_stop(x, STOP_TIMEOUT);
}

void execution_arm(struct execution *x, int64_t timeout_ms) {
    deadline_set(x->context->cell->world->deadlines, &x->clock, monotonic_ms() + timeout_ms, on_timeout);
}

int64_t execution_left_ms(struct execution *x, int64_t now) {
    int64_t left = x->clock.at_ms - now;
    return left > 0 ? left : 0;
}

void execution_ready(struct execution *x) {
    if (x->stop == STOP_NONE) execution_arm(x, x->timeout_ms);
}

int execution_stop(struct execution *x, enum execution_stop why) {
    struct context *c = x->context;
    struct world *w = c->cell->world;
    bool first = x->stop == STOP_NONE;
    if (first) {
        x->stop = why;
        int64_t grace = why == STOP_TIMEOUT ? w->config.timeout_grace_ms : w->config.interrupt_grace_ms;
        deadline_set(w->deadlines, &x->clock, monotonic_ms() + grace, on_grace);
        *(why == STOP_TIMEOUT ? &w->counters.timeouts : &w->counters.interrupted) += 1;
        /* A slow client must not keep the code from seeing its interrupt, nor us from seeing its end. */
        context_link_pause(c->link, false);
    }
    /* Before READY a SIGINT would be the end of the interpreter. */
    if (c->ready)
        w->config.driver->ops->context_signal(c->cell->driver, c->slot, SIGINT);
    else
        c->interrupt_at_ready = true;
    return 0;
}

void execution_unqueue(struct execution *x) {
    struct context *c = x->context;
    struct execution **at = &c->queue;
    while (*at && *at != x) at = &(*at)->next;
    if (!*at) return;
    *at = x->next;
    if (!*at) c->queue_last = at;
    x->next = NULL;
    c->queued--;
}

/* Not started yet: it ends on the next turn; until then the queue skips it. */
static void end_queued(struct deferred *d) {
    struct execution *x = container_of(d, struct execution, later);
    execution_unqueue(x);
    execution_finish(x, "interrupted", execution_error("KeyboardInterrupt", "", "interrupted before it ran"));
}

int execution_interrupt(struct execution *x, struct err *err) {
    struct cell *c = x->context->cell;
    bool asleep = cell_asleep(c);
    if (!asleep && cell_usable(c, err) < 0) return -1;
    if (x->stage == STAGE_QUEUED && x->stop == STOP_NONE) {
        x->stop = STOP_INTERRUPT;
        defer(c->world->defers, &x->later, end_queued);
        return 0;
    }
    if (x->stage != STAGE_RUNNING) return err_set(err, ERR_CONFLICT, "the execution does not run");
    if (asleep) { /* as soon as it is awake */
        x->stop_at_wake = true;
        return 0;
    }
    return execution_stop(x, STOP_INTERRUPT);
}

int execution_input(struct execution *x, const char *line, struct err *err) {
    if (!x->wants_input || x->stage != STAGE_RUNNING)
        return err_set(err, ERR_CONFLICT, "the execution does not wait for input");
    if (!x->context->link) return cell_usable(x->context->cell, err);
    size_t n = line ? strlen(line) : 0;
    if (n > INPUT_MAX) return err_set(err, ERR_TOO_LARGE, "the line is longer than %d bytes", INPUT_MAX);
    x->wants_input = false;
    context_link_put(x->context->link, CONTEXT_INPUT_REPLY, line ? 0 : FRAME_EOF, x->number, line, n);
    context_link_send(x->context->link);
    return 0;
}

void execution_pause(struct execution *x, bool paused) {
    x->paused = paused;
    if (x->stage == STAGE_RUNNING && x->stop == STOP_NONE && x->context->link)
        context_link_pause(x->context->link, paused);
}

void execution_detach(struct execution *x, bool interrupt) {
    struct err err;
    x->cb = NULL;
    x->arg = NULL;
    execution_pause(x, false);
    if (interrupt) (void)execution_interrupt(x, &err);
    if (!x->wants_input || x->stage != STAGE_RUNNING || !x->context->link) return;
    (void)execution_input(x, NULL, &err); /* nobody will answer any more */
}
