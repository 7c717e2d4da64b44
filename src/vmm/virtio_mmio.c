#include <string.h>

#include "vmm/virtio.h"

enum {
    R_MAGIC = 0x00, R_VERSION = 0x04, R_DEVICE = 0x08, R_VENDOR = 0x0c, R_FEATURES = 0x10, R_FEATURES_SEL = 0x14, R_DRIVER = 0x20, R_DRIVER_SEL = 0x24,
    R_QUEUE_SEL = 0x30, R_QUEUE_MAX = 0x34, R_QUEUE_NUM = 0x38, R_QUEUE_READY = 0x44, R_NOTIFY = 0x50, R_INTERRUPT = 0x60, R_ACK = 0x64, R_STATUS = 0x70,
    R_DESC = 0x80, R_DESC_HIGH = 0x84, R_AVAIL = 0x90, R_AVAIL_HIGH = 0x94, R_USED = 0xa0, R_USED_HIGH = 0xa4, R_SHM_LOW = 0xb0,
    R_SHM_HIGH = 0xbc, R_GENERATION = 0xfc, R_CONFIG = 0x100,
};
enum { S_FEATURES_OK = 8, S_DRIVER_OK = 4, S_NEEDS_RESET = 64 };
enum { INT_USED = 1, INT_CONFIG = 2 };

void virtio_init(struct virtio_dev *d, const struct virtio_ops *ops, const struct guest_memory *m, struct virtio_irq irq) {
    d->ops = ops, d->memory = m, d->irq = irq;
    pthread_mutex_init(&d->lock, NULL);
}

static void interrupt(struct virtio_dev *d, uint32_t why) {
    d->interrupt |= why;
    d->irq.raise(d->irq.arg, d->irq.line);
}

void virtio_broken(struct virtio_dev *d) {
    if (d->status & S_NEEDS_RESET) return;
    d->status |= S_NEEDS_RESET;
    if (d->status & S_DRIVER_OK) interrupt(d, INT_CONFIG);
}

int virtio_pop(struct virtio_dev *d, unsigned queue, struct vq_chain *c) {
    if (!virtio_running(d)) return 0;
    const int got = vq_pop(&d->queue[queue], d->memory, c);
    if (got < 0) virtio_broken(d);
    return got;
}

void virtio_push(struct virtio_dev *d, unsigned queue, const struct vq_chain *c, uint32_t written) {
    if (vq_push(&d->queue[queue], d->memory, c, written)) interrupt(d, INT_USED);
}

void virtio_config_bytes(const void *config, size_t size, uint32_t offset, void *to, unsigned n) {
    memset(to, 0, n);
    if (offset < size) memcpy(to, (const uint8_t *)config + offset, size - offset < n ? size - offset : n);
}

static uint64_t offered(const struct virtio_dev *d) { return d->ops->features | VIRTIO_F_VERSION_1; }

static void reset(struct virtio_dev *d) {
    d->status = d->interrupt = d->select_features = d->select_driver = d->select_queue = 0;
    d->driver_features = 0;
    memset(d->queue, 0, sizeof d->queue);
    if (d->ops->reset) d->ops->reset(d);
}

static uint32_t read32(struct virtio_dev *d, uint32_t offset) {
    const bool queue = d->select_queue < d->ops->queues;
    switch (offset) {
    case R_MAGIC: return 0x74726976;
    case R_VERSION: return 2;
    case R_DEVICE: return d->ops->id;
    case R_VENDOR: return 0x616c6c65;
    case R_FEATURES: return d->select_features < 2 ? (uint32_t)(offered(d) >> 32 * d->select_features) : 0;
    case R_QUEUE_MAX: return queue ? d->ops->entries : 0;
    case R_QUEUE_READY: return queue ? d->queue[d->select_queue].ready : 0;
    case R_INTERRUPT: return d->interrupt;
    case R_STATUS: return d->status;
    case R_GENERATION: return d->generation;
    default: return offset >= R_SHM_LOW && offset <= R_SHM_HIGH ? UINT32_MAX : 0; /* no shared memory region */
    }
}

void virtio_read(struct virtio_dev *d, uint32_t offset, void *to, unsigned n) {
    pthread_mutex_lock(&d->lock);
    if (offset >= R_CONFIG) {
        d->ops->config(d, offset - R_CONFIG, to, n);
    } else {
        const uint32_t value = n == 4 ? read32(d, offset) : 0;
        memset(to, 0, n);
        memcpy(to, &value, n < 4 ? n : 4);
    }
    pthread_mutex_unlock(&d->lock);
}

static void low(uint64_t *v, uint32_t to) { *v = (*v & ~0xffffffffull) | to; }
static void high(uint64_t *v, uint32_t to) { *v = (*v & 0xffffffff) | (uint64_t)to << 32; }

static void set_status(struct virtio_dev *d, uint32_t value) {
    if (!value) {
        reset(d);
        return;
    }
    value |= d->status & S_NEEDS_RESET; /* only a reset takes that away */
    if (value & S_FEATURES_OK && !(d->status & S_FEATURES_OK) && (d->driver_features & ~offered(d) || !(d->driver_features & VIRTIO_F_VERSION_1)))
        value &= ~(uint32_t)S_FEATURES_OK;
    if (!(value & S_FEATURES_OK)) value &= ~(uint32_t)S_DRIVER_OK;
    d->status = value;
}

