/* template.h: templates on disk (STATE/templates, written by the template builder). Conventions as in world.h.
 *
 *   STATE/templates/<64 hex>/root            the immutable root of cells
 *   STATE/templates/<64 hex>/manifest.json   {id, name, aliases[], created_at, packages[], size_bytes, limits{}, languages[]}
 *   STATE/templates/names/<name or alias>    symlink to ../<64 hex> */
#pragma once
#include "cell/world.h"

/* Write the 64-digit id of a name, alias or id into out (65 bytes). "" or NULL means "default". not_found with a hint otherwise. */
int template_resolve(struct world *, const char *name, char out[TEMPLATE_ID_HEX + 1], struct err *);
/* [{id, name, aliases, created_at, size_bytes, languages, default:bool, packages_count}] read fresh from disk. */
struct json_object *template_list(struct world *);
struct json_object *template_get(struct world *, const char *name, struct err *); /* the whole manifest */
