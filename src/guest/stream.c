#include "guest/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/log.h"
#include "guest/channel.h"
#include "guest/loop.h"
#include "wire/guest_proto.h"

#define QUEUE_FULL (256u * 1024) /* bytes waiting for the daemon above which no DATA is produced: one window */
#define PACKETS_A_ROUND 16       /* packets read before other descriptors get their turn */
#define RETRY_MS 10              /* pause after the kernel had no memory for a packet */

struct packet {
    struct packet *next;
    size_t len;
    uint8_t data[];
};

static struct loop_watch peer;
static struct loop_timer retry;
static bool over;
static struct packet *first, **last = &first;
static size_t queued_bytes;
static bool turned_away;                  /* stream_full() has said true since the last channels_flow() */
static uint8_t building[WIRE_PACKET_MAX]; /* the packet that frames are being put into */
static size_t building_len;

void stream_break(const char *reason) {
    if (!over) log_error("the daemon broke the protocol: %s", reason);
    over = true;
}
void stream_close(void) { over = true; }
bool stream_over(void) { return over; }

void stream_restart(void) {
    uint8_t byte;
    while (recv(peer.fd, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) > 0) continue;
    stream_drop();
    over = false;
}

bool stream_full(void) {
    if (queued_bytes < QUEUE_FULL) return false;
    turned_away = true;
    return true;
}

/* 1 sent, 0 not now. */
static int send_now(const uint8_t *data, size_t len) {
    if (over) return 1;
    for (;;) {
        if (send(peer.fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return 1;
        if (errno == EINTR) continue;
        if (errno == EAGAIN) return 0;
        if (errno == ENOBUFS || errno == ENOMEM) {
            loop_after(&retry, RETRY_MS);
            return 0;
        }
        stream_close();
        return 1;
    }
}

/* The packet under construction goes out or to the end of the queue. */
static void finish_packet(void) {
    if (!building_len) return;
    if (first || !send_now(building, building_len)) {
        struct packet *p = malloc(sizeof *p + building_len);
        if (!p) abort();
        *p = (struct packet){.len = building_len};
        memcpy(p->data, building, building_len);
        *last = p;
        last = &p->next;
        queued_bytes += building_len;
    }
    building_len = 0;
}

static void drain_queue(void) {
    while (first && send_now(first->data, first->len)) {
        struct packet *p = first;
        first = p->next;
        if (!first) last = &first;
        queued_bytes -= p->len;
        free(p);
    }
}

void stream_flush(void) {
    drain_queue();
    finish_packet();
    while (turned_away && queued_bytes < QUEUE_FULL) { /* only here, never from inside a callback of a channel */
        turned_away = false;
        channels_flow();
        drain_queue();
        finish_packet();
    }
    loop_watch(&peer, EPOLLIN | (first && !retry.armed ? EPOLLOUT : 0u));
}

static void retry_now(void *arg) { (void)arg; /* the round's stream_flush does it */ }

void stream_drop(void) {
    while (first) {
        struct packet *p = first;
        first = p->next;
        free(p);
    }
    last = &first;
    queued_bytes = building_len = 0;
}

void stream_frame(uint16_t type, uint16_t flags, uint32_t channel, const void *payload, size_t n) {
    if (!frame_put(building, &building_len, type, flags, channel, payload, n)) {
        finish_packet();
        (void)frame_put(building, &building_len, type, flags, channel, payload, n);
    }
}

void stream_text(uint16_t type, uint32_t channel, const char *text, size_t n) {
    for (; n > WIRE_PAYLOAD_MAX; text += WIRE_PAYLOAD_MAX, n -= WIRE_PAYLOAD_MAX)
        stream_frame(type, FRAME_MORE, channel, text, WIRE_PAYLOAD_MAX);
    stream_frame(type, 0, channel, text, n);
}

static void take_packet(const uint8_t *data, size_t len) {
    size_t at = 0;
    struct frame f;
    int got;
    while (!over && (got = frame_next(data, len, &at, &f)) != 0) {
        if (got < 0)
            stream_break("malformed packet");
        else
            channel_frame(&f);
    }
}

static void peer_ready(void *arg, uint32_t events) {
    (void)arg;
    static uint8_t packet[WIRE_PACKET_MAX];
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    for (int i = 0; i < PACKETS_A_ROUND && !over; i++) {
        struct iovec part = {.iov_base = packet, .iov_len = sizeof packet};
        struct msghdr m = {.msg_iov = &part,
                           .msg_iovlen = 1}; /* no room for control data: passed descriptors are dropped */
        ssize_t n = recvmsg(peer.fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0)
            stream_close();
        else if (m.msg_flags & MSG_TRUNC)
            stream_break("packet over the limit");
        else
            take_packet(packet, (size_t)n);
    }
}

int stream_open(int fd, struct err *e) {
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return err_sys(e, errno, "descriptor %d", fd);
    if (type != SOCK_SEQPACKET) return err_set(e, ERR_INVALID, "descriptor %d is no SOCK_SEQPACKET socket", fd);
    peer = (struct loop_watch){.fd = fd, .ready = peer_ready};
    retry.fire = retry_now;
    loop_watch(&peer, EPOLLIN);
    return 0;
}
