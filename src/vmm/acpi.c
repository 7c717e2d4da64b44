/* The ACPI tables: a hardware-reduced machine (no PIC, no timer, no power button), its local APICs and I/O APIC, and a DSDT that names the
 * serial port and the virtio windows, because a stock kernel takes no virtio-mmio devices from its command line. */
#include <stdio.h>
#include <string.h>

#include "vmm/boot.h"

struct header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem[6], table[8];
    uint32_t oem_revision;
    char creator[4];
    uint32_t creator_revision;
} __attribute__((packed));

static uint8_t sum(const uint8_t *p, size_t n) {
    uint8_t s = 0;
    while (n--) s = (uint8_t)(s + *p++);
    return (uint8_t)-s;
}

struct writer { /* the area for tables, bounded by what this file writes */
    uint8_t *base;
    uint32_t used;
};

static uint64_t table(struct writer *w, const char *signature, uint8_t revision, const void *body, uint32_t n) {
    struct header h = {.length = (uint32_t)sizeof h + n, .revision = revision, .oem = "CELLA", .table = "CELLAVM", .oem_revision = 1, .creator = "CELL",
                       .creator_revision = 1};
    memcpy(h.signature, signature, 4);
    uint8_t *to = w->base + w->used;
    memcpy(to, &h, sizeof h);
    memcpy(to + sizeof h, body, n);
    to[offsetof(struct header, checksum)] = sum(to, h.length);
    const uint64_t at = ACPI_ADDRESS + w->used;
    w->used = (w->used + h.length + 15) & ~15u;
    return at;
}

/* ---- the DSDT's bytes (AML) ---- */

struct aml {
    uint8_t bytes[2048];
    uint32_t n;
};

static void put(struct aml *a, const void *p, uint32_t n) {
    memcpy(a->bytes + a->n, p, n);
    a->n += n;
}
static void byte(struct aml *a, unsigned v) { put(a, &(uint8_t){(uint8_t)v}, 1); }
static void dword(struct aml *a, uint32_t v) { put(a, &v, 4); }
static void name(struct aml *a, const char *n4) { byte(a, 0x08), put(a, n4, 4); } /* NameOp */
static void string(struct aml *a, const char *s) { byte(a, 0x0d), put(a, s, (uint32_t)strlen(s) + 1); }

/* A length in two bytes (up to 4095), which counts itself. */
static void package_length(struct aml *a, uint32_t n) {
    n += 2;
    byte(a, 0x40 | (n & 0xf));
    byte(a, n >> 4);
}

static void interrupt(struct aml *a, unsigned gsi) { /* extended interrupt: consumer, edge, high, exclusive */
    static const uint8_t head[] = {0x89, 6, 0, 0x03, 1};
    put(a, head, sizeof head);
    dword(a, gsi);
}

static void device(struct aml *out, const char *n4, const char *hid, unsigned uid, const struct aml *resources) {
    struct aml in = {.n = 0}, crs = {.n = 0};
    put(&crs, resources->bytes, resources->n);
    byte(&crs, 0x79), byte(&crs, 0); /* end tag */
    put(&in, n4, 4);
    name(&in, "_HID"), string(&in, hid);
    name(&in, "_UID"), byte(&in, 0x0a), byte(&in, uid);
    name(&in, "_CRS"), byte(&in, 0x11);                     /* Buffer */
    package_length(&in, crs.n + 2), byte(&in, 0x0a), byte(&in, crs.n);
    put(&in, crs.bytes, crs.n);
    byte(out, 0x5b), byte(out, 0x82); /* Device */
    package_length(out, in.n);
    put(out, in.bytes, in.n);
}

static void serial_device(struct aml *out) {
    struct aml r = {.n = 0};
    const uint8_t io[] = {0x47, 1, SERIAL_PORT & 0xff, SERIAL_PORT >> 8, SERIAL_PORT & 0xff, SERIAL_PORT >> 8, 1, 8};
    put(&r, io, sizeof io);
    interrupt(&r, SERIAL_LINE);
    device(out, "COM1", "PNP0501", 0, &r);
}

