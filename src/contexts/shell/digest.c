#include "contexts/shell/digest.h"

#include <string.h>

static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint8_t order[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint32_t turn(uint32_t x, unsigned by) { return x >> by | x << (32 - by); }

static void mix(uint32_t v[16], unsigned a, unsigned b, unsigned c, unsigned d, uint32_t x, uint32_t y) {
    v[a] += v[b] + x;
    v[d] = turn(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = turn(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = turn(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = turn(v[b] ^ v[c], 7);
}

static void compress(struct digest *d, uint32_t last) {
    uint32_t v[16], m[16];
    memcpy(m, d->block, sizeof m); /* little-endian, like everything here */
    memcpy(v, d->state, sizeof d->state);
    memcpy(v + 8, start, sizeof start);
    v[12] ^= (uint32_t)d->count;
    v[13] ^= (uint32_t)(d->count >> 32);
    v[14] ^= last;
    for (int round = 0; round < 10; round++) {
        const uint8_t *o = order[round];
        for (unsigned i = 0; i < 4; i++) mix(v, i, 4 + i, 8 + i, 12 + i, m[o[2 * i]], m[o[2 * i + 1]]);
        for (unsigned i = 0; i < 4; i++)
            mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[o[8 + 2 * i]], m[o[9 + 2 * i]]);
    }
    for (int i = 0; i < 8; i++) d->state[i] ^= v[i] ^ v[i + 8];
}

void digest_begin(struct digest *d) {
    memset(d, 0, sizeof *d);
    memcpy(d->state, start, sizeof start);
    d->state[0] ^= 0x01010000u | DIGEST_BYTES;
}

void digest_add(struct digest *d, const void *data, size_t n) {
    const uint8_t *p = data;
    while (n) {
        if (d->filled == sizeof d->block) {
            d->count += d->filled;
            compress(d, 0);
            d->filled = 0;
        }
        size_t part = sizeof d->block - d->filled;
        if (part > n) part = n;
        memcpy(d->block + d->filled, p, part);
        d->filled += part;
        p += part;
        n -= part;
    }
}

void digest_end(struct digest *d, uint8_t out[DIGEST_BYTES]) {
    d->count += d->filled;
    memset(d->block + d->filled, 0, sizeof d->block - d->filled);
    compress(d, ~0u);
    memcpy(out, d->state, DIGEST_BYTES);
}
