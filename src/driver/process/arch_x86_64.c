#include "driver/process/arch.h"

#include <cpuid.h>
#include <string.h>

/* Of leaf 7's edx only instructions; the other bits tell of side channels and change with microcode. */
#define LEAF7_EDX ((1u << 2) | (1u << 3) | (1u << 4) | (1u << 8) | (1u << 14) | (1u << 22) | (1u << 23) | (1u << 24) | (1u << 25))

void arch_features_here(struct arch_features *f) {
    uint32_t a, b, c, d;
    memset(f, 0, sizeof *f);
    if (__get_cpuid(1, &a, &b, &c, &d)) f->word[0] = c & ~(1u << 31) /* "under a hypervisor" */, f->word[1] = d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) f->word[2] = b, f->word[3] = c & ~(1u << 22 | 0x1fu << 17) /* rdpid, and a field of no feature */, f->word[4] = d & LEAF7_EDX;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f->word[5] = a;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) f->word[6] = c, f->word[7] = d;
    if (f->word[0] & 1u << 27) { /* xgetbv is there */
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        f->state_mask = (uint64_t)high << 32 | low;
        if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d)) f->state_bytes = b;
    }
}

bool arch_features_suffice(const struct arch_features *here, const struct arch_features *there) {
    for (int i = 0; i < ARCH_WORDS; i++)
        if (there->word[i] & ~here->word[i]) return false;
    return here->state_mask == there->state_mask && here->state_bytes == there->state_bytes;
}
