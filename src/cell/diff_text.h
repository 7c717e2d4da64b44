/* diff_text.h: the lines in which two texts differ, as `diff -u` writes them. Pure functions, any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define DIFF_TEXT_MAX (256u * 1024) /* bytes of each side */

/* UTF-8 without NUL. */
bool diff_text_is_text(const void *bytes, size_t n);
/* Append the unified diff that makes `after` of `before` (three lines of context, names a/path and b/path); nothing
 * when they are equal. The shortest one where that is found with reasonable effort, a right one always: Myers'
 * algorithm in linear space, which gives up looking for the shortest way between two points that are far apart. Each
 * side at most DIFF_TEXT_MAX bytes. */
void diff_text_unified(const char *path, const char *before, size_t before_n, const char *after, size_t after_n,
                       struct buf *out);
