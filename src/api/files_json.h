/* files_json.h: the guest's words about files in the API's words. Pure. */
#pragma once
#include <json-c/json.h>

#include "base/err.h"

/* An entry of the guest with "is_dir", "mode" as "-rw-r--r--", "permissions" as "0644" and "mtime" (RFC 3339) added.
 * New reference; the argument is borrowed. */
struct json_object *files_entry(struct json_object *guest);
/* {"path","entries":[…]} with every entry turned. */
struct json_object *files_listing(struct json_object *guest);
/* A mode given as 420, "0644" or "644": *mode, or untouched when field is NULL. invalid_request. */
int files_mode(struct json_object *field, int *mode, struct err *);
int files_mode_text(const char *text, int *mode, struct err *);
