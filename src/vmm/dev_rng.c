#include <stdlib.h>

#include "base/id.h"
#include "vmm/devices.h"

#define RNG_BYTES_MAX 4096u

static void config(struct virtio_dev *d, uint32_t offset, void *to, unsigned n) {
    (void)d;
    virtio_config_bytes(NULL, 0, offset, to, n);
}

static void notify(struct virtio_dev *d, unsigned queue) {
    struct vq_chain c;
    for (unsigned n = d->ops->entries; n && virtio_pop(d, queue, &c) == 1; n--) {
        uint8_t bytes[RNG_BYTES_MAX];
        const size_t size = c.in_bytes < sizeof bytes ? c.in_bytes : sizeof bytes;
        random_fill(bytes, size);
        virtio_push(d, queue, &c, vq_write(&c, 0, bytes, size) ? (uint32_t)size : 0);
    }
}

static const struct virtio_ops rng_ops = {.name = "rng", .id = 4, .queues = 1, .entries = 64, .config = config, .notify = notify};

struct virtio_dev *rng_make(const struct guest_memory *m, struct virtio_irq irq) {
    struct virtio_dev *d = calloc(1, sizeof *d);
    if (!d) abort();
    virtio_init(d, &rng_ops, m, irq);
    return d;
}
