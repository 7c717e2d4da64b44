/* Fuzz target (libFuzzer): the state file of a machine.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/vmm_state_fuzz.c \
 *     src/vmm/snapshot_state.c src/vmm/arch_x86_64_state.c src/vmm/ioapic.c src/vmm/serial.c src/vmm/dev_rng.c src/vmm/dev_stream.c src/vmm/stream_conn.c src/vmm/virtio_mmio.c src/vmm/virtqueue.c src/vmm/memory.c src/vmm/state.c src/vmm/loop.c src/base/err.c src/base/buf.c src/base/id.c \
 *     -o /tmp/vmm_state_fuzz
 *   /tmp/vmm_state_fuzz -max_total_time=10
 *
 * What must hold: what is accepted is written again as it was. The input goes over a good state, so that it gets past the head. */
#include "vmm_device.h"

#include "vmm/dev_stream.h"
#include "vmm/snapshot.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void none(void *arg, uint64_t address, uint32_t value) { (void)arg, (void)address, (void)value; }

static struct machine *make(struct fuzz *f, struct loop *loop) {
    struct machine *m = calloc(1, sizeof *m);
    m->memory = f->memory, m->vcpus = 2;
    serial_init(&m->serial, ioapic_raise, &m->ioapic);
    ioapic_init(&m->ioapic, none, m);
    m->host.cpuid.nent = 2;
    m->device[DEVICE_RNG] = rng_make(&m->memory, fuzz_irq(f));
    m->device[DEVICE_STREAM] = stream_make(&m->memory, fuzz_irq(f), loop);
    return m;
}

static void drop(struct machine *m) {
    struct stream *s = (struct stream *)m->device[DEVICE_STREAM];
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) conn_free(&s->conn[i]);
    free(m->device[DEVICE_RNG]), free(s), free(m);
}

static void one_connection(struct machine *m) {
    struct stream *s = (struct stream *)m->device[DEVICE_STREAM];
    struct stream_conn *c = &s->conn[0];
    c->phase = STREAM_OPEN, c->guest_port = 5, c->host_port = 1, c->type = 2, c->peer_window = 1000;
    c->to_guest = calloc(1, STREAM_PACKET_MAX), c->to_host = calloc(1, 2 * STREAM_WINDOW);
    c->guest_bytes = 20, c->guest_message = true;
    must(conn_take(c, (const uint8_t *)"some bytes", 10, SEQ_EOM) == 0 && conn_take(c, (const uint8_t *)"half", 4, 0) == 0);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct fuzz f;
    struct loop loop = {.epoll_fd = -1};
    struct err e;
    struct buf good = {0}, again = {0};
    uint64_t kept[GUEST_BYTES / MEMORY_PAGE / 64 + 1] = {5};
    fuzz_begin(&f, data, size);
    f.dev = rng_make(&f.memory, fuzz_irq(&f));
    struct machine *m = make(&f, &loop), *back = make(&f, &loop);
    one_connection(m);
    struct snapshot_head h = {.magic = STATE_VM_MAGIC, .version = STATE_VM_VERSION, .memory_bytes = GUEST_BYTES, .vcpus = 2, .devices = 3, .has_base = take(&f, 1) & 1};
    snapshot_encode(m, &h, kept, &good);
    while (f.at < f.end) { /* bytes of the input at places of the input's choice, and a new end */
        const uint32_t where = take(&f, 3), how = take(&f, 1);
        if (how == 255 && good.len) good.len = where % good.len;
        else if (good.len) good.data[where % good.len] = (char)(how & 1 ? (int)take(&f, 1) : good.data[where % good.len] + (int)(how >> 1) - 64);
    }
    if (snapshot_decode(back, good.data, good.len, &h, kept, &e) == 0) {
        snapshot_encode(back, &h, kept, &again);
        struct machine *third = make(&f, &loop);
        must(snapshot_decode(third, again.data, again.len, &h, kept, &e) == 0);
        drop(third);
    }
    buf_free(&good), buf_free(&again);
    drop(m), drop(back);
    free(f.dev), free(f.memory.base);
    return 0;
}
