#include "guest/machine_relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/loop.h"
#include "wire/frame.h"
#include "wire/machine_proto.h"

#define STACK_BYTES (64 * 1024)
#define COPIED_LOOKS 200 /* of 1 ms: a thread that holds a packet puts it down as soon as there is room */
#define LAST_PACKETS 4096 /* of a dead context whose children still hold its stream: a bound, not a number that is met */

/* A descriptor that a thread may be blocked on while another takes it away: closed by the last who lets go. */
struct held {
    int fd;
    unsigned users;
};

struct relay {
    pthread_mutex_t lock; /* for everything but far and the buffers; out and err are closed with it held, and read by the thread towards the host */
    pthread_cond_t changed;
    bool out_runs, in_runs, tagged, fresh, finish, over, in_busy, out_busy; /* fresh: what came before is no beginning of what comes */
    bool stale; /* what comes is for the machine that this one is a copy of */
    struct held *connection, *inner;
    int far, out, err;
    int wake;         /* eventfd: the thread towards the host looks again */
    uint8_t *to_host; /* one packet with its tag */
    uint8_t *to_cell; /* one packet of the host */
    uint8_t *joined;  /* pieces of one packet of the context stream */
    size_t joined_len;
};

static struct relay relays[RELAYS];
static struct loop_watch ended_watch;
static void (*ended_callback)(unsigned);

/* ---- shared descriptors; with the lock held ---- */

static struct held *held_new(int fd) {
    struct held *h = malloc(sizeof *h);
    if (!h) abort();
    *h = (struct held){.fd = fd, .users = 1};
    return h;
}

static struct held *hold(struct held *h) {
    h->users++;
    return h;
}

static void let_go(struct held *h) {
    if (--h->users) return;
    close(h->fd);
    free(h);
}

/* The relay has no connection any more; whoever is blocked on it comes back. */
static void drop_connection(struct relay *r) {
    struct held *c = r->connection;
    if (!c) return;
    r->connection = NULL;
    (void)shutdown(c->fd, SHUT_RDWR);
    let_go(c);
    pthread_cond_broadcast(&r->changed);
}

static void poke(const struct relay *r) {
    const uint64_t one = 1;
    if (write(r->wake, &one, sizeof one) < 0) {} /* it is set already */
}

/* ---- towards the host ---- */

static void release(struct relay *r, struct held *h, bool lost) {
    pthread_mutex_lock(&r->lock);
    if (lost && r->connection == h) drop_connection(r);
    let_go(h);
    pthread_mutex_unlock(&r->lock);
}

static struct held *await_connection(struct relay *r) {
    pthread_mutex_lock(&r->lock);
    while (!r->connection && !r->finish) pthread_cond_wait(&r->changed, &r->lock);
    struct held *c = r->connection ? hold(r->connection) : NULL;
    pthread_mutex_unlock(&r->lock);
    return c;
}

static bool send_whole(int fd, const uint8_t *packet, size_t n) {
    ssize_t did;
    do did = send(fd, packet, n, MSG_NOSIGNAL);
    while (did < 0 && errno == EINTR);
    return did == (ssize_t)n;
}

/* r->to_host: a tag, where the relay has tags, and n bytes; what does not fit into one piece goes into a second, with a tag in the place of the last byte of the
 * first. Both over one connection: begun anew over the next one when it is lost. A dead context's last words need no next one. */
static void deliver(struct relay *r, uint8_t tag, size_t n) {
    const size_t first = r->tagged && n > MACHINE_PIECE_MAX ? MACHINE_PIECE_MAX : n;
    for (struct held *c; (c = await_connection(r));) {
        const uint8_t kept = r->to_host[first];
        if (r->tagged) r->to_host[0] = first < n ? tag | MACHINE_PIECE_MORE : tag;
        bool done = send_whole(c->fd, r->to_host, first + r->tagged);
        if (done && first < n) {
            r->to_host[first] = tag;
            done = send_whole(c->fd, r->to_host + first, n - first + 1);
            r->to_host[first] = kept;
        }
        release(r, c, !done);
        if (done) return;
    }
}

