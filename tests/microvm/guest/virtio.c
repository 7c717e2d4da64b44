#include "guest.h"

enum { R_MAGIC = 0, R_VERSION = 4, R_DEVICE = 8, R_FEATURES = 0x10, R_FEATURES_SEL = 0x14, R_DRIVER = 0x20, R_DRIVER_SEL = 0x24, R_QUEUE_SEL = 0x30,
       R_QUEUE_MAX = 0x34, R_QUEUE_NUM = 0x38, R_QUEUE_READY = 0x44, R_NOTIFY = 0x50, R_STATUS = 0x70, R_DESC = 0x80, R_AVAIL = 0x90, R_USED = 0xa0 };

u32 device_id(unsigned window) {
    const u64 at = WINDOW(window);
    return mmio_get(at + R_MAGIC) == 0x74726976 && mmio_get(at + R_VERSION) == 2 ? mmio_get(at + R_DEVICE) : 0;
}

void ring_setup(unsigned window, unsigned queue, struct ring *r) {
    const u64 at = WINDOW(window);
    fill(r, 0, sizeof *r);
    mmio_put(at + R_QUEUE_SEL, queue);
    mmio_put(at + R_QUEUE_NUM, Q_ENTRIES);
    mmio_put(at + R_DESC, (u32)(u64)r->desc), mmio_put(at + R_DESC + 4, 0);
    mmio_put(at + R_AVAIL, (u32)(u64)&r->avail), mmio_put(at + R_AVAIL + 4, 0);
    mmio_put(at + R_USED, (u32)(u64)&r->used), mmio_put(at + R_USED + 4, 0);
    mmio_put(at + R_QUEUE_READY, 1);
}

int device_start(unsigned window, u32 features, struct ring *r, unsigned queues) {
    const u64 at = WINDOW(window);
    mmio_put(at + R_STATUS, 0);
    mmio_put(at + R_STATUS, 1 | 2); /* acknowledge, driver */
    mmio_put(at + R_DRIVER_SEL, 0), mmio_put(at + R_DRIVER, features);
    mmio_put(at + R_DRIVER_SEL, 1), mmio_put(at + R_DRIVER, 1);
    mmio_put(at + R_STATUS, 1 | 2 | 8);
    if (!(mmio_get(at + R_STATUS) & 8)) return -1;
    for (unsigned q = 0; q < queues; q++) ring_setup(window, q, r + q);
    mmio_put(at + R_STATUS, 1 | 2 | 8 | 4);
    return mmio_get(at + R_STATUS) == 15 ? 0 : -1;
}

void ring_add(struct ring *r, u16 head, const struct part *p, unsigned parts) {
    for (unsigned i = 0; i < parts; i++) {
        r->desc[head + i].address = (u64)p[i].at;
        r->desc[head + i].bytes = p[i].bytes;
        r->desc[head + i].flags = (u16)((p[i].device_writes ? 2 : 0) | (i + 1 < parts ? 1 : 0));
        r->desc[head + i].next = (u16)(head + i + 1);
    }
    r->avail.ring[r->avail.index % Q_ENTRIES] = head;
    __asm__ volatile("" ::: "memory");
    *(volatile u16 *)&r->avail.index = (u16)(r->avail.index + 1);
}

void device_notify(unsigned window, unsigned queue) { mmio_put(WINDOW(window) + R_NOTIFY, queue); }

int ring_poll(struct ring *r, u16 *head, u32 *bytes) {
    if (*(volatile u16 *)&r->used.index == r->seen) return 0;
    __asm__ volatile("" ::: "memory");
    *head = (u16)r->used.ring[r->seen % Q_ENTRIES].head, *bytes = r->used.ring[r->seen % Q_ENTRIES].bytes;
    r->seen++;
    return 1;
}

u32 ring_wait(struct ring *r) {
    u16 head;
    u32 bytes;
    while (!ring_poll(r, &head, &bytes)) __asm__ volatile("pause");
    return bytes;
}
