#include "api/trace/traceparent.h"

#include <stdio.h>
#include <string.h>

static int nibble(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

static bool all_hex(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (nibble(text[i]) < 0) return false;
    return true;
}

static bool all_zero(const char *text, size_t n) { return strspn(text, "0") >= n; }

bool traceparent_parse(const char *text, struct traceparent *out) {
    size_t n = text ? strlen(text) : 0;
    if (n < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
    if (!all_hex(text, 2) || !all_hex(text + 3, 32) || !all_hex(text + 36, 16) || !all_hex(text + 53, 2)) return false;
    if (strncmp(text, "ff", 2) == 0 || all_zero(text + 3, 32) || all_zero(text + 36, 16)) return false;
    bool first_version = strncmp(text, "00", 2) == 0;
    if (n > 55 && (first_version || text[55] != '-')) return false;
    (void)snprintf(out->trace, sizeof out->trace, "%.32s", text + 3);
    (void)snprintf(out->span, sizeof out->span, "%.16s", text + 36);
    out->sampled = nibble(text[54]) & 1;
    return true;
}

void traceparent_write(const struct traceparent *t, char out[static TRACEPARENT_SIZE]) {
    (void)snprintf(out, TRACEPARENT_SIZE, "00-%s-%s-%02x", t->trace, t->span, t->sampled);
}
