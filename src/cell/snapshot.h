/* snapshot.h: copies of a running cell on the disk, and Spaces as a list. Conventions as in world.h.
 *
 * Snapshot = {id: "snap_" + 32 hex, snapshot_id (the same), sandbox_id, name|null, names: [], template, template_id, created_at, size_bytes, memory_bytes,
 * disk_bytes, paused_ms, not_carried: […], contexts: [{id, language}], metadata, state: "ready|missing"}: missing when its files are not there.
 * owner: id of the key whose ones are meant; NULL or "": everybody's. */
#pragma once
#include "cell/cell.h"

/* body {name?} or NULL; a name is given once (already_exists). Answer: the Snapshot, when it is on the disk for good. */
void snapshot_create(struct cell *, struct json_object *body, cell_json_cb, void *arg);
/* Array, oldest first; cell_id and name may be NULL. NULL with *err. */
struct json_object *snapshot_list(struct world *, const char *cell_id, const char *name, const char *owner, struct err *);
struct json_object *snapshot_get(struct world *, const char *id_or_name, const char *owner, struct err *);
int snapshot_delete(struct world *, const char *id_or_name, const char *owner, struct err *);
/* The image behind it; *row is a new reference. */
int snapshot_find(struct world *, const char *id_or_name, const char *owner, char image_id[CELL_ID_MAX], struct json_object **row, struct err *);

/* Space = {space_id, sandbox_id, state: "live|frozen", status, template, created_at, frozen_at|null, size_bytes, memory_bytes, disk_bytes, metadata} */
struct json_object *space_list(struct world *, const char *owner);
struct json_object *space_describe(struct cell *);
struct cell *space_find(struct world *, const char *space_id, const char *owner, struct err *); /* borrowed; not_found */