/* Read once from a pipe, at most `most` bytes, and deliver. False at its end, and when nothing is there. */
static bool carry_output(struct relay *r, int fd, uint8_t tag, size_t most) {
    if (most > MACHINE_PIECE_MAX) most = MACHINE_PIECE_MAX;
    const ssize_t n = read(fd, r->to_host + 1, most);
    if (n <= 0) return n < 0 && errno == EINTR;
    deliver(r, tag, (size_t)n);
    return true;
}

/* What is in the pipe now, and not what is written meanwhile: a child that never stops writing must not hold up the stream. */
static void carry_waiting(struct relay *r, int fd, uint8_t tag) {
    int left = 0;
    if (fd < 0 || ioctl(fd, FIONREAD, &left) < 0) return;
    while (left > 0) {
        const int before = left;
        if (!carry_output(r, fd, tag, (size_t)left) || ioctl(fd, FIONREAD, &left) < 0) return;
        left = left < before - (int)MACHINE_PIECE_MAX ? left : before - (int)MACHINE_PIECE_MAX;
    }
}

/* One packet of the stream, in pieces where it needs them. False when there is none. */
static bool carry_packet(struct relay *r, int inner) {
    carry_waiting(r, r->out, MACHINE_PIECE_STDOUT);
    carry_waiting(r, r->err, MACHINE_PIECE_STDERR);
    const ssize_t n = recv(inner, r->to_host + r->tagged, WIRE_PACKET_MAX, MSG_DONTWAIT);
    if (n <= 0) return n < 0 && errno == EINTR;
    deliver(r, MACHINE_PIECE_STREAM, (size_t)n);
    return true;
}

static void take_output(struct relay *r, int *fd, short events, uint8_t tag) {
    if (*fd < 0 || !events) return;
    if (events & POLLIN) {
        (void)carry_output(r, *fd, tag, MACHINE_PIECE_MAX);
        return;
    }
    pthread_mutex_lock(&r->lock);
    close_fd(fd); /* every writer is gone */
    pthread_mutex_unlock(&r->lock);
}

static void set_busy(struct relay *r, bool *which, bool busy) {
    pthread_mutex_lock(&r->lock);
    *which = busy;
    pthread_mutex_unlock(&r->lock);
}

/* Until the context is finished. */
static void carry(struct relay *r, int inner) {
    for (;;) {
        set_busy(r, &r->out_busy, false);
        struct held *c = await_connection(r);
        if (c) release(r, c, false);
        pthread_mutex_lock(&r->lock);
        const bool finish = r->finish;
        pthread_mutex_unlock(&r->lock);
        if (finish) return;
        struct pollfd p[] = {{.fd = inner, .events = POLLIN}, {.fd = r->out, .events = POLLIN}, {.fd = r->err, .events = POLLIN}, {.fd = r->wake, .events = POLLIN}};
        if (poll(p, 4, -1) < 0) continue;
        set_busy(r, &r->out_busy, true);
        uint64_t times;
        if (p[3].revents && read(r->wake, &times, sizeof times) < 0) {}
        if (p[0].revents & POLLIN) {
            (void)carry_packet(r, inner);
        } else {
            take_output(r, &r->out, p[1].revents, MACHINE_PIECE_STDOUT);
            take_output(r, &r->err, p[2].revents, MACHINE_PIECE_STDERR);
        }
    }
}

/* The last words, then the end of the connection. */
static void end(struct relay *r, int inner) {
    carry_waiting(r, r->out, MACHINE_PIECE_STDOUT);
    carry_waiting(r, r->err, MACHINE_PIECE_STDERR);
    for (int i = 0; i < LAST_PACKETS && carry_packet(r, inner); i++) continue;
    pthread_mutex_lock(&r->lock);
    close_fd(&r->out);
    close_fd(&r->err);
    let_go(r->inner);
    r->inner = NULL;
    drop_connection(r);
    r->finish = false;
    r->over = true;
    pthread_mutex_unlock(&r->lock);
    const uint64_t one = 1;
    if (write(ended_watch.fd, &one, sizeof one) < 0) {} /* it is set already */
}

static void *towards_host(void *arg) {
    struct relay *r = arg;
    for (;;) {
        pthread_mutex_lock(&r->lock);
        r->out_busy = false;
        while (!r->inner) pthread_cond_wait(&r->changed, &r->lock);
        struct held *inner = hold(r->inner);
        pthread_mutex_unlock(&r->lock);
        carry(r, inner->fd);
        end(r, inner->fd);
        release(r, inner, false);
    }
    return NULL;
}

