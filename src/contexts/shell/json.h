/* json.h: reading the small JSON objects that the daemon sends, and writing strings. No library: this is loaded into whatever bash
 * a template has. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* The value of a member of the object at text[0..n), as a position in it; NULL when the text is no object or has no such
 * member. Depth and size are bounded by n. */
const char *json_member(const char *text, size_t n, const char *name);

/* Read the string at *at (a quote) into malloc'd *out, unescaped, and move behind it. False when there is no well-formed string.
 * `end` bounds the text. A NUL in the string ends the result. */
bool json_string(const char **at, const char *end, char **out);

const char *json_space(const char *at, const char *end);

/* A growing text. `data` is malloc'd by the first append; free it with xfree(). */
struct text {
    char *data;
    size_t len, cap;
};
void text_add(struct text *t, const char *bytes, size_t n);

/* Append at most `max` bytes of a string as JSON, with its quotes; "..." at the end when it was cut. Bytes that are no UTF-8 become
 * U+FFFD. */
void text_add_json(struct text *t, const char *bytes, size_t n, size_t max);
