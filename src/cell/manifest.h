/* manifest.h: the parser of template manifests. Private to this floor and to its fuzz target; any thread but text.h's.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define MANIFEST_VALUES_MAX 100000

struct json_object;

/* An object whose known fields have the right types, whose id is 64 hex digits (this one, when id is not NULL) and
 * whose name is a name. NULL otherwise. New reference. */
struct json_object *manifest_parse(const char *text, size_t n, const char *id);
/* Lower-case letters, digits, and inside also . - _; at most 64. */
bool template_name_valid(const char *s);
