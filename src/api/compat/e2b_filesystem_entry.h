/* e2b_filesystem_entry.h: paths and files in the words of E2B's clients. Pure functions. */
#pragma once
#include <json-c/json.h>

#include "base/err.h"

/* The path a client means: "" and "~" are the user's home, relative ones begin there; without double slashes, "." and "..", which are taken
 * out of the text as it stands. malloc'ed. invalid_request when it is too long. */
char *e2b_path(const char *user, const char *text, struct err *);
/* The last name of such a path ("/" of "/"); points into it. */
const char *e2b_path_name(const char *path);
/* EntryInfo of an entry of the guest (guest_proto.h). target: what a symlink leads to in the end, an entry too, or NULL: then a symlink
 * is told as one. Borrowed; new reference. */
struct json_object *e2b_entry(struct json_object *guest, struct json_object *target);
/* Milliseconds since 1970 as RFC 3339. */
void e2b_time(int64_t ms, char out[static 40]);
