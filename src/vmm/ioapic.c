#include "vmm/ioapic.h"

#include <string.h>

#define MASKED (1ull << 16)
#define READ_ONLY (1ull << 12 | 1ull << 14) /* delivery status, remote IRR */
#define VERSION (0x20u | (IOAPIC_LINES - 1) << 16)

void ioapic_init(struct ioapic *io, void (*send)(void *, uint64_t, uint32_t), void *arg) {
    *io = (struct ioapic){.send = send, .arg = arg};
    pthread_mutex_init(&io->lock, NULL);
    for (unsigned i = 0; i < IOAPIC_LINES; i++) io->entry[i] = MASKED;
}

/* The entry's fields as the message that a device would write itself (Intel SDM 3, 11.11). */
static void send(struct ioapic *io, uint64_t entry) {
    const uint64_t destination = entry >> 56, logical = entry >> 11 & 1;
    const uint32_t vector = (uint32_t)entry & 0xff, mode = (uint32_t)(entry >> 8 & 7), level = (uint32_t)(entry >> 15 & 1);
    io->send(io->arg, 0xfee00000u | destination << 12 | logical << 2, vector | mode << 8 | 1u << 14 | level << 15);
}

void ioapic_raise(void *ioapic, unsigned line) {
    struct ioapic *io = ioapic;
    pthread_mutex_lock(&io->lock);
    if (io->entry[line] & MASKED) io->waiting |= 1u << line;
    else send(io, io->entry[line]);
    pthread_mutex_unlock(&io->lock);
}

static uint32_t get(const struct ioapic *io) {
    const uint32_t r = io->select;
    if (r == 0) return io->id;
    if (r == 1) return VERSION;
    if (r >= 0x10 && r < 0x10 + 2 * IOAPIC_LINES) return (uint32_t)(io->entry[(r - 0x10) / 2] >> (r & 1 ? 32 : 0));
    return 0;
}

static void set(struct ioapic *io, uint32_t value) {
    const uint32_t r = io->select;
    if (r == 0) io->id = value & 0x0f000000;
    if (r < 0x10 || r >= 0x10 + 2 * IOAPIC_LINES) return;
    const unsigned line = (r - 0x10) / 2;
    uint64_t *e = &io->entry[line];
    *e = r & 1 ? (*e & 0xffffffff) | (uint64_t)value << 32 : (*e & ~0xffffffffull) | (value & ~READ_ONLY);
    if (!(*e & MASKED) && io->waiting & 1u << line) {
        io->waiting &= ~(1u << line);
        send(io, *e);
    }
}

void ioapic_read(struct ioapic *io, uint32_t offset, void *to, unsigned n) {
    pthread_mutex_lock(&io->lock);
    const uint64_t value = offset == 0 ? io->select : offset == 0x10 ? get(io) : 0;
    memcpy(to, &value, n);
    pthread_mutex_unlock(&io->lock);
}

void ioapic_write(struct ioapic *io, uint32_t offset, const void *from, unsigned n) {
    uint32_t value = 0;
    memcpy(&value, from, n < 4 ? n : 4);
    pthread_mutex_lock(&io->lock);
    if (offset == 0) io->select = value & 0xff;
    if (offset == 0x10) set(io, value);
    pthread_mutex_unlock(&io->lock);
}

void ioapic_save(struct ioapic *io, struct state_out *out) {
    state_put(out, &io->select, sizeof io->select);
    state_put(out, &io->id, sizeof io->id);
    state_put(out, &io->waiting, sizeof io->waiting);
    state_put(out, io->entry, sizeof io->entry);
}

int ioapic_load(struct ioapic *io, struct state_in *in) {
    if (state_get(in, &io->select, sizeof io->select) < 0 || state_get(in, &io->id, sizeof io->id) < 0 ||
        state_get(in, &io->waiting, sizeof io->waiting) < 0 || state_get(in, io->entry, sizeof io->entry) < 0)
        return -1;
    io->select &= 0xff, io->waiting &= (1u << IOAPIC_LINES) - 1;
    return 0;
}
