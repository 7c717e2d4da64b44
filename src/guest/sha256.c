#include "guest/sha256.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2). */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t turn(uint32_t x, unsigned n) { return x >> n | x << (32 - n); }

/* The eight words move on by one place a round: instead of them, the places do (r is a constant once the loop is
 * unrolled). */
static inline void round_once(uint32_t v[8], unsigned r, uint32_t input) {
    uint32_t *d = &v[(11 - r) % 8], *h = &v[(15 - r) % 8], a = v[(8 - r) % 8], b = v[(9 - r) % 8], c = v[(10 - r) % 8];
    uint32_t e = v[(12 - r) % 8], f = v[(13 - r) % 8], g = v[(14 - r) % 8];
    uint32_t one = *h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + input;
    *d += one;
    *h = one + (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
}

static void take_block(uint32_t state[8], const uint8_t *bytes) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
        uint32_t word;
        memcpy(&word, bytes + 4 * i, sizeof word);
        w[i] = be32toh(word);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (unsigned i = 0; i < 64; i += 8)
        for (unsigned r = 0; r < 8; r++) round_once(v, r, round_constants[i + r] + w[i + r]);
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

void sha256_begin(struct sha256 *s) {
    /* of the square roots of the first 8 primes (5.3.3) */
    *s = (struct sha256){
        .state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void sha256_add(struct sha256 *s, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    size_t held = s->length % sizeof s->block;
    s->length += n;
    if (held) {
        size_t part = sizeof s->block - held < n ? sizeof s->block - held : n;
        memcpy(s->block + held, p, part);
        if (held + part < sizeof s->block) return;
        take_block(s->state, s->block);
        p += part;
        n -= part;
    }
    for (; n >= sizeof s->block; p += sizeof s->block, n -= sizeof s->block) take_block(s->state, p);
    if (n) memcpy(s->block, p, n);
}

void sha256_end(struct sha256 *s, char hex[2 * SHA256_BYTES + 1]) {
    static const uint8_t padding[64] = {0x80};
    uint64_t bits = htobe64(s->length * 8);
    size_t held = s->length % 64;
    sha256_add(s, padding, held < 56 ? 56 - held : 120 - held);
    sha256_add(s, &bits, sizeof bits);
    for (int i = 0; i < 8; i++) (void)snprintf(hex + 8 * i, 9, "%08x", s->state[i]);
}
