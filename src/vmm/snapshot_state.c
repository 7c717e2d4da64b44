#include <string.h>

#include "vmm/snapshot.h"

enum { S_CPU = 0x20555043, S_CLOCK = 0x4b434c43, S_VCPU = 0x55504356, S_IOAPIC = 0x50414f49, S_SERIAL = 0x54524155, S_DEVICE = 0x20564544, S_KEPT = 0x5450454b };

void snapshot_encode(struct machine *m, const struct snapshot_head *head, const uint64_t *kept, struct buf *out) {
    struct state_out s = {0};
    state_put(&s, head, sizeof *head);
    state_section(&s, S_CPU);
    arch_host_save(&m->host, &s);
    state_section(&s, S_CLOCK);
    state_put(&s, &m->clock_ns, sizeof m->clock_ns);
    for (unsigned i = 0; i < m->vcpus; i++) {
        state_section(&s, S_VCPU);
        arch_vcpu_put(&m->saved[i], &s);
    }
    state_section(&s, S_IOAPIC);
    ioapic_save(&m->ioapic, &s);
    state_section(&s, S_SERIAL);
    serial_save(&m->serial, &s);
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++) {
        if (!m->device[i]) continue;
        state_section(&s, S_DEVICE);
        virtio_save(m->device[i], &s);
    }
    state_section(&s, S_KEPT);
    if (head->has_base) state_put(&s, kept, memory_dirty_bytes(&m->memory));
    state_end(&s);
    *out = s.bytes;
}

static uint32_t device_mask(const struct machine *m) {
    uint32_t mask = 0;
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++) mask |= m->device[i] ? 1u << i : 0;
    return mask;
}

static int check_head(const struct machine *m, const struct snapshot_head *h, struct err *e) {
    if (h->magic != STATE_VM_MAGIC) return err_set(e, ERR_IMAGE, "this is no state of a machine");
    if (h->version != STATE_VM_VERSION) return err_hint(e, ERR_IMAGE, "resume it with the version that wrote it", "the state has format %u, this VMM reads %u", h->version, STATE_VM_VERSION);
    if (h->memory_bytes != m->memory.bytes || h->vcpus != m->vcpus || h->devices != device_mask(m))
        return err_set(e, ERR_IMAGE, "the state is of a machine with %llu bytes of memory, %u vCPUs and devices %#x", (unsigned long long)h->memory_bytes, h->vcpus, h->devices);
    return 0;
}

static int sections(struct machine *m, struct state_in *all, const struct snapshot_head *h, uint64_t *kept) {
    struct state_in s;
    if (state_enter(all, S_CLOCK, &s) < 0 || state_get(&s, &m->clock_ns, sizeof m->clock_ns) < 0 || !state_done(&s)) return -1;
    for (unsigned i = 0; i < m->vcpus; i++)
        if (state_enter(all, S_VCPU, &s) < 0 || arch_vcpu_get(&m->saved[i], &s) < 0 || !state_done(&s)) return -1;
    if (state_enter(all, S_IOAPIC, &s) < 0 || ioapic_load(&m->ioapic, &s) < 0 || !state_done(&s)) return -1;
    if (state_enter(all, S_SERIAL, &s) < 0 || serial_load(&m->serial, &s) < 0 || !state_done(&s)) return -1;
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++)
        if (m->device[i] && (state_enter(all, S_DEVICE, &s) < 0 || virtio_load(m->device[i], &s) < 0 || !state_done(&s))) return -1;
    const size_t bytes = memory_dirty_bytes(&m->memory);
    if (state_enter(all, S_KEPT, &s) < 0 || (h->has_base && state_get(&s, kept, bytes) < 0) || !state_done(&s) || !state_done(all)) return -1;
    const uint64_t extra = memory_pages(&m->memory) % 64; /* no page behind the last one */
    return extra && kept[bytes / 8 - 1] >> extra ? -1 : 0;
}

int snapshot_decode(struct machine *m, const void *bytes, size_t n, struct snapshot_head *h, uint64_t *kept, struct err *e) {
    struct state_in all = {bytes, (const uint8_t *)bytes + n}, s;
    memset(kept, 0, memory_dirty_bytes(&m->memory));
    if (state_get(&all, h, sizeof *h) < 0) return err_set(e, ERR_IMAGE, "the state ends too early");
    if (check_head(m, h, e) < 0) return -1;
    if (state_enter(&all, S_CPU, &s) < 0) return err_set(e, ERR_IMAGE, "the state is damaged");
    if (arch_host_load(&m->host, &s, e) < 0) return -1;
    return sections(m, &all, h, kept) < 0 ? err_set(e, ERR_IMAGE, "the state is damaged") : 0;
}
