#include "guest.h"

struct start_info {
    u32 magic, version, flags, modules;
    u64 module_list, cmdline, rsdp, memory_map;
    u32 memory_entries;
};
struct memory_entry {
    u64 address, bytes;
    u32 type, reserved;
};

volatile u64 guest_counter;
volatile u32 interrupts_seen;

void print(const char *s) {
    while (*s) port_out(0x3f8, (u8)*s++);
}

void print_number(u64 n) {
    char text[21];
    unsigned at = 20;
    for (text[at] = 0; n || at == 20; n /= 10) text[--at] = (char)('0' + n % 10);
    print(text + at);
}

void print_line(const char *what, u64 n) {
    print(what);
    print(" ");
    print_number(n);
    print("\n");
}

int text_is(const char *a, const char *b) {
    while (*b)
        if (*a++ != *b++) return 0;
    return 1;
}

void copy(void *to, const void *from, u64 n) { __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory"); }
void fill(void *to, u8 with, u64 n) { __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(with) : "memory"); }

u32 random_next(u64 *s) { /* xorshift64 */
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return (u32)(*s >> 16);
}

/* ---- interrupts ---- */

#define VECTOR 0x41
static struct {
    u16 low, selector, kind, middle;
    u32 high, zero;
} idt[256] __attribute__((aligned(16)));
void isr_entry(void);
void guest_interrupt(void);

void guest_interrupt(void) {
    interrupts_seen++;
    mmio_put(0xfee000b0, 0); /* end of interrupt */
}

void interrupts_on(unsigned line) {
    const u64 at = (u64)isr_entry;
    idt[VECTOR].low = (u16)at, idt[VECTOR].selector = 8, idt[VECTOR].kind = 0x8e00, idt[VECTOR].middle = (u16)(at >> 16), idt[VECTOR].high = (u32)(at >> 32);
    const struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) pointer = {sizeof idt - 1, (u64)idt};
    __asm__ volatile("lidt %0" ::"m"(pointer));
    mmio_put(0xfee000f0, 0x1ff); /* local APIC on, spurious vector */
    mmio_put(0xfec00000, 0x10 + 2 * line), mmio_put(0xfec00010, VECTOR);
    mmio_put(0xfec00000, 0x11 + 2 * line), mmio_put(0xfec00010, 0);
}

/* ---- what to do ---- */

static u64 number(const char **s) {
    u64 n = 0;
    while (**s == ' ') ++*s;
    while (**s >= '0' && **s <= '9') n = n * 10 + (u64)(*(*s)++ - '0');
    return n;
}

static void hello(const struct start_info *info) {
    const struct memory_entry *map = (const void *)info->memory_map;
    print_line("hello version", info->version);
    print("line ");
    print((const char *)info->cmdline);
    print("\n");
    for (u32 i = 0; i < info->memory_entries; i++)
        if (map[i].type == 1) print_line("ram", map[i].bytes >> 10);
    if (info->modules) {
        const u64 *module = (const void *)info->module_list;
        print_line("module bytes", module[1]);
        print((const char *)module[0]);
    }
    print(text_is((const char *)info->rsdp, "RSD PTR ") ? "tables\n" : "no tables\n");
    print("bye\n");
}

/* Touch this many pages, then say a dot for ever: the first dot on a fork's console is its first instructions. */
static void tick(u64 pages) {
    for (u64 i = 0; i < pages; i++) *(volatile u8 *)(0x400000 + i * 4096) = 1;
    print("ready\n");
    for (;; guest_counter++) port_out(0x3f8, '.');
}

void guest_main(const struct start_info *info);
void guest_main(const struct start_info *info) {
    const char *line = (const char *)info->cmdline;
    if (text_is(line, "hello")) hello(info);
    if (text_is(line, "devices")) run_devices();
    if (text_is(line, "serve") || text_is(line, "console=")) run_serve(); /* the second: as the keeper starts it */
    if (text_is(line, "tick")) line += 4, tick(number(&line));
    if (text_is(line, "hostile")) {
        line += 7;
        const u64 seed = number(&line);
        run_hostile(seed, number(&line));
    }
    if (text_is(line, "crash")) __asm__ volatile("lidt 0\n int3");
    for (;;) __asm__ volatile("hlt");
}
