/* query.h: the part of a URL after "?", and percent-decoding. Pure, bounded, hostile input expected. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define QUERY_FIELDS_MAX 32

struct query {
    struct {
        const char *name, *value; /* decoded, UTF-8, without NUL; value "" when there was no "=" */
    } fields[QUERY_FIELDS_MAX];
    size_t count;
    char *text; /* what the fields point into */
};

/* Decode "a=1&b=x%20y" (may be NULL). invalid_request for bad escapes, NUL bytes, bytes that are not UTF-8 and more
 * than QUERY_FIELDS_MAX fields. Free with query_free in either case. */
int query_parse(struct query *, const char *text, struct err *);
void query_free(struct query *);
/* The first field of that name, or NULL. */
const char *query_get(const struct query *, const char *name);
/* True for "1", "true", "yes" and a name without value; false for "0", "false", "no" and when it is missing. Anything
 * else: *bad is set to true. */
bool query_flag(const struct query *, const char *name, bool *bad);
/* A decimal number in [low, high]; `fallback` when missing. 0 or -1 (invalid_request names the field). */
int query_number(const struct query *, const char *name, long long low, long long high, long long fallback,
                 long long *out, struct err *);

/* Decode %XX in place (and "+" as space when plus is true). Returns the length, or -1 for a bad escape, a NUL or
 * bytes that are not UTF-8. */
long percent_decode(char *text, bool plus);
