#include "wire/frame.h"

#include <endian.h>
#include <string.h>

static uint16_t get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return le16toh(v);
}
static uint32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

int frame_next(const uint8_t *packet, size_t packet_len, size_t *at, struct frame *out) {
    if (*at == packet_len) return 0;
    if (*at > packet_len || packet_len - *at < WIRE_HEAD) return -1;
    const uint8_t *p = packet + *at;
    out->length = get32(p);
    out->type = get16(p + 4);
    out->flags = get16(p + 6);
    out->channel = get32(p + 8);
    out->payload = p + WIRE_HEAD;
    if (out->length > packet_len - *at - WIRE_HEAD) return -1;
    *at += WIRE_HEAD + out->length;
    return 1;
}

bool frame_put(uint8_t *packet, size_t *len, uint16_t type, uint16_t flags, uint32_t channel, const void *payload,
               size_t n) {
    if (n > WIRE_PAYLOAD_MAX || *len > WIRE_PACKET_MAX - WIRE_HEAD || n > WIRE_PACKET_MAX - WIRE_HEAD - *len)
        return false;
    uint8_t *p = packet + *len;
    uint32_t length = htole32((uint32_t)n), chan = htole32(channel);
    type = htole16(type);
    flags = htole16(flags);
    memcpy(p, &length, 4);
    memcpy(p + 4, &type, 2);
    memcpy(p + 6, &flags, 2);
    memcpy(p + 8, &chan, 4);
    if (n) memcpy(p + WIRE_HEAD, payload, n);
    *len += WIRE_HEAD + n;
    return true;
}
