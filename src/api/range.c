#include "api/range.h"

#include <stdbool.h>
#include <stddef.h>
#include <strings.h>

/* Digits at *p; too large a number stays at the largest. false: there are none. */
static bool digits(const char **p, uint64_t *out) {
    const char *start = *p;
    *out = 0;
    for (; **p >= '0' && **p <= '9'; ++*p) {
        uint64_t digit = (uint64_t)(**p - '0');
        *out = *out > (UINT64_MAX - digit) / 10 ? UINT64_MAX : *out * 10 + digit;
    }
    return *p != start;
}

enum range_kind range_of(const char *header, uint64_t size, uint64_t *from, uint64_t *length) {
    uint64_t first, last;
    if (!header || strncasecmp(header, "bytes=", 6) != 0) return RANGE_WHOLE;
    const char *p = header + 6;
    while (*p == ' ') p++;
    bool has_first = digits(&p, &first);
    if (*p++ != '-') return RANGE_WHOLE;
    bool has_last = digits(&p, &last);
    while (*p == ' ') p++;
    if (*p || (!has_first && !has_last) || (has_first && has_last && last < first)) return RANGE_WHOLE;
    if (!has_first) { /* the last so many */
        if (!last || !size) return RANGE_OUTSIDE;
        *length = last < size ? last : size;
        *from = size - *length;
        return RANGE_PART;
    }
    if (first >= size) return RANGE_OUTSIDE;
    if (!has_last || last >= size) last = size - 1;
    *from = first;
    *length = last - first + 1;
    return RANGE_PART;
}