static void virtio_device(struct aml *out, unsigned window) {
    struct aml r = {.n = 0};
    char n4[5];
    const uint8_t head[] = {0x86, 9, 0, 1}; /* fixed memory, writable */
    put(&r, head, sizeof head);
    dword(&r, MACHINE_DEVICE_ADDRESS + window * VIRTIO_WINDOW);
    dword(&r, VIRTIO_WINDOW);
    interrupt(&r, MACHINE_DEVICE_LINE + window);
    snprintf(n4, sizeof n4, "VIO%X", window & 0xf);
    device(out, n4, "LNRO0005", window, &r);
}

static uint64_t dsdt(struct writer *w, const struct machine *m) {
    struct aml devices = {.n = 0}, all = {.n = 0};
    put(&devices, "\\_SB_", 5);
    serial_device(&devices);
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++)
        if (m->device[i]) virtio_device(&devices, i);
    byte(&all, 0x10); /* Scope */
    package_length(&all, devices.n);
    put(&all, devices.bytes, devices.n);
    return table(w, "DSDT", 2, all.bytes, all.n);
}

/* ---- the others ---- */

static uint64_t madt(struct writer *w, unsigned vcpus) {
    struct aml a = {.n = 0};
    dword(&a, 0xfee00000);
    dword(&a, 0);
    for (unsigned i = 0; i < vcpus; i++) { /* local APIC: enabled */
        byte(&a, 0), byte(&a, 8), byte(&a, i), byte(&a, i);
        dword(&a, 1);
    }
    byte(&a, 1), byte(&a, 12), byte(&a, vcpus), byte(&a, 0); /* I/O APIC, first line 0 */
    dword(&a, IOAPIC_ADDRESS);
    dword(&a, 0);
    return table(w, "APIC", 4, a.bytes, a.n);
}

static uint64_t fadt(struct writer *w, uint64_t dsdt_at) {
    uint8_t f[276 - sizeof(struct header)] = {0};
    const uint32_t at32 = (uint32_t)dsdt_at, flags = 1u << 20 | 1u << 8 | 1u << 5 | 1u << 4; /* hardware-reduced; no power, sleep buttons or RTC */
    const uint16_t boot = 1u << 2 | 1u << 5;                                                  /* no VGA, no CMOS clock */
    memcpy(f + 40 - sizeof(struct header), &at32, 4);
    memcpy(f + 109 - sizeof(struct header), &boot, 2);
    memcpy(f + 112 - sizeof(struct header), &flags, 4);
    f[131 - sizeof(struct header)] = 5; /* minor version */
    memcpy(f + 140 - sizeof(struct header), &dsdt_at, 8);
    memcpy(f + 268 - sizeof(struct header), "CELLA\0\0", 8);
    return table(w, "FACP", 6, f, sizeof f);
}

uint64_t acpi_write(struct machine *m) {
    struct writer w = {.base = memory_at(&m->memory, ACPI_ADDRESS, ACPI_BYTES_MAX), .used = 64}; /* the root pointer stands in front */
    const uint64_t parts[] = {fadt(&w, dsdt(&w, m)), madt(&w, m->vcpus)};
    const uint64_t xsdt = table(&w, "XSDT", 1, parts, sizeof parts);
    uint8_t root[36] = "RSD PTR ";
    memcpy(root + 9, "CELLA", 5);
    root[15] = 2, root[20] = sizeof root;
    memcpy(root + 24, &xsdt, 8);
    root[8] = sum(root, 20);
    root[32] = sum(root, sizeof root);
    memcpy(w.base, root, sizeof root);
    memory_dirty(&m->memory, w.base, w.used);
    return ACPI_ADDRESS;
}
