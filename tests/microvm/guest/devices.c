/* Every device as a well-behaved driver uses it, and the mistakes that a device has to answer with an error. One line each: "ok NAME" or "bad NAME". */
#include "guest.h"

static struct ring ring[3];
static u8 data[8192] __attribute__((aligned(4096))), back[8192] __attribute__((aligned(4096)));

static void say(const char *name, int good) {
    print(good ? "ok " : "bad ");
    print(name);
    print("\n");
}

static int same(const u8 *a, const u8 *b, unsigned n) {
    while (n--)
        if (*a++ != *b++) return 0;
    return 1;
}

static void rng(void) {
    say("rng start", device_id(W_RNG) == 4 && device_start(W_RNG, 0, ring, 1) == 0);
    fill(data, 0, 64);
    ring_add(ring, 0, &(struct part){data, 32, 1}, 1);
    device_notify(W_RNG, 0);
    const u32 first = ring_wait(ring);
    ring_add(ring, 1, &(struct part){data + 32, 32, 1}, 1);
    device_notify(W_RNG, 0);
    const u32 second = ring_wait(ring);
    say("rng bytes", first == 32 && second == 32 && !same(data, data + 32, 32) && !same(data, back, 16));
}

/* One request; the status byte, or 255 when the device did not touch it. */
static u8 block(unsigned disk, u32 type, u64 sector, void *at, u32 bytes, int reads) {
    static struct {
        u32 type, zero;
        u64 sector;
    } head;
    static volatile u8 status;
    head.type = type, head.sector = sector, status = 255;
    const struct part parts[] = {{&head, 16, 0}, {at, bytes, reads}, {(void *)&status, 1, 1}};
    const struct part flush[] = {parts[0], parts[2]};
    if (bytes) ring_add(ring, 0, parts, 3);
    else ring_add(ring, 0, flush, 2);
    device_notify(W_DISK + disk, 0);
    (void)ring_wait(ring);
    return status;
}

static void disks(void) {
    say("disk start", device_id(W_DISK) == 2 && device_start(W_DISK, 1 << 9, ring, 1) == 0);
    const u64 sectors = mmio_get(WINDOW(W_DISK) + 0x100);
    say("disk read", block(0, 0, 0, data, 1024, 1) == 0 && text_is((char *)data, "sector one"));
    fill(data, 'w', 4096);
    say("disk write", block(0, 1, 8, data, 4096, 0) == 0 && block(0, 4, 0, 0, 0, 0) == 0);
    say("disk back", block(0, 0, 8, back, 4096, 1) == 0 && same(data, back, 4096));
    say("disk id", block(0, 8, 0, back, 20, 1) == 0 && text_is((char *)back, "cella-disk-0"));
    say("disk end", block(0, 0, sectors - 1, back, 512, 1) == 0 && block(0, 0, sectors, back, 512, 1) == 1 && block(0, 0, sectors - 1, back, 1024, 1) == 1);
    say("disk wrap", block(0, 0, ~0ull, back, 512, 1) == 1 && block(0, 1, ~0ull >> 9, data, 512, 0) == 1);
    say("disk odd", block(0, 0, 0, back, 100, 1) == 1 && block(0, 77, 0, back, 512, 1) == 2);
    if (device_id(W_DISK + 1) != 2) return;
    say("ro start", device_start(W_DISK + 1, 1 << 9, ring, 1) == 0 && mmio_get(WINDOW(W_DISK + 1) + 0x10) & 1 << 5);
    say("ro write", block(1, 1, 0, data, 512, 0) == 1);
    say("ro read", block(1, 0, 0, back, 512, 1) == 0 && text_is((char *)back, "read only"));
}

static void net(void) {
    if (device_id(W_NET) != 1) return;
    say("net start", device_start(W_NET, 1 << 5, ring, 2) == 0 && mmio_get(WINDOW(W_NET) + 0x100) == 0x44332202);
    ring_add(ring, 0, &(struct part){back, 2048, 1}, 1);
    device_notify(W_NET, 0);
    fill(data, 0, 12);
    copy(data + 12, "a frame from the guest", 22);
    ring_add(ring + 1, 0, &(struct part){data, 12 + 60, 0}, 1);
    device_notify(W_NET, 1);
    (void)ring_wait(ring + 1);
    const u32 n = ring_wait(ring); /* the host answers with one of its own */
    say("net frame", n == 12 + 100 && text_is((char *)back + 12, "a frame from the host") && back[10] == 1);
}

static void balloon(void) {
    volatile u64 *page = (u64 *)0x800000;
    say("balloon start", device_id(W_BALLOON) == 5 && device_start(W_BALLOON, 1 << 5, ring, 3) == 0);
    page[0] = page[511] = page[512] = page[1023] = 77;
    const struct part parts[] = {{(void *)0x800000, 4096, 1}, {(void *)0x801008, 4096, 1}}; /* the second holds no whole page */
    ring_add(ring + 2, 0, parts, 2);
    device_notify(W_BALLOON, 2);
    (void)ring_wait(ring + 2);
    say("balloon page", page[0] == 0 && page[511] == 0 && page[512] == 77 && page[1023] == 77);
}

static void interrupt(void) {
    interrupts_on(5 + W_RNG);
    say("irq start", device_start(W_RNG, 0, ring, 1) == 0);
    __asm__ volatile("sti; nop; nop; cli"); /* what the line remembers of the time when it was masked */
    (void)mmio_get(WINDOW(W_RNG));
    interrupts_seen = 0;
    ring_add(ring, 0, &(struct part){data, 16, 1}, 1);
    __asm__ volatile("sti");
    device_notify(W_RNG, 0);
    for (unsigned i = 0; i < 100000 && !interrupts_seen; i++) __asm__ volatile("pause");
    say("irq taken", interrupts_seen == 1 && mmio_get(WINDOW(W_RNG) + 0x60) == 1);
    mmio_put(WINDOW(W_RNG) + 0x64, 1);
    __asm__ volatile("cli");
    ring[0].avail.flags = 1; /* no interrupt, please */
    ring_add(ring, 1, &(struct part){data, 16, 1}, 1);
    device_notify(W_RNG, 0);
    (void)ring_wait(ring);
    (void)ring_wait(ring);
    say("irq silent", interrupts_seen == 1 && mmio_get(WINDOW(W_RNG) + 0x60) == 0);
}

void run_devices(void) {
    rng();
    disks();
    net();
    balloon();
    interrupt();
    print("done\n");
}
