/* arch.h: what the driver must know of a processor: whether memory and registers of one can go on on another. One implementation per architecture
 * (arch_x86_64.c). */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define ARCH_NAME "x86_64"
#define ARCH_WORDS 8

struct arch_features {
    uint32_t word[ARCH_WORDS]; /* what programs may choose their code by */
    uint64_t state_mask;       /* kinds of vector state the system keeps (XCR0) */
    uint32_t state_bytes;      /* of all of them */
};

void arch_features_here(struct arch_features *);
/* Can what ran with `there` run `here`? Code that was chosen by a feature must find it, and saved vector state must have the same layout. */
bool arch_features_suffice(const struct arch_features *here, const struct arch_features *there);
