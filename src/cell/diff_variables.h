/* diff_variables.h: two answers of CONTEXT_INSPECT compared. Pure, any thread; both are a cell's words and believed in
 * nothing but their own cell. */
#pragma once
#include <stddef.h>

#define DIFF_VARIABLES_MAX 10000 /* names told; how many there are is told beyond */

struct json_object;

/* How the variables `mine` differ from `theirs` (NULL: none at all): {"added":[{name,type,value}], "removed":[..],
 * "changed":[{name, type, value, type_before, value_before}], "unknown":[names], "skipped": n, "truncated": null or
 * {"shown","total"}}. Equal digests: equal, others: changed; without digests another type or shown value: changed, else
 * unknown. Where a side skipped names, what only the other has is unknown. New reference. */
struct json_object *diff_variables(struct json_object *mine, struct json_object *theirs);
