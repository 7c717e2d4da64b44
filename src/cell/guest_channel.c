#include <endian.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cell/guest_link_inside.h"
#include "cell/seqpacket.h"
#include "wire/frame.h"
#include "wire/guest_proto.h"

#define CREDIT_STEP (GUEST_WINDOW / 4) /* consumed bytes that are worth a packet */

void guest_link_frame(struct guest_link *l, uint16_t type, uint16_t flags, uint32_t channel, const void *payload,
                      size_t n) {
    if (l->closed) return;
    const uint8_t *p = payload;
    do {
        uint8_t packet[WIRE_PACKET_MAX];
        size_t len = 0, part = n > WIRE_PAYLOAD_MAX ? WIRE_PAYLOAD_MAX : n;
        frame_put(packet, &len, type, (uint16_t)(part < n ? flags | FRAME_MORE : flags), channel, p, part);
        seqpacket_send(l->stream, packet, len); /* a stream that fails reports its end itself */
        p = p ? p + part : p;
        n -= part;
    } while (n);
}

static const char *op_text(struct json_object *op, size_t *n, struct err *err) {
    const char *text =
        json_object_to_json_string_length(op, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, n);
    if (*n <= GUEST_OPEN_MAX) return text;
    err_set(err, ERR_TOO_LARGE, "the request takes %zu bytes, the limit is %u", *n, GUEST_OPEN_MAX);
    return NULL;
}

int guest_link_notice(struct guest_link *l, struct json_object *op, struct err *err) {
    size_t n;
    const char *text = op_text(op, &n, err);
    if (!text) return -1;
    guest_link_frame(l, GUEST_OPEN, 0, 0, text, n);
    return 0;
}

struct guest_channel *guest_channel_open(struct guest_link *l, struct json_object *op,
                                         const struct guest_channel_events *events, void *arg, struct err *err) {
    size_t n;
    const char *text = op_text(op, &n, err);
    if (!text) return NULL;
    if (l->closed || l->lost) {
        err_set(err, ERR_LOST, "the sandbox is lost");
        return NULL;
    }
    if (l->count >= GUEST_CHANNELS_MAX) {
        err_set(err, ERR_LIMIT, "%d operations are open in this sandbox already", GUEST_CHANNELS_MAX);
        return NULL;
    }
    if (seqpacket_queued(l->stream) + n > SEQPACKET_QUEUE_MAX / 2) {
        err_set(err, ERR_UNAVAILABLE, "the sandbox does not take requests right now");
        return NULL;
    }
    struct guest_channel *c = calloc(1, sizeof *c);
    if (!c) abort();
    do l->last_number++;
    while (l->last_number == 0 || guest_link_channel(l, l->last_number));
    *c = (struct guest_channel){.link = l,
                                .events = *events,
                                .arg = arg,
                                .number = l->last_number,
                                .receive_window = GUEST_WINDOW,
                                .send_window = GUEST_WINDOW,
                                .next = l->channels[l->last_number % GUEST_BUCKETS]};
    l->channels[c->number % GUEST_BUCKETS] = c;
    l->count++;
    guest_link_frame(l, GUEST_OPEN, 0, c->number, text, n);
    return c;
}

size_t guest_channel_write(struct guest_channel *c, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    size_t taken = 0;
    if (c->eof || c->closing) return 0;
    while (taken < n && c->send_window && seqpacket_queued(c->link->stream) < GUEST_SEND_HIGH) {
        size_t part = n - taken < c->send_window ? n - taken : c->send_window;
        if (part > WIRE_PAYLOAD_MAX) part = WIRE_PAYLOAD_MAX;
        guest_link_frame(c->link, GUEST_DATA, 0, c->number, p + taken, part);
        c->send_window -= (uint32_t)part;
        taken += part;
    }
    c->wants_room = taken < n;
    return taken;
}

void guest_channel_room(struct guest_channel *c) {
    if (!c->wants_room || !c->send_window || seqpacket_queued(c->link->stream) >= GUEST_SEND_HIGH) return;
    c->wants_room = false;
    if (c->events.on_room) c->events.on_room(c->arg);
}

void guest_channel_eof(struct guest_channel *c) {
    if (c->eof || c->closing) return;
    c->eof = true;
    guest_link_frame(c->link, GUEST_DATA, FRAME_EOF, c->number, NULL, 0);
}

void guest_channel_control(struct guest_channel *c, struct json_object *control) {
    size_t n;
    const char *text = json_object_to_json_string_length(control, JSON_C_TO_STRING_PLAIN, &n);
    if (n <= WIRE_PAYLOAD_MAX) guest_link_frame(c->link, GUEST_CONTROL, 0, c->number, text, n);
}

void guest_channel_close(struct guest_channel *c) {
    if (c->closing) return;
    c->closing = true;
    guest_link_frame(c->link, GUEST_CLOSE, 0, c->number, NULL, 0);
}

void guest_channel_detach(struct guest_channel *c) {
    c->events = (struct guest_channel_events){0};
    c->arg = NULL;
    c->wants_room = false;
    /* What was delivered and not given back yet is nobody's any more. */
    guest_channel_consumed(c, GUEST_WINDOW - c->receive_window - c->consumed);
}

void guest_channel_consumed(struct guest_channel *c, size_t n) {
    uint32_t out = GUEST_WINDOW - c->receive_window - c->consumed; /* delivered, not given back */
    c->consumed += n < out ? (uint32_t)n : out;
    if (c->consumed < CREDIT_STEP) return;
    uint32_t credit = htole32(c->consumed);
    c->receive_window += c->consumed;
    c->consumed = 0;
    guest_link_frame(c->link, GUEST_CREDIT, 0, c->number, &credit, sizeof credit);
}
