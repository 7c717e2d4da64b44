/* Fuzz target (libFuzzer): the net device between a hostile guest and a network.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/vmm_net_fuzz.c \
 *     src/vmm/dev_net.c src/vmm/virtio_mmio.c src/vmm/virtqueue.c src/vmm/memory.c src/vmm/state.c src/vmm/loop.c src/base/err.c src/base/buf.c src/base/id.c \
 *     -o /tmp/vmm_net_fuzz
 *   /tmp/vmm_net_fuzz -max_total_time=10
 *
 * What must hold: no access beside the guest's memory; what leaves is at most a packet; the state written is the state read. */
#include "vmm_device.h"

#include <sys/epoll.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static struct loop loop;
static int other = -1;

static void network(struct fuzz *f, unsigned what) {
    static uint8_t packet[70000];
    struct epoll_event e;
    if (what & 1) {
        (void)send(other, packet, 1 + take(f, 2), MSG_DONTWAIT);
    } else {
        const ssize_t n = recv(other, packet, sizeof packet, MSG_DONTWAIT);
        must(n <= 65550);
    }
    if (epoll_wait(loop.epoll_fd, &e, 1, 0) == 1) ((struct watch *)e.data.ptr)->ready(e.data.ptr, e.events);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct fuzz f;
    struct err e;
    int pair[2];
    fuzz_begin(&f, data, size);
    must(loop_make(&loop, &e) == 0 && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0);
    other = pair[0];
    f.dev = net_make(&f.memory, fuzz_irq(&f), &loop);
    struct virtio_dev *fresh = net_make(&f.memory, fuzz_irq(&f), &loop);
    must(net_attach(f.dev, pair[1], 0x060504030202, &e) == 0);
    fuzz_start(&f, 1u << 5);
    fuzz_run(&f, network);
    fuzz_end(&f, fresh);
    virtio_forked(f.dev);
    free(f.dev), free(fresh);
    close(other), close(loop.epoll_fd);
    return 0;
}
