/* containers.h: OpenAI's /v1/containers. A container is a sandbox: the digits of "cntr_<32 hex>" are those of "sbx_<32 hex>", so each is known to
 * both APIs by what the other one calls it. A container file is a regular file below /workspace: the digits of "cfile_<hex>" are its path there.
 * Nothing is stored for either but the container's name, a pair of the sandbox's metadata. Loop thread only. */
#pragma once
#include <json-c/json.h>

#include "api/request.h"
#include "api/router.h"

#define CONTAINER_HOME "/workspace"
#define CONTAINER_NAME_TAG "container.name" /* in the sandbox's metadata */
#define CONTAINER_ID_SIZE (5 + 32 + 1)

extern const struct route_table containers_routes;

/* The request is for this API: from here on errors have its shape {"error": {message, type, param, code}}, and {id} of the route that was found
 * (if one was) becomes the sandbox's. */
void containers_claim(struct request *);

/* What the files of this API share. */
struct cell;
void container_id(const struct cell *, char out[static CONTAINER_ID_SIZE]);
/* The page of `items` (taken; each has "id" and "created_at") that ?after=, ?limit= and ?order= ask for:
 * {"object": "list", data, first_id, last_id, has_more}. NULL with *err: a field is wrong, or there is no item `after`. */
struct json_object *container_page(struct request *, struct json_object *items, struct err *);
/* {id, object, container_id, path, bytes, created_at, source} of what the guest says about a file; `entry` has its absolute path. New reference,
 * NULL for what is no regular file below CONTAINER_HOME. */
struct json_object *container_file_json(const struct cell *, struct json_object *entry);
/* Files that came through this API are "user" as long as they stay as they were written; everything else was made in the sandbox ("assistant").
 * Known until the daemon restarts, or 4,096 files later. */
void container_file_came(const struct cell *, struct json_object *entry);

/* containers_files.c */
void container_file_list(struct request *);
void container_file_get(struct request *);
void container_file_delete(struct request *);
void container_file_content(struct request *);
/* containers_upload.c */
void container_file_create(struct request *);
