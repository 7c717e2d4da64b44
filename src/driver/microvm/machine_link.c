#include "driver/microvm/machine_link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"

#define PACKETS_PER_TURN 32
#define OWED_MAX 64 /* answers of a guest that is too slow; a guest that owes more has stopped working */

struct request {
    struct request *next;
    struct machine_message message;
    int64_t deadline_ms;
    machine_answer done; /* NULL: it came too late for whoever asked */
    void *arg;
    bool sent;
};

struct machine_link {
    uv_poll_t poll;
    uv_timer_t timer;
    int fd, handles, busy;
    struct machine_link_events events;
    struct request *first, **last; /* in the order of the calls */
    unsigned owed;                 /* of them: nobody waits any more */
    uint32_t next_tag;
    bool answered; /* once one of ours was answered, every answer must be to one of ours */
    bool held, over, closed;
    int64_t held_ms;
};

static void on_ready(uv_poll_t *, int, int);
static void on_timer(uv_timer_t *);

/* ---- what a guest may say ---- */

static bool is_request(uint32_t type) { return type >= MACHINE_WARM && type <= MACHINE_RESET; }

const char *machine_message_wrong(const void *packet, size_t n) {
    struct machine_message m;
    if (n != sizeof m) return "a message of the wrong size";
    memcpy(&m, packet, sizeof m);
    if (is_request(m.type)) {
        if (!m.tag) return "an answer to nothing";
        if (m.status < 0 || m.status > 4095) return "an answer with an odd status";
        return m.status && !memchr(m.text, 0, sizeof m.text) ? "a sentence without an end" : NULL;
    }
    if (m.tag) return "an event with a number";
    if (m.type == MACHINE_HELLO) return m.value == MACHINE_PROTO_VERSION ? NULL : "another version of the protocol";
    if (m.type != MACHINE_CONTEXT_EXIT) return "a message of an unknown type";
    if (m.slot >= DRIVER_SLOTS || m.fate < FATE_EXITED || m.fate > FATE_OOM || m.code < 0 || m.code > 255) return "the end of a context that cannot be";
    return NULL;
}

static void failure(struct err *e, const struct machine_message *m) {
    char text[sizeof m->text];
    memcpy(text, m->text, sizeof text);
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    err_sys(e, m->status, "in the machine%s%s", *text ? ": " : "", text);
}

/* ---- memory ---- */

static void free_handle(uv_handle_t *h) {
    struct machine_link *l = h->data;
    if (!--l->handles) free(l);
}

static void free_last(struct machine_link *l) {
    if (!l->closed || l->busy || l->first || uv_is_closing((uv_handle_t *)&l->timer)) return;
    uv_timer_stop(&l->timer);
    uv_close((uv_handle_t *)&l->timer, free_handle);
}

/* The poll goes at once, the timer when the last request has been answered. */
static void stop_reading(struct machine_link *l) {
    if (l->fd < 0) return;
    uv_poll_stop(&l->poll);
    uv_close((uv_handle_t *)&l->poll, free_handle);
    close_fd(&l->fd);
}

static void fail_all_soon(struct machine_link *l) {
    l->over = true;
    stop_reading(l);
    if (!uv_is_closing((uv_handle_t *)&l->timer)) uv_timer_start(&l->timer, on_timer, 0, 0);
}

static void end(struct machine_link *l, const char *why) {
    if (l->over) return;
    fail_all_soon(l);
    if (!l->closed) l->events.on_end(l->events.arg, why);
}

/* ---- time ---- */

static void arm(struct machine_link *l) {
    int64_t first = INT64_MAX;
    if (l->over || l->held) return;
    for (const struct request *r = l->first; r; r = r->next)
        if (r->done && r->deadline_ms < first) first = r->deadline_ms;
    const int64_t left = first - monotonic_ms();
    if (first == INT64_MAX) uv_timer_stop(&l->timer);
    else uv_timer_start(&l->timer, on_timer, left > 0 ? (uint64_t)left : 0, 0);
}

static struct request *unlink_request(struct machine_link *l, struct request **at) {
    struct request *r = *at;
    *at = r->next;
    if (l->last == &r->next) l->last = at;
    return r;
}

static void fail_all(struct machine_link *l) {
    while (l->first) {
        struct request *r = unlink_request(l, &l->first);
        struct err e;
        err_set(&e, ERR_LOST, "the connection to the machine is over");
        if (r->done) r->done(r->arg, &e, NULL);
        free(r);
    }
    l->owed = 0;
}

static struct request *expired(struct machine_link *l) {
    for (struct request *r = l->first; r; r = r->next)
        if (r->done && r->deadline_ms <= monotonic_ms()) return r;
    return NULL;
}

static void on_timer(uv_timer_t *t) {
    struct machine_link *l = t->data;
    struct request *r;
    l->busy++;
    if (l->over) fail_all(l);
    while (!l->over && !l->held && (r = expired(l))) {
        struct err e;
        const machine_answer done = r->done;
        r->done = NULL;
        l->owed++;
        err_set(&e, ERR_LOST, "the machine did not answer in time");
        e.sys_errno = ETIMEDOUT;
        done(r->arg, &e, NULL);
    }
    if (l->owed > OWED_MAX) end(l, "it has stopped answering");
    arm(l);
    l->busy--;
    free_last(l);
}

