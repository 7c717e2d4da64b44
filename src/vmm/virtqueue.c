#include "vmm/virtqueue.h"

#include <string.h>

#define DESC_NEXT 1
#define DESC_WRITE 2
#define AVAIL_NO_INTERRUPT 1

struct desc {
    uint64_t address;
    uint32_t bytes;
    uint16_t flags, next;
};
struct used_entry {
    uint32_t head, bytes;
};

static uint64_t avail_bytes(const struct virtqueue *q) { return 4 + 2ull * q->entries; }
static uint64_t used_bytes(const struct virtqueue *q) { return 4 + 8ull * q->entries; }
static uint16_t get16(const void *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }

bool vq_valid(const struct virtqueue *q, const struct guest_memory *m) {
    return q->entries && q->entries <= VQ_ENTRIES_MAX && !(q->entries & (q->entries - 1)) && q->desc_address % 16 == 0 && q->avail_address % 2 == 0 &&
           q->used_address % 4 == 0 && memory_at(m, q->desc_address, 16ull * q->entries) && memory_at(m, q->avail_address, avail_bytes(q)) &&
           memory_at(m, q->used_address, used_bytes(q));
}

static int chain_read(const struct virtqueue *q, const struct guest_memory *m, struct vq_chain *c) {
    const uint8_t *table = memory_at(m, q->desc_address, 16ull * q->entries);
    uint16_t at = c->head;
    for (unsigned n = 0;; n++) {
        if (n == VQ_SEGMENTS_MAX || n == q->entries || at >= q->entries) return -1;
        struct desc d;
        memcpy(&d, table + 16u * at, sizeof d);
        __asm__ volatile("" ::: "memory"); /* d is the only reading of it */
        if (d.flags & ~(DESC_NEXT | DESC_WRITE)) return -1;
        void *p = memory_at(m, d.address, d.bytes);
        if (!p || !d.bytes) return -1;
        c->segment[n] = (struct iovec){p, d.bytes};
        if (d.flags & DESC_WRITE) {
            c->in++, c->in_bytes += d.bytes;
        } else {
            if (c->in) return -1; /* readable after writable */
            c->out++, c->out_bytes += d.bytes;
        }
        if (!(d.flags & DESC_NEXT)) return 1;
        at = d.next;
    }
}

int vq_pop(struct virtqueue *q, const struct guest_memory *m, struct vq_chain *c) {
    if (!q->ready) return 0;
    const uint8_t *avail = memory_at(m, q->avail_address, avail_bytes(q));
    const uint16_t waiting = (uint16_t)(get16(avail + 2) - q->last_avail);
    if (waiting > q->entries) return -1;
    if (!waiting) return 0;
    *c = (struct vq_chain){.head = get16(avail + 4 + 2u * (q->last_avail & (q->entries - 1)))};
    if (c->head >= q->entries) return -1;
    q->last_avail++;
    return chain_read(q, m, c);
}

void vq_unpop(struct virtqueue *q) { q->last_avail--; }

bool vq_push(struct virtqueue *q, const struct guest_memory *m, const struct vq_chain *c, uint32_t written) {
    /* All of them: which bytes the device wrote is not always a beginning (the status of a failed read stands at the end). */
    for (unsigned i = c->out; i < c->out + c->in && written; i++) memory_dirty(m, c->segment[i].iov_base, c->segment[i].iov_len);
    uint8_t *used = memory_at(m, q->used_address, used_bytes(q));
    const struct used_entry entry = {c->head, written};
    uint8_t *slot = used + 4 + 8u * (q->used & (q->entries - 1));
    memcpy(slot, &entry, sizeof entry);
    q->used++;
    __atomic_store_n((uint16_t *)(void *)(used + 2), q->used, __ATOMIC_RELEASE);
    memory_dirty(m, slot, sizeof entry);
    memory_dirty(m, used, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index before the question whether anybody wants to hear of it */
    return !(get16(memory_at(m, q->avail_address, 2)) & AVAIL_NO_INTERRUPT);
}

unsigned vq_slice(const struct vq_chain *c, bool writable, size_t at, size_t n, struct iovec out[VQ_SEGMENTS_MAX]) {
    const unsigned first = writable ? c->out : 0, end = writable ? c->out + c->in : c->out;
    const size_t total = writable ? c->in_bytes : c->out_bytes;
    unsigned k = 0;
    if (at > total || n > total - at) return 0;
    for (unsigned i = first; i < end && n; i++) {
        const size_t have = c->segment[i].iov_len;
        if (at >= have) {
            at -= have;
            continue;
        }
        const size_t take = have - at < n ? have - at : n;
        out[k++] = (struct iovec){(uint8_t *)c->segment[i].iov_base + at, take};
        n -= take, at = 0;
    }
    return k;
}

bool vq_read(const struct vq_chain *c, size_t at, void *to, size_t n) {
    struct iovec part[VQ_SEGMENTS_MAX];
    const unsigned k = vq_slice(c, false, at, n, part);
    uint8_t *p = to;
    for (unsigned i = 0; i < k; p += part[i].iov_len, i++) memcpy(p, part[i].iov_base, part[i].iov_len);
    return k || !n;
}

bool vq_write(const struct vq_chain *c, size_t at, const void *from, size_t n) {
    struct iovec part[VQ_SEGMENTS_MAX];
    const unsigned k = vq_slice(c, true, at, n, part);
    const uint8_t *p = from;
    for (unsigned i = 0; i < k; p += part[i].iov_len, i++) memcpy(part[i].iov_base, p, part[i].iov_len);
    return k || !n;
}