/* ---- towards the cell ---- */

/* Whole packets go into the socket pair, which blocks while the context takes none. */
static void hand_in(struct relay *r, const uint8_t *packet, size_t n) {
    pthread_mutex_lock(&r->lock);
    struct held *inner = r->inner ? hold(r->inner) : NULL;
    pthread_mutex_unlock(&r->lock);
    if (!inner) return; /* the context is gone: nobody will read it */
    while (send(inner->fd, packet, n, MSG_NOSIGNAL) < 0 && errno == EINTR) continue;
    release(r, inner, false);
}

/* False: the host broke the protocol. */
static bool take_packet(struct relay *r, size_t n) {
    if (n > WIRE_PACKET_MAX) return false;
    if (!r->tagged) {
        hand_in(r, r->to_cell, n);
        return true;
    }
    const uint8_t tag = r->to_cell[0];
    if (n < 2 || (tag & ~MACHINE_PIECE_MORE) != MACHINE_PIECE_STREAM || r->joined_len + n - 1 > WIRE_PACKET_MAX) return false;
    if (!r->joined_len && !(tag & MACHINE_PIECE_MORE)) {
        hand_in(r, r->to_cell + 1, n - 1);
        return true;
    }
    for (size_t i = 1; i < n; i++) r->joined[r->joined_len++] = r->to_cell[i];
    if (tag & MACHINE_PIECE_MORE) return true;
    hand_in(r, r->joined, r->joined_len);
    r->joined_len = 0;
    return true;
}

/* What is not for this machine, and the mark behind it. */
static bool drop_packet(struct relay *r, size_t n) {
    const bool mark = n == 1 && r->to_cell[0] == MACHINE_PIECE_FRESH;
    pthread_mutex_lock(&r->lock);
    const bool drop = r->stale || mark;
    if (mark) r->stale = false;
    pthread_mutex_unlock(&r->lock);
    if (drop) r->joined_len = 0;
    return drop;
}

static void *towards_cell(void *arg) {
    struct relay *r = arg;
    for (;;) {
        pthread_mutex_lock(&r->lock);
        r->in_busy = false;
        while (!r->connection || !r->inner) pthread_cond_wait(&r->changed, &r->lock);
        struct held *c = hold(r->connection);
        pthread_mutex_unlock(&r->lock);
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        (void)poll(&p, 1, -1);
        pthread_mutex_lock(&r->lock);
        r->in_busy = true;
        if (r->fresh) r->joined_len = 0;
        r->fresh = false;
        pthread_mutex_unlock(&r->lock);
        const ssize_t n = recv(c->fd, r->to_cell, WIRE_PACKET_MAX + 1, MSG_DONTWAIT);
        const bool lost = n < 0 ? errno != EAGAIN && errno != EINTR : n == 0 || !(drop_packet(r, (size_t)n) || take_packet(r, (size_t)n));
        release(r, c, lost);
    }
    return NULL;
}

/* ---- the loop's side ---- */

static void some_ended(void *arg, uint32_t events) {
    uint64_t times;
    (void)arg, (void)events;
    if (read(ended_watch.fd, &times, sizeof times) < 0) return;
    for (unsigned i = 0; i < RELAYS; i++) {
        pthread_mutex_lock(&relays[i].lock);
        const bool over = relays[i].over;
        relays[i].over = false;
        pthread_mutex_unlock(&relays[i].lock);
        if (over) ended_callback(i);
    }
}

int relays_open(void (*ended)(unsigned), struct err *e) {
    ended_callback = ended;
    ended_watch = (struct loop_watch){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = some_ended};
    if (ended_watch.fd < 0) return err_sys(e, errno, "eventfd");
    loop_watch(&ended_watch, EPOLLIN);
    for (unsigned i = 0; i < RELAYS; i++) {
        struct relay *r = &relays[i];
        *r = (struct relay){.tagged = i != RELAY_GUEST, .far = -1, .out = -1, .err = -1, .wake = -1};
        pthread_mutex_init(&r->lock, NULL);
        pthread_cond_init(&r->changed, NULL);
    }
    return 0;
}