static void set_queue(struct virtio_dev *d, uint32_t offset, uint32_t value) {
    if (d->select_queue >= d->ops->queues) return;
    struct virtqueue *q = &d->queue[d->select_queue];
    if (offset == R_QUEUE_READY && !value) {
        *q = (struct virtqueue){0};
        return;
    }
    if (q->ready) return; /* its place is fixed while it is in use: what vq_valid said stays true */
    switch (offset) {
    case R_QUEUE_NUM: q->entries = value <= d->ops->entries ? (uint16_t)value : 0; break;
    case R_QUEUE_READY: q->ready = vq_valid(q, d->memory); break;
    case R_DESC: low(&q->desc_address, value); break;
    case R_DESC_HIGH: high(&q->desc_address, value); break;
    case R_AVAIL: low(&q->avail_address, value); break;
    case R_AVAIL_HIGH: high(&q->avail_address, value); break;
    case R_USED: low(&q->used_address, value); break;
    case R_USED_HIGH: high(&q->used_address, value); break;
    default: break;
    }
}

static void write32(struct virtio_dev *d, uint32_t offset, uint32_t value) {
    switch (offset) {
    case R_FEATURES_SEL: d->select_features = value; break;
    case R_DRIVER_SEL: d->select_driver = value; break;
    case R_DRIVER:
        if (d->status & S_FEATURES_OK) break;
        if (d->select_driver == 0) low(&d->driver_features, value);
        if (d->select_driver == 1) high(&d->driver_features, value);
        break;
    case R_QUEUE_SEL: d->select_queue = value; break;
    case R_NOTIFY:
        if (value < d->ops->queues && virtio_running(d)) d->ops->notify(d, value);
        break;
    case R_ACK: d->interrupt &= ~value; break;
    case R_STATUS: set_status(d, value); break;
    default: set_queue(d, offset, value);
    }
}

void virtio_write(struct virtio_dev *d, uint32_t offset, const void *from, unsigned n) {
    uint32_t value;
    if (n != 4 || offset >= R_CONFIG) return; /* no device here has a configuration to write */
    memcpy(&value, from, 4);
    pthread_mutex_lock(&d->lock);
    write32(d, offset, value);
    pthread_mutex_unlock(&d->lock);
}

/* ---- snapshot ---- */

struct transport_state {
    uint32_t id, status, interrupt, select_features, select_driver, select_queue, generation, queues;
    uint64_t driver_features;
    struct {
        uint64_t desc, avail, used;
        uint16_t entries, last_avail, used_index, ready;
    } queue[VIRTIO_QUEUES_MAX];
};

void virtio_save(struct virtio_dev *d, struct state_out *out) {
    struct transport_state s = {.id = d->ops->id, .status = d->status, .interrupt = d->interrupt, .select_features = d->select_features,
                                .select_driver = d->select_driver, .select_queue = d->select_queue, .generation = d->generation, .queues = d->ops->queues,
                                .driver_features = d->driver_features};
    for (unsigned i = 0; i < d->ops->queues; i++) {
        const struct virtqueue *q = &d->queue[i];
        s.queue[i].desc = q->desc_address, s.queue[i].avail = q->avail_address, s.queue[i].used = q->used_address;
        s.queue[i].entries = q->entries, s.queue[i].last_avail = q->last_avail, s.queue[i].used_index = q->used, s.queue[i].ready = q->ready;
    }
    state_put(out, &s, sizeof s);
    if (d->ops->save) d->ops->save(d, out);
}

int virtio_load(struct virtio_dev *d, struct state_in *in) {
    struct transport_state s;
    if (state_get(in, &s, sizeof s) < 0 || s.id != d->ops->id || s.queues != d->ops->queues) return -1;
    if (s.status & S_FEATURES_OK && s.driver_features & ~offered(d)) return -1; /* before that the driver may have written anything */
    d->status = s.status, d->interrupt = s.interrupt, d->select_features = s.select_features, d->select_driver = s.select_driver;
    d->select_queue = s.select_queue, d->generation = s.generation, d->driver_features = s.driver_features;
    for (unsigned i = 0; i < s.queues; i++) {
        struct virtqueue *q = &d->queue[i];
        *q = (struct virtqueue){.entries = s.queue[i].entries, .last_avail = s.queue[i].last_avail, .used = s.queue[i].used_index,
                                .desc_address = s.queue[i].desc, .avail_address = s.queue[i].avail, .used_address = s.queue[i].used};
        q->ready = s.queue[i].ready && vq_valid(q, d->memory);
        if (s.queue[i].ready && !q->ready) return -1;
        if (q->entries > d->ops->entries) return -1;
    }
    return d->ops->load ? d->ops->load(d, in) : 0;
}

void virtio_forked(struct virtio_dev *d) {
    pthread_mutex_init(&d->lock, NULL);
    if (d->ops->forked) d->ops->forked(d);
}
