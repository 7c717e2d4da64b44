/* The balloon, of which only free page reporting is used: the guest says which memory is free, and the host gets it back. What such a page then
 * holds (zeros, or what the snapshot's base has there) is nothing to a guest that called it free. */
#include <stdlib.h>
#include <sys/mman.h>

#include "vmm/devices.h"

#define REPORTS 2 /* after inflate and deflate, which this host never asks for */

static void config(struct virtio_dev *d, uint32_t offset, void *to, unsigned n) {
    (void)d;
    virtio_config_bytes(NULL, 0, offset, to, n); /* wanted pages: 0 */
}

static void give_back(const struct iovec *v) {
    const uintptr_t from = ((uintptr_t)v->iov_base + MEMORY_PAGE - 1) & ~(uintptr_t)(MEMORY_PAGE - 1);
    const uintptr_t end = ((uintptr_t)v->iov_base + v->iov_len) & ~(uintptr_t)(MEMORY_PAGE - 1);
    if (end > from) (void)madvise((void *)from, end - from, MADV_DONTNEED);
}

static void notify(struct virtio_dev *d, unsigned queue) {
    struct vq_chain c;
    for (unsigned n = d->ops->entries; n && virtio_pop(d, queue, &c) == 1; n--) {
        for (unsigned i = c.out; i < c.out + c.in && queue == REPORTS; i++) give_back(&c.segment[i]);
        virtio_push(d, queue, &c, 0);
    }
}

static const struct virtio_ops balloon_ops = {.name = "balloon", .id = 5, .queues = 3, .entries = 64, .features = 1 << 5, .config = config, .notify = notify};

struct virtio_dev *balloon_make(const struct guest_memory *m, struct virtio_irq irq) {
    struct virtio_dev *d = calloc(1, sizeof *d);
    if (!d) abort();
    virtio_init(d, &balloon_ops, m, irq);
    return d;
}