static int start(struct relay *r, struct err *e) {
    pthread_attr_t small;
    pthread_t thread;
    if (r->out_runs && r->in_runs) return 0;
    if (r->wake < 0) r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!r->to_host) r->to_host = malloc(WIRE_PACKET_MAX + 1);
    if (!r->to_cell) r->to_cell = malloc(WIRE_PACKET_MAX + 1);
    if (!r->joined) r->joined = malloc(WIRE_PACKET_MAX);
    if (r->wake < 0 || !r->to_host || !r->to_cell || !r->joined) return err_set(e, ERR_LIMIT, "no memory for a context's relay");
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK_BYTES);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    if (!r->out_runs) r->out_runs = pthread_create(&thread, &small, towards_host, r) == 0;
    if (!r->in_runs) r->in_runs = pthread_create(&thread, &small, towards_cell, r) == 0;
    pthread_attr_destroy(&small);
    return r->out_runs && r->in_runs ? 0 : err_set(e, ERR_LIMIT, "no thread for a context's relay");
}

void relay_connect(unsigned index, int connection) {
    struct relay *r = &relays[index];
    pthread_mutex_lock(&r->lock);
    drop_connection(r);
    r->connection = held_new(connection);
    r->fresh = true;
    r->stale = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (r->out_runs) poke(r);
}

bool relay_connected(unsigned index) {
    struct relay *r = &relays[index];
    pthread_mutex_lock(&r->lock);
    const bool there = r->connection != NULL;
    pthread_mutex_unlock(&r->lock);
    return there;
}

int relay_attach(unsigned index, const struct relay_ends *ends, struct err *e) {
    struct relay *r = &relays[index];
    if (start(r, e) < 0) {
        const int all[] = {ends->inner, ends->far, ends->out, ends->err};
        for (size_t i = 0; i < 4; i++)
            if (all[i] >= 0) close(all[i]);
        return -1;
    }
    pthread_mutex_lock(&r->lock);
    r->inner = held_new(ends->inner);
    r->far = ends->far, r->out = ends->out, r->err = ends->err;
    const int pipes[] = {r->out, r->err};
    for (size_t i = 0; i < 2; i++)
        if (pipes[i] >= 0) (void)fcntl(pipes[i], F_SETFL, fcntl(pipes[i], F_GETFL) | O_NONBLOCK);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return 0;
}

void relay_begin_anew(unsigned index) {
    struct relay *r = &relays[index];
    pthread_mutex_lock(&r->lock);
    r->fresh = true;
    pthread_mutex_unlock(&r->lock);
}

void relay_forget_input(unsigned index) {
    struct relay *r = &relays[index];
    char byte;
    while (r->far >= 0 && recv(r->far, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) > 0) continue;
}

void relay_copied(unsigned index) {
    struct relay *r = &relays[index];
    bool busy = true;
    pthread_mutex_lock(&r->lock);
    r->fresh = true;
    r->stale = r->connection != NULL;
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; busy && i < COPIED_LOOKS; i++) {
        relay_forget_input(index);
        pthread_mutex_lock(&r->lock);
        busy = r->in_busy; /* it may hold a packet from before */
        pthread_mutex_unlock(&r->lock);
        if (busy) (void)usleep(1000);
    }
    relay_forget_input(index);
}

void relay_finish(unsigned index) {
    struct relay *r = &relays[index];
    if (r->far >= 0) {
        (void)shutdown(r->far, SHUT_RD); /* the thread towards the cell may wait for room in it: it looks again when something was read */
        relay_forget_input(index);
        close_fd(&r->far);
    }
    pthread_mutex_lock(&r->lock);
    r->finish = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    poke(r);
}

bool relay_quiet(unsigned index) {
    struct relay *r = &relays[index];
    pthread_mutex_lock(&r->lock);
    bool quiet = !r->in_busy && !r->out_busy;
    struct pollfd p[] = {{.fd = r->connection ? r->connection->fd : -1, .events = POLLIN}, {.fd = r->inner ? r->inner->fd : -1, .events = POLLIN},
                         {.fd = r->out, .events = POLLIN}, {.fd = r->err, .events = POLLIN}};
    if (quiet && poll(p, 4, 0) > 0)
        for (size_t i = 0; i < 4; i++) quiet = quiet && !(p[i].revents & POLLIN);
    pthread_mutex_unlock(&r->lock);
    return quiet;
}
