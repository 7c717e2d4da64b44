#include "api/utf8.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* Length of the character at p: > 0 whole, 0 when n ends inside a so far correct one, -1 not a character. */
static int character(const uint8_t *p, size_t n) {
    uint8_t lead = p[0], low = 0x80, high = 0xbf;
    int length;
    if (lead < 0x80) return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        length = 2;
    else if (lead >= 0xe0 && lead <= 0xef)
        length = 3;
    else if (lead >= 0xf0 && lead <= 0xf4)
        length = 4;
    else
        return -1;
    if (lead == 0xe0) low = 0xa0;  /* shorter form exists */
    if (lead == 0xed) high = 0x9f; /* surrogates */
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f; /* above U+10FFFF */
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n) return 0;
        if (p[i] < low || p[i] > high) return -1;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

/* Bytes of plain ASCII from p on: the usual case, eight at a time. */
static size_t ascii_run(const uint8_t *p, size_t n) {
    size_t i = 0;
    for (uint64_t word; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        if (word & 0x8080808080808080u) break;
    }
    while (i < n && p[i] < 0x80) i++;
    return i;
}

size_t utf8_valid_until(const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    size_t i = 0;
    while ((i += ascii_run(p + i, n - i)) < n) {
        int length = character(p + i, n - i);
        if (length <= 0) break;
        i += (size_t)length;
    }
    return i;
}

bool utf8_valid(const void *bytes, size_t n) { return utf8_valid_until(bytes, n) == n; }

/* Copy the well-formed part of p[0..n) and return how many bytes at its end are an unfinished character. */
static size_t clean_run(const uint8_t *p, size_t n, struct buf *out) {
    size_t from = 0, i = 0;
    while (i < n) {
        i += ascii_run(p + i, n - i);
        if (i == n) break;
        int length = character(p + i, n - i);
        if (length > 0) {
            i += (size_t)length;
            continue;
        }
        buf_append(out, p + from, i - from);
        if (!length) return n - i;
        buf_str(out, REPLACEMENT);
        from = ++i;
    }
    buf_append(out, p + from, n - from);
    return 0;
}

void utf8_clean(struct utf8_tail *tail, const void *bytes, size_t n, bool last, struct buf *out) {
    const uint8_t *p = bytes;
    while (tail->n && n) { /* finish the held character byte by byte */
        tail->bytes[tail->n++] = *p;
        int length = character(tail->bytes, tail->n);
        if (length < 0) {
            /* The new byte does not go on from what is held: each held byte stands for itself, the new one is read
             * again. */
            for (int i = 0; i < tail->n - 1; i++) buf_str(out, REPLACEMENT);
            tail->n = 0;
            break;
        }
        p++;
        n--;
        if (length > 0) {
            buf_append(out, tail->bytes, tail->n);
            tail->n = 0;
        }
    }
    if (n) {
        size_t rest = clean_run(p, n, out);
        if (rest) memcpy(tail->bytes, p + n - rest, rest);
        tail->n = (uint8_t)rest;
    }
    if (last) {
        for (int i = 0; i < tail->n; i++) buf_str(out, REPLACEMENT);
        tail->n = 0;
    }
}
