#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/dev_stream.h"

void conn_free(struct stream_conn *c) {
    loop_forget(c->device->loop, &c->watch);
    if (c->watch.fd >= 0) close(c->watch.fd);
    free(c->to_guest);
    free(c->to_host);
    *c = (struct stream_conn){.device = c->device, .watch = {.fd = -1, .ready = c->watch.ready}, .open_record = -1};
}

uint32_t conn_credit(const struct stream_conn *c) {
    const uint32_t flying = c->sent - c->peer_taken;
    return flying < c->peer_window ? c->peer_window - flying : 0;
}

/* Append to the last record; false when the buffer is full (its heads count too). */
static bool append(struct stream_conn *c, const void *bytes, uint32_t n) {
    const uint32_t room = 2 * STREAM_WINDOW;
    if (n > room - c->host_bytes) return false;
    if (n > room - c->host_bytes - c->host_at) {
        memmove(c->to_host, c->to_host + c->host_at, c->host_bytes);
        c->host_at = 0;
    }
    memcpy(c->to_host + c->host_at + c->host_bytes, bytes, n);
    c->host_bytes += n;
    return true;
}

int conn_take(struct stream_conn *c, const uint8_t *bytes, uint32_t n, uint32_t flags) {
    uint32_t length = 0;
    if (c->guest_done || n > STREAM_WINDOW - c->host_payload) return -1;
    if (c->open_record < 0) {
        c->open_record = (int32_t)c->host_bytes;
        if (!append(c, &length, sizeof length)) return -1;
    }
    memcpy(&length, c->to_host + c->host_at + c->open_record, sizeof length);
    if ((length + n > STREAM_PACKET_MAX && c->type == VMM_STREAM_PACKETS) || !append(c, bytes, n)) return -1;
    c->host_payload += n, length += n;
    memcpy(c->to_host + c->host_at + c->open_record, &length, sizeof length);
    if (c->type == VMM_STREAM_BYTES || flags & SEQ_EOM) c->open_record = -1;
    return 0;
}

/* Drop n bytes in front; `payload` of them were the guest's. */
static void consume(struct stream_conn *c, uint32_t n, uint32_t payload) {
    c->host_at += n, c->host_bytes -= n, c->host_payload -= payload, c->taken += payload;
    if (c->open_record >= 0) c->open_record -= (int32_t)n;
    if (!c->host_bytes) c->host_at = 0;
    c->say_credit = true;
}

/* The first record: 1 gone (or shortened), 0 the host does not take it now, -1 its end is closed. */
static int flush_one(struct stream_conn *c) {
    uint8_t *record = c->to_host + c->host_at;
    uint32_t length;
    memcpy(&length, record, 4);
    const ssize_t did = length ? write(c->watch.fd, record + 4, length) : 0;
    if (did < 0) return errno == EINTR ? 1 : errno == EAGAIN ? 0 : -1;
    if ((uint32_t)did == length) {
        consume(c, 4 + length, length);
    } else if (c->type == VMM_STREAM_BYTES) {
        const uint32_t rest = length - (uint32_t)did;
        memcpy(record + did, &rest, 4); /* the head moves up to what is left */
        consume(c, (uint32_t)did, (uint32_t)did);
    } else {
        return -1;
    }
    return 1;
}

int conn_flush(struct stream_conn *c) {
    if (c->watch.fd < 0) return 0;
    while (c->host_bytes && c->open_record != 0) {
        const int did = flush_one(c);
        if (did <= 0) return did;
    }
    if (c->guest_done && !c->host_bytes) (void)shutdown(c->watch.fd, SHUT_WR); /* a pipe is closed with the connection */
    return 0;
}

int conn_fill(struct stream_conn *c) {
    if (c->guest_message || c->host_done || c->watch.fd < 0 || c->phase != STREAM_OPEN) return 0;
    const bool packets = c->type == VMM_STREAM_PACKETS;
    const ssize_t got = packets ? recv(c->watch.fd, c->to_guest, STREAM_PACKET_MAX, MSG_TRUNC | MSG_DONTWAIT)
                                : read(c->watch.fd, c->to_guest, STREAM_PACKET_MAX);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (got > (ssize_t)STREAM_PACKET_MAX) return -1; /* cut: never half a packet */
    if (!got) {
        c->host_done = c->say_shutdown = true;
        return 0;
    }
    c->guest_at = 0, c->guest_bytes = (uint32_t)got, c->guest_message = true;
    return 0;
}

void conn_watch(struct stream_conn *c) {
    uint32_t events = 0;
    if (c->phase == STREAM_OPEN && !c->guest_message && !c->host_done) events |= EPOLLIN;
    if (c->host_bytes && c->open_record != 0) events |= EPOLLOUT;
    loop_watch(c->device->loop, &c->watch, events);
}
