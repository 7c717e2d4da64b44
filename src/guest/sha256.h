/* sha256.h: SHA-256 (FIPS 180-4). Pure functions, any thread. The guest is static and links no library of ciphers, and
 * the kernel's own (AF_ALG) is closed to a cell. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

struct sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    uint8_t block[64];
};

void sha256_begin(struct sha256 *);
void sha256_add(struct sha256 *, const void *bytes, size_t n);
/* The digest as 64 lower-case hexadecimal digits and NUL. */
void sha256_end(struct sha256 *, char hex[2 * SHA256_BYTES + 1]);