/* ---- out ---- */

static bool send_unsent(struct machine_link *l) {
    for (struct request *r = l->first; r; r = r->next) {
        if (r->sent) continue;
        const ssize_t n = send(l->fd, &r->message, sizeof r->message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
        if (n != (ssize_t)sizeof r->message) return false;
        r->sent = true;
    }
    return true;
}

static void want(struct machine_link *l) {
    bool unsent = false;
    if (l->over) return;
    for (const struct request *r = l->first; r && !unsent; r = r->next) unsent = !r->sent;
    uv_poll_start(&l->poll, UV_READABLE | (unsent ? UV_WRITABLE : 0), on_ready);
}

void machine_call(struct machine_link *l, struct machine_message *m, int64_t timeout_ms, machine_answer done, void *arg) {
    struct request *r = calloc(1, sizeof *r);
    if (!r) abort();
    if (!++l->next_tag) l->next_tag = 1;
    m->tag = l->next_tag;
    *r = (struct request){.message = *m, .deadline_ms = monotonic_ms() + timeout_ms, .done = done, .arg = arg};
    *l->last = r;
    l->last = &r->next;
    if (l->over) {
        if (!uv_is_active((uv_handle_t *)&l->timer)) uv_timer_start(&l->timer, on_timer, 0, 0);
        return;
    }
    (void)send_unsent(l); /* a connection that is over is found by the poll */
    want(l);
    arm(l);
}

/* ---- in ---- */

static bool answer(struct machine_link *l, const struct machine_message *m) {
    struct request **at = &l->first;
    while (*at && (*at)->message.tag != m->tag) at = &(*at)->next;
    if (!*at || !(*at)->sent) return !l->answered; /* to somebody before us */
    if ((*at)->message.type != m->type) return false;
    struct request *r = unlink_request(l, at);
    struct err e;
    l->answered = true;
    if (!r->done) l->owed--;
    else if (m->status) failure(&e, m), r->done(r->arg, &e, NULL);
    else r->done(r->arg, NULL, m);
    free(r);
    return true;
}

static void take(struct machine_link *l, const struct machine_message *m) {
    const char *wrong = NULL;
    if (m->type == MACHINE_HELLO) {
        if (l->events.on_hello) l->events.on_hello(l->events.arg);
        else wrong = "it greets in the middle";
    } else if (m->type == MACHINE_CONTEXT_EXIT) {
        l->events.on_context_exit(l->events.arg, (int)m->slot, (enum context_fate)m->fate, m->code);
    } else if (!answer(l, m)) {
        wrong = "an answer that nobody asked for";
    }
    if (wrong) end(l, wrong);
}

/* 1: took one, 0: there is none, -1: over. */
static int read_one(struct machine_link *l) {
    struct machine_message m;
    char room[sizeof m + 1]; /* one more: a longer packet shows */
    const ssize_t n = recv(l->fd, room, sizeof room, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n <= 0) {
        end(l, NULL);
        return -1;
    }
    const char *wrong = machine_message_wrong(room, (size_t)n);
    if (wrong) {
        end(l, wrong);
        return -1;
    }
    memcpy(&m, room, sizeof m);
    take(l, &m);
    return 1;
}

static void on_ready(uv_poll_t *p, int status, int events) {
    struct machine_link *l = p->data;
    l->busy++;
    if (status < 0) events = UV_READABLE; /* the read says what it is */
    for (int i = 0; (events & UV_READABLE) && i < PACKETS_PER_TURN && !l->over && !l->closed && read_one(l) > 0; i++) continue;
    if (!l->over && !l->closed && !send_unsent(l)) end(l, NULL);
    if (!l->closed) want(l);
    arm(l);
    l->busy--;
    free_last(l);
}

/* ---- life ---- */

struct machine_link *machine_link_open(uv_loop_t *loop, int fd, const struct machine_link_events *events) {
    struct machine_link *l = calloc(1, sizeof *l);
    if (!l || uv_poll_init(loop, &l->poll, fd)) abort(); /* the descriptor is ours and valid */
    l->fd = fd;
    l->handles = 2;
    l->events = *events;
    l->last = &l->first;
    random_fill(&l->next_tag, sizeof l->next_tag); /* an answer to another daemon is not taken for one to us */
    l->poll.data = l;
    uv_timer_init(loop, &l->timer);
    l->timer.data = l;
    want(l);
    return l;
}

void machine_link_hold(struct machine_link *l, bool held) {
    if (l->held == held) return;
    l->held = held;
    if (held) {
        l->held_ms = monotonic_ms();
        if (!l->over) uv_timer_stop(&l->timer);
        return;
    }
    for (struct request *r = l->first; r; r = r->next) r->deadline_ms += monotonic_ms() - l->held_ms;
    arm(l);
}

void machine_link_close(struct machine_link *l, bool silent) {
    l->closed = true;
    for (struct request *r = l->first; r && silent; r = r->next) r->done = NULL;
    fail_all_soon(l); /* the timer frees it */
}
