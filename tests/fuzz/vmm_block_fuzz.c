/* Fuzz target (libFuzzer): the block device under a hostile guest.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/vmm_block_fuzz.c \
 *     src/vmm/dev_block.c src/vmm/virtio_mmio.c src/vmm/virtqueue.c src/vmm/memory.c src/vmm/state.c src/vmm/loop.c src/base/err.c src/base/buf.c src/base/id.c \
 *     -o /tmp/vmm_block_fuzz
 *   /tmp/vmm_block_fuzz -max_total_time=10
 *
 * What must hold: no access beside the guest's memory; the disk keeps its size, one that is read-only its contents. */
#include "vmm_device.h"

#include <sys/mman.h>

#define DISK_BYTES 16384

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static int disk(void) {
    const int fd = memfd_create("disk", MFD_CLOEXEC);
    static const uint8_t text[DISK_BYTES] = "a disk";
    must(fd >= 0 && write(fd, text, sizeof text) == sizeof text);
    return fd;
}

static void nobody(struct fuzz *f, unsigned what) { (void)f, (void)what; }

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    struct fuzz f;
    struct err e;
    fuzz_begin(&f, data, size);
    const int read_only = (int)take(&f, 1) & 1, mine = disk();
    f.dev = block_make(0, &f.memory, fuzz_irq(&f));
    struct virtio_dev *fresh = block_make(0, &f.memory, fuzz_irq(&f));
    must(block_attach(f.dev, dup(mine), read_only, &e) == 0 && block_attach(fresh, dup(mine), read_only, &e) == 0);
    fuzz_start(&f, 1u << 9);
    fuzz_run(&f, nobody);
    must(lseek(mine, 0, SEEK_END) == DISK_BYTES);
    char first[6];
    must(pread(mine, first, 6, 0) == 6 && (!read_only || !memcmp(first, "a disk", 6)));
    fuzz_end(&f, fresh);
    must(block_attach(f.dev, disk(), read_only, &e) == 0); /* the same size: may come in its place */
    struct virtio_dev *both[] = {f.dev, fresh};
    for (int i = 0; i < 2; i++) {
        must(block_attach(both[i], -1, false, &e) == -1);
        if (!read_only) virtio_forked(both[i]);
    }
    close(mine);
    static int leaked; /* read-only disks stay open in a fork: let go of their descriptors by number */
    if (read_only)
        for (leaked = 3; leaked < 64; leaked++) {
            char path[32], name[32];
            snprintf(path, sizeof path, "/proc/self/fd/%d", leaked);
            const ssize_t n = readlink(path, name, sizeof name - 1);
            if (n > 0 && !strncmp(name, "/memfd:disk", 11)) close(leaked);
        }
    free(f.dev), free(fresh);
    return 0;
}
