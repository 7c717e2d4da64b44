/* Fuzz target (libFuzzer): the stream device between a hostile guest and the driver's descriptors.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/vmm_stream_fuzz.c \
 *     src/vmm/dev_stream.c src/vmm/stream_conn.c src/vmm/virtio_mmio.c src/vmm/virtqueue.c src/vmm/memory.c src/vmm/state.c src/vmm/loop.c src/base/err.c src/base/buf.c src/base/id.c \
 *     -o /tmp/vmm_stream_fuzz
 *   /tmp/vmm_stream_fuzz -max_total_time=10
 *
 * What must hold: no access beside the guest's memory; a packet that leaves is whole and at most 65,536 bytes; the state written is the state read. */
#include "vmm_device.h"

#include <signal.h>
#include <sys/epoll.h>

#include "vmm/dev_stream.h"

#define PEERS 3

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static struct loop loop;
static int peer[PEERS];

/* A vsock packet of the guest for one of the connections, plausible but for what the input changes. */
static void packet(struct fuzz *f, unsigned which) {
    struct vsock_head h = {.src_cid = 3, .dst_cid = 2, .src_port = 5, .dst_port = 1 + which % (PEERS + 1), .type = which % PEERS ? 2 : 1, .op = (uint16_t)(take(f, 1) % 9),
                           .flags = take(f, 1) & 7, .len = take(f, 2) % 3000, .buf_alloc = take(f, 2) << 4, .fwd_cnt = take(f, 2)};
    const uint32_t odd = take(f, 1);
    if (odd < 16) ((uint8_t *)&h)[take(f, 1) % sizeof h] = (uint8_t)take(f, 1);
    memcpy(f->memory.base + 0x9000, &h, sizeof h);
    struct {
        uint64_t address;
        uint32_t bytes;
        uint16_t flags, next;
    } d = {.address = 0x9000, .bytes = (uint32_t)sizeof h + (odd == 20 ? 0 : h.len % 4096)};
    uint8_t *ring = f->memory.base + RING_AT(1);
    uint16_t index;
    memcpy(ring, &d, sizeof d);
    memcpy(&index, ring + 0x802, 2);
    const uint16_t head = 0, next = (uint16_t)(index + 1);
    memcpy(ring + 0x804 + index % RING_ENTRIES * 2, &head, 2);
    memcpy(ring + 0x802, &next, 2);
    put32(f, 0x50, 1);
}

static void driver(struct fuzz *f, unsigned what) {
    static uint8_t bytes[1 << 17];
    struct epoll_event e;
    struct err err;
    const unsigned i = what / 8 % PEERS;
    int pair[2];
    switch (what & 7) {
    case 0:
    case 1:
    case 2: packet(f, what / 8); break;
    case 3: (void)send(peer[i], bytes, 1 + take(f, 2), MSG_DONTWAIT | MSG_NOSIGNAL); break;
    case 4: must(recv(peer[i], bytes, sizeof bytes, MSG_DONTWAIT) <= (ssize_t)(i ? STREAM_PACKET_MAX : sizeof bytes)); break;
    case 5: shutdown(peer[i], (int)take(f, 1) % 3); break;
    case 6:
        must(socketpair(AF_UNIX, (i ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC, 0, pair) == 0);
        close(peer[i]);
        peer[i] = pair[0];
        (void)stream_connect(f->dev, 5, 1 + i, i ? 2 : 1, pair[1], &err); /* refused while the old one lives */
        break;
    default: stream_resume(f->dev);
    }
    while (epoll_wait(loop.epoll_fd, &e, 1, 0) == 1) ((struct watch *)e.data.ptr)->ready(e.data.ptr, e.events);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct fuzz f;
    struct err e;
    signal(SIGPIPE, SIG_IGN);
    fuzz_begin(&f, data, size);
    must(loop_make(&loop, &e) == 0);
    f.dev = stream_make(&f.memory, fuzz_irq(&f), &loop);
    struct virtio_dev *fresh = stream_make(&f.memory, fuzz_irq(&f), &loop);
    for (unsigned i = 0; i < PEERS; i++) {
        int pair[2];
        must(socketpair(AF_UNIX, (i ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC, 0, pair) == 0);
        peer[i] = pair[0];
        must(stream_connect(f.dev, 5, 1 + i, i ? 2 : 1, pair[1], &e) == 0);
    }
    fuzz_start(&f, 3);
    for (uint16_t i = 0; i < 8; i++) { /* buffers to receive into */
        struct {
            uint64_t address;
            uint32_t bytes;
            uint16_t flags, next;
        } d = {.address = 0x20000u + 2048u * i, .bytes = 2048, .flags = 2};
        memcpy(f.memory.base + RING_AT(0) + i * 16u, &d, sizeof d);
        memcpy(f.memory.base + RING_AT(0) + 0x804 + i * 2u, &i, 2);
    }
    f.memory.base[RING_AT(0) + 0x802] = 8;
    put32(&f, 0x50, 0);
    fuzz_run(&f, driver);
    fuzz_end(&f, fresh);
    virtio_forked(f.dev);
    struct stream *both[] = {(struct stream *)f.dev, (struct stream *)fresh};
    for (unsigned b = 0; b < 2; b++)
        for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) conn_free(&both[b]->conn[i]);
    for (unsigned i = 0; i < PEERS; i++) close(peer[i]);
    free(f.dev), free(fresh);
    close(loop.epoll_fd);
    return 0;
}
