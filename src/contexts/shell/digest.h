/* digest.h: BLAKE2s (RFC 7693) with 16 bytes of output, for telling contents apart. No key, no allocation. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define DIGEST_BYTES 16

struct digest {
    uint32_t state[8];
    uint64_t count;
    uint8_t block[64];
    size_t filled;
};

void digest_begin(struct digest *d);
void digest_add(struct digest *d, const void *data, size_t n);
void digest_end(struct digest *d, uint8_t out[DIGEST_BYTES]);
