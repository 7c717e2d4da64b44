#include "base/id.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void random_fill(void *p, size_t n) {
    uint8_t *at = p;
    while (n) {
        ssize_t got = getrandom(at, n, 0);
        if (got <= 0) abort();
        at += got;
        n -= (size_t)got;
    }
}

void id_make(char *out, const char *prefix) {
    uint8_t raw[ID_HEX / 2];
    size_t at = strlen(prefix);
    random_fill(raw, sizeof raw);
    memcpy(out, prefix, at);
    for (size_t i = 0; i < sizeof raw; i++) (void)snprintf(out + at + 2 * i, 3, "%02x", raw[i]);
}

bool hex_valid(const char *s, size_t n) {
    size_t i = 0;
    for (; s[i]; i++)
        if (i >= n || !((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f'))) return false;
    return i == n;
}

bool id_valid(const char *s, const char *prefix) {
    size_t n = strlen(prefix);
    return strncmp(s, prefix, n) == 0 && hex_valid(s + n, ID_HEX);
}
