/* text.h: text that came out of a cell. Private to this floor; any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

struct json_object;

/* Append n bytes as valid UTF-8: every byte that is not part of a valid character becomes U+FFFD. */
void text_append_utf8(struct buf *out, const void *bytes, size_t n);
/* A JSON string of the bytes made valid the same way. New reference. */
struct json_object *text_json(const void *bytes, size_t n);
/* A JSON number with at most three digits behind the point. New reference. */
struct json_object *text_number(double v);
/* Bytes at the end that begin a character which is not complete (0…3): cut there, and the next chunk goes on whole. */
size_t text_partial_tail(const void *bytes, size_t n);
/* Parse JSON that a cell wrote: exactly one object, UTF-8, at most 32 levels and max_values values, where an array
 * counts as 4 and an object as 7 (32 MiB of empty objects would take ten gigabytes). NULL when it is anything else. New
 * reference. */
struct json_object *text_parse_object(const void *bytes, size_t n, size_t max_values);
/* The string of a key, or NULL when it is missing, not a string, or holds NUL. Borrowed. */
const char *text_field(struct json_object *, const char *key);
