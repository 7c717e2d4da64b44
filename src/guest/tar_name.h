/* tar_name.h: names in archives, judged as strings before anything is opened. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Copy name without "." components, double and trailing slashes. False when it is absolute, holds "..", is empty or
 * does not fit. "" comes out for "./". */
bool tar_name_clean(const char *name, char *out, size_t size);
/* True when the target of a symlink called `name` (clean) stays inside the directory: relative, ".." only in front and
 * no more of them than `name` has directories. (".." behind a name is refused: that name may become a link later.)
 * Holds only when no directory of `name` is itself a symlink. */
bool tar_link_inside(const char *name, const char *target);
