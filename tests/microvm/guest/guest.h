/* guest.h: the bare-metal test guest: no kernel, one processor, everything by polling or one interrupt handler. What it does is the first word of
 * its command line (main.c). It may run under hypervisors that emulate every instruction (about 0.6 µs each), so it computes little. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static inline void port_out(u16 port, u8 v) { __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port)); }
static inline u8 port_in(u16 port) {
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 mmio_get(u64 at) {
    u32 v;
    __asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(at) : "memory");
    return v;
}
static inline void mmio_put(u64 at, u32 v) { __asm__ volatile("movl %0, (%1)" ::"r"(v), "r"(at) : "memory"); }

void print(const char *);
void print_number(u64);
void print_line(const char *what, u64 n);
int text_is(const char *a, const char *b); /* a begins with b */
void copy(void *to, const void *from, u64 n);
void fill(void *to, u8 with, u64 n);
u32 random_next(u64 *state);

/* ---- virtio (virtio.c) ---- */
#define WINDOW(i) (0xd0000000ull + 0x1000ull * (i))
enum { W_RNG, W_STREAM, W_NET, W_DISK, W_BALLOON = W_DISK + 4 };
#define Q_ENTRIES 16

struct ring {
    struct {
        u64 address;
        u32 bytes;
        u16 flags, next;
    } desc[Q_ENTRIES] __attribute__((aligned(16)));
    struct {
        u16 flags, index, ring[Q_ENTRIES];
    } avail __attribute__((aligned(4)));
    struct {
        u16 flags, index;
        struct {
            u32 head, bytes;
        } ring[Q_ENTRIES];
    } used __attribute__((aligned(4)));
    u16 seen;
};
struct part {
    void *at;
    u32 bytes;
    int device_writes;
};

u32 device_id(unsigned window); /* 0: nothing there */
/* Reset, negotiate these features (low half; VERSION_1 is added), set up `queues` rings, DRIVER_OK. 0 when the device agreed. */
int device_start(unsigned window, u32 features, struct ring *, unsigned queues);
void ring_setup(unsigned window, unsigned queue, struct ring *);
void ring_add(struct ring *, u16 head, const struct part *, unsigned parts);
void device_notify(unsigned window, unsigned queue);
int ring_poll(struct ring *, u16 *head, u32 *bytes); /* 1 when something is done */
u32 ring_wait(struct ring *);                        /* bytes of the next one done */

/* ---- what it does ---- */
void run_devices(void); /* devices.c */
void run_serve(void);   /* serve.c */
void run_hostile(u64 seed, u64 rounds); /* hostile.c */
extern volatile u64 guest_counter;
extern volatile u32 interrupts_seen;
void interrupts_on(unsigned line); /* main.c: this line of the I/O APIC counts into interrupts_seen */
