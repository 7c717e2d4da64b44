#include "vmm/state.h"

#include <string.h>

struct section_head {
    uint32_t tag, bytes;
};

void state_end(struct state_out *s) {
    if (!s->section) return;
    const uint32_t bytes = (uint32_t)(s->bytes.len - s->section);
    memcpy(s->bytes.data + s->section - sizeof bytes, &bytes, sizeof bytes);
    s->section = 0;
}

void state_section(struct state_out *s, uint32_t tag) {
    state_end(s);
    const struct section_head h = {.tag = tag};
    buf_append(&s->bytes, &h, sizeof h);
    s->section = s->bytes.len;
}

void state_put(struct state_out *s, const void *p, size_t n) { buf_append(&s->bytes, p, n); }

int state_get(struct state_in *s, void *p, size_t n) {
    if ((size_t)(s->end - s->at) < n) return -1;
    memcpy(p, s->at, n);
    s->at += n;
    return 0;
}

int state_enter(struct state_in *s, uint32_t tag, struct state_in *out) {
    struct section_head h;
    if (state_get(s, &h, sizeof h) < 0 || h.tag != tag || (size_t)(s->end - s->at) < h.bytes) return -1;
    *out = (struct state_in){s->at, s->at + h.bytes};
    s->at += h.bytes;
    return 0;
}
