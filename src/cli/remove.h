/* remove.h: DELETE of several things of one kind. */
#pragma once
#include "cli/client.h"

struct words;

/* DELETE collection/ID for every word from `from` on. Every one is tried; those that went are printed, one a line, or
 * with -o json as
 * {"deleted": […]}. force: one that is not there is no failure. → exit code: that of the first failure. */
int remove_each(struct client *, const char *collection, const struct words *, size_t from, bool force);
