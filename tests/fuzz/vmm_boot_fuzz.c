/* Fuzz target (libFuzzer): the loader of kernels.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc tests/fuzz/vmm_boot_fuzz.c \
 *     src/vmm/boot.c src/vmm/acpi.c src/vmm/memory.c src/base/err.c \
 *     -o /tmp/vmm_boot_fuzz
 *   /tmp/vmm_boot_fuzz -max_total_time=10
 *
 * What must hold: no access beside the guest's memory, whatever the ELF says. The input is the ELF's first page; it stands in a file of 8 KiB. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot.h"

#define GUEST_BYTES (4u << 20)

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static struct machine m;
    static const unsigned char head[] = "\x7f" "ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\x3e\0\1\0\0\0\0\0\0\0\0\0\0\0\x40";
    struct err e;
    uint32_t entry, start_info;
    unsigned char file[8192] = {0};
    const int fd = memfd_create("kernel", MFD_CLOEXEC);
    memcpy(file, data, size < sizeof file ? size : sizeof file);
    if (size && data[size - 1] & 1) memcpy(file, head, 20), file[32] = 64, file[54] = 56, file[56] &= 7;
    if (fd < 0 || write(fd, file, sizeof file) != sizeof file) abort();
    if (!m.memory.base) m.memory.base = malloc(GUEST_BYTES), m.memory.bytes = GUEST_BYTES, m.vcpus = 8;
    (void)boot_load(&m, fd, size & 1 ? fd : -1, "a line", &entry, &start_info, &e);
    close(fd);
    return 0;
}
