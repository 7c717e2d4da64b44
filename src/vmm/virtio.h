/* virtio.h: the virtio-mmio transport (version 2), and what a device behind it is: one table of functions.
 *
 * Registers are read and written by vCPU threads, the other side (tap, sockets) is served by the loop thread; dev->lock is held in every
 * function of the table but close. A device that a guest misused says so in its status (NEEDS_RESET) and does nothing more. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/state.h"
#include "vmm/virtqueue.h"

#define VIRTIO_QUEUES_MAX 3
#define VIRTIO_WINDOW 0x1000u     /* bytes of registers of a device */
#define VIRTIO_F_VERSION_1 (1ull << 32)

struct virtio_dev;

struct virtio_ops {
    const char *name;
    uint32_t id; /* virtio's device number */
    unsigned queues;
    uint16_t entries; /* largest size of a queue */
    uint64_t features; /* besides VERSION_1 */
    /* Read n bytes (1…8) at offset of the configuration space; what is beyond its end is 0. */
    void (*config)(struct virtio_dev *, uint32_t offset, void *to, unsigned n);
    /* The driver put something into queue. Take at most as many requests as a queue has entries: what is added meanwhile, by another vCPU, has a
     * notification of its own, and a device that a guest could keep busy for ever would never let the machine be paused. */
    void (*notify)(struct virtio_dev *, unsigned queue);
    void (*reset)(struct virtio_dev *); /* or NULL: forget what belonged to the driver's session */
    /* What a snapshot keeps besides the transport; or NULL. load: 0, or -1 for a state that cannot be. */
    void (*save)(struct virtio_dev *, struct state_out *);
    int (*load)(struct virtio_dev *, struct state_in *);
    /* This process is a fork: let go of descriptors that belong to the parent, make what threads share anew. */
    void (*forked)(struct virtio_dev *);
    /* NULL, or why the machine must not run yet ("disk 1 is not attached"). */
    const char *(*missing)(const struct virtio_dev *);
};

struct virtio_irq { /* how a device reaches its interrupt line */
    void (*raise)(void *arg, unsigned line);
    void *arg;
    unsigned line;
};

struct virtio_dev { /* first member of every device's own struct */
    const struct virtio_ops *ops;
    const struct guest_memory *memory;
    struct virtio_irq irq;
    pthread_mutex_t lock;
    uint32_t status, interrupt, select_features, select_driver, select_queue, generation;
    uint64_t driver_features;
    struct virtqueue queue[VIRTIO_QUEUES_MAX];
};

void virtio_init(struct virtio_dev *, const struct virtio_ops *, const struct guest_memory *, struct virtio_irq);
/* Registers; take the lock. n is what the guest's instruction says (1, 2, 4 or 8). */
void virtio_read(struct virtio_dev *, uint32_t offset, void *to, unsigned n);
void virtio_write(struct virtio_dev *, uint32_t offset, const void *from, unsigned n);
void virtio_save(struct virtio_dev *, struct state_out *);
int virtio_load(struct virtio_dev *, struct state_in *); /* 0, or -1: not a state this device can have */
void virtio_forked(struct virtio_dev *);

/* For devices, with the lock held. */
static inline bool virtio_running(const struct virtio_dev *d) { return (d->status & 0x44) == 4; } /* DRIVER_OK, not NEEDS_RESET */
int virtio_pop(struct virtio_dev *, unsigned queue, struct vq_chain *); /* as vq_pop, and takes the device out of service on -1 */
void virtio_push(struct virtio_dev *, unsigned queue, const struct vq_chain *, uint32_t written); /* with its interrupt */
void virtio_broken(struct virtio_dev *);                                /* the guest misused the device */
void virtio_config_bytes(const void *config, size_t size, uint32_t offset, void *to, unsigned n);
