#include <string.h>

#include "vmm/machine.h"

static void serial_port(struct machine *m, unsigned reg, bool is_write, uint8_t *data) {
    if (is_write) serial_write(&m->serial, reg, *data);
    else *data = serial_read(&m->serial, reg);
}

void bus_port(struct machine *m, uint16_t port, bool is_write, void *data, unsigned size, unsigned count) {
    uint8_t *p = data;
    for (unsigned i = 0; i < count; i++, p += size) {
        if (port >= SERIAL_PORT && port < SERIAL_PORT + 8 && size == 1) serial_port(m, port - SERIAL_PORT, is_write, p);
        else if (!is_write) memset(p, 0xff, size);
    }
}

void bus_memory(struct machine *m, uint64_t address, bool is_write, void *data, unsigned size) {
    const uint64_t device = address - MACHINE_DEVICE_ADDRESS, chip = address - IOAPIC_ADDRESS;
    if (!is_write) memset(data, 0xff, size);
    if (device < (uint64_t)MACHINE_DEVICES_MAX * VIRTIO_WINDOW && m->device[device / VIRTIO_WINDOW]) {
        struct virtio_dev *d = m->device[device / VIRTIO_WINDOW];
        if (is_write) virtio_write(d, (uint32_t)(device % VIRTIO_WINDOW), data, size);
        else virtio_read(d, (uint32_t)(device % VIRTIO_WINDOW), data, size);
    } else if (chip < IOAPIC_WINDOW) {
        if (is_write) ioapic_write(&m->ioapic, (uint32_t)chip, data, size);
        else ioapic_read(&m->ioapic, (uint32_t)chip, data, size);
    }
}
