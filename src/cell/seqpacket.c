#include "cell/seqpacket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/frame.h"

#define PACKETS_PER_TURN 16 /* at most 1 MiB of one cell between two looks at the others */
#define BULK 4096
#define DEPTH_MAX 3 /* a callback may drain another stream; more than that is not reading at all */

struct poller {
    uv_poll_t handle;
    int fd, wanted;
    void (*ready)(void *arg, int events);
    void *arg;
};

static void on_poll(uv_poll_t *h, int status, int events) {
    struct poller *p = h->data;
    /* An error (hang-up with nothing to read) is found by the read itself. */
    p->ready(p->arg, status < 0 ? UV_READABLE : events);
}

struct poller *poller_open(uv_loop_t *loop, int fd, void (*ready)(void *, int), void *arg) {
    struct poller *p = calloc(1, sizeof *p);
    if (!p || uv_poll_init(loop, &p->handle, fd) != 0) abort(); /* the descriptor is ours and valid */
    p->handle.data = p;
    p->fd = fd;
    p->ready = ready;
    p->arg = arg;
    return p;
}

void poller_want(struct poller *p, int events) {
    if (p->wanted == events) return;
    p->wanted = events;
    if (events)
        uv_poll_start(&p->handle, events, on_poll);
    else
        uv_poll_stop(&p->handle);
}

int poller_fd(const struct poller *p) { return p->fd; }

static void poller_freed(uv_handle_t *h) { free(h->data); }

void poller_close(struct poller *p) {
    uv_poll_stop(&p->handle);
    uv_close((uv_handle_t *)&p->handle, poller_freed);
    close(p->fd);
}

struct packet {
    struct packet *next;
    size_t n;
    uint8_t bytes[];
};
struct seqpacket {
    struct seqpacket_events events;
    struct poller *poller;
    struct packet *first, **last;
    size_t queued;
    int busy; /* callbacks on the stack: the memory stays until they are back */
    bool paused, ended, closed, full;
};

static void refresh(struct seqpacket *s) {
    if (s->closed) return;
    int want = s->ended ? 0 : (s->paused && !s->full ? 0 : UV_READABLE) | (s->first ? UV_WRITABLE : 0);
    poller_want(s->poller, want);
}

static void drop_queue(struct seqpacket *s) {
    for (struct packet *p; (p = s->first);) {
        s->first = p->next;
        free(p);
    }
    s->last = &s->first;
    s->queued = 0;
}

static void leave(struct seqpacket *s) {
    if (--s->busy == 0 && s->closed) free(s);
}

static void end(struct seqpacket *s, const char *why) {
    if (s->ended || s->closed) return;
    s->ended = true;
    drop_queue(s);
    refresh(s);
    s->events.on_end(s->events.arg, why);
}

/* Bytes of the packet that was handed over; 0: none. */
static size_t receive_one(struct seqpacket *s) {
    static uint8_t packets[DEPTH_MAX][WIRE_PACKET_MAX];
    static int depth;
    if (depth >= DEPTH_MAX) return 0;
    ssize_t n = recv(poller_fd(s->poller), packets[depth], WIRE_PACKET_MAX, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n <= 0)
        end(s, n < 0 && errno != ECONNRESET ? strerror(errno) : NULL);
    else if (n > WIRE_PACKET_MAX)
        end(s, "a packet longer than the protocol allows");
    else {
        depth++;
        s->events.on_packet(s->events.arg, packets[depth - 1], (size_t)n);
        depth--;
        return (size_t)n;
    }
    return 0;
}

static void send_queue(struct seqpacket *s) {
    struct packet *p;
    while ((p = s->first)) {
        ssize_t n = send(poller_fd(s->poller), p->bytes, p->n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
        if (n < 0) {
            drop_queue(s); /* the end itself is read: what the peer sent before it must not be lost */
            break;
        }
        s->first = p->next;
        if (!s->first) s->last = &s->first;
        s->queued -= p->n;
        free(p);
    }
    refresh(s);
    if (!s->first && s->events.on_drained) s->events.on_drained(s->events.arg);
}

static void on_ready(void *arg, int events) {
    struct seqpacket *s = arg;
    s->busy++;
    if (s->full) end(s, "the cell does not read what it is sent");
    if ((events & UV_WRITABLE) && !s->closed && !s->ended) send_queue(s);
    /* After a small packet there is rarely another one: the loop says so cheaper than a second recv. */
    if (events & UV_READABLE)
        for (int i = 0; i < PACKETS_PER_TURN && !s->closed && !s->ended && !s->paused && receive_one(s) >= BULK; i++) {}
    leave(s);
}

struct seqpacket *seqpacket_open(uv_loop_t *loop, int fd, const struct seqpacket_events *events) {
    struct seqpacket *s = calloc(1, sizeof *s);
    if (!s) abort();
    s->events = *events;
    s->last = &s->first;
    s->poller = poller_open(loop, fd, on_ready, s);
    refresh(s);
    return s;
}

bool seqpacket_send(struct seqpacket *s, const uint8_t *packet, size_t n) {
    if (s->ended || s->closed || s->full) return false;
    if (!s->first) {
        ssize_t sent = send(poller_fd(s->poller), packet, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) return true;
        if (errno != EAGAIN && errno != EINTR) return false; /* the end is read, see send_queue */
    }
    if (s->queued + n > SEQPACKET_QUEUE_MAX) {
        s->full = true;
        shutdown(poller_fd(s->poller), SHUT_RDWR); /* wakes on_ready, which reports the end outside of this call */
        refresh(s);
        return false;
    }
    struct packet *p = malloc(sizeof *p + n);
    if (!p) abort();
    p->next = NULL;
    p->n = n;
    memcpy(p->bytes, packet, n);
    *s->last = p;
    s->last = &p->next;
    s->queued += n;
    refresh(s);
    return true;
}

size_t seqpacket_queued(const struct seqpacket *s) { return s->queued; }

void seqpacket_pause(struct seqpacket *s, bool paused) {
    s->paused = paused;
    refresh(s);
}

void seqpacket_drain(struct seqpacket *s) {
    s->busy++;
    /* A peer that is gone left at most what its socket buffer holds; the bound is for one that is not gone. */
    for (int i = 0; i < 4096 && !s->closed && !s->ended && receive_one(s); i++) {}
    leave(s);
}

void seqpacket_close(struct seqpacket *s) {
    if (s->closed) return;
    s->closed = true;
    drop_queue(s);
    poller_close(s->poller);
    if (!s->busy) free(s);
}
