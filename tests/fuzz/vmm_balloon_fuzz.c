/* Fuzz target (libFuzzer): the balloon device under a hostile guest.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/vmm_balloon_fuzz.c \
 *     src/vmm/dev_balloon.c src/vmm/virtio_mmio.c src/vmm/virtqueue.c src/vmm/memory.c src/vmm/state.c src/vmm/loop.c src/base/err.c src/base/buf.c src/base/id.c \
 *     -o /tmp/vmm_balloon_fuzz
 *   /tmp/vmm_balloon_fuzz -max_total_time=10
 *
 * What must hold: no access beside the guest's memory; the state written is the state read. */
#include "vmm_device.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void nobody(struct fuzz *f, unsigned what) { (void)f, (void)what; }

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct fuzz f;
    fuzz_begin(&f, data, size);
    f.dev = balloon_make(&f.memory, fuzz_irq(&f));
    struct virtio_dev *fresh = balloon_make(&f.memory, fuzz_irq(&f));
    fuzz_start(&f, 1u << 5);
    fuzz_run(&f, nobody);
    fuzz_end(&f, fresh);
    free(f.dev), free(fresh);
    return 0;
}
