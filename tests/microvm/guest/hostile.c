/* A guest that means harm: random values into every register, rings whose contents are noise, chains that loop, lengths that wrap, and ports and
 * addresses where nothing is. The VMM may refuse, end the device or end the machine; it must not break. */
#include "guest.h"

static struct ring ring[3];
static u8 room[8192] __attribute__((aligned(4096)));
static const u32 registers[] = {0x10, 0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0x100, 0x104, 0xffc};

static void noise(void *at, unsigned n, u64 *s) {
    for (unsigned i = 0; i < n / 4; i++) ((u32 *)at)[i] = random_next(s);
}

static void descriptors(struct ring *r, u64 *s) {
    for (unsigned i = 0; i < Q_ENTRIES; i++) {
        const u32 k = random_next(s);
        r->desc[i].address = k & 1 ? (u64)room + (k >> 8 & 0xfff) : (u64)k << (k & 31);
        r->desc[i].bytes = k & 2 ? k >> 20 : k & 4 ? 0xffffffff - (k & 0xfff) : k;
        r->desc[i].flags = (u16)(k >> 5 & 7);
        r->desc[i].next = (u16)(k & 8 ? k >> 12 & 15 : k >> 16);
    }
    for (unsigned i = 0; i < Q_ENTRIES; i++) r->avail.ring[i] = (u16)(random_next(s) & (random_next(s) & 1 ? 15 : 0xffff));
    r->avail.index = (u16)(random_next(s) & 1 ? r->avail.index + 1 + (random_next(s) & 7) : random_next(s));
    noise(room, 64, s); /* heads of requests */
    if (random_next(s) & 1) *(u32 *)room &= 15;
}

static void device(unsigned window, u64 *s) {
    const unsigned queues = window == W_STREAM || window == W_BALLOON ? 3 : window == W_NET ? 2 : 1;
    if (device_start(window, random_next(s) & 1 ? 0 : random_next(s), ring, queues) < 0) return;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned q = random_next(s) % queues;
        descriptors(ring + q, s);
        device_notify(window, q);
        if (random_next(s) & 1) mmio_put(WINDOW(window) + registers[random_next(s) % (sizeof registers / 4)], random_next(s));
    }
}

static void registers_of(unsigned window, u64 *s) {
    for (unsigned i = 0; i < 8; i++) {
        const u64 at = WINDOW(window) + registers[random_next(s) % (sizeof registers / 4)];
        const u32 v = random_next(s);
        mmio_put(at, v & 1 ? v >> 24 & 15 : v);
        (void)mmio_get(at);
        __asm__ volatile("movb %b0, (%1)" ::"r"(v), "r"(at + (v & 3)) : "memory");
    }
}

static void elsewhere(u64 *s) {
    const u32 v = random_next(s);
    mmio_put(0xfec00000, v & 0xff), mmio_put(0xfec00010, random_next(s) & ~0x10000u); /* the I/O APIC, unmasked */
    (void)mmio_get(0xfec00000 + (v & 0xffc));
    (void)mmio_get(0xc0000000ull + (v & 0x0ffffffc));
    mmio_put(0xc0000000ull + (v & 0x0ffffffc), v);
    port_out((u16)(v >> 8), (u8)v), (void)port_in((u16)(v >> 8));
    for (u16 p = 0x3f9; p < 0x400; p++) port_out(p, (u8)random_next(s)), (void)port_in(p);
    port_out(0x3fb, 3), port_out(0x3f9, 0);
}

void run_hostile(u64 seed, u64 rounds) {
    u64 s = seed * 0x9e3779b97f4a7c15ull + 1;
    for (u64 i = 0; i < rounds; i++) {
        const unsigned window = random_next(&s) % 8;
        if (i % 4 == 0) registers_of(window, &s);
        else if (i % 4 == 1) elsewhere(&s);
        else device(window, &s);
    }
    print("\nhostile done\n");
}
