/* image.h: images of cells on the disk, and their rows. Private to this floor; loop thread (the thread pool does what waits for the disk).
 *
 * STATE/images/<img_…>.tmp is written by the driver, synced, renamed to STATE/images/<img_…>, and only then gets its row; a row goes before
 * any of its files does. So a crash leaves at worst files without a row, which the next start removes.
 *
 * A row: {"kind": "space|snapshot", "cell_id", "owner", "name"?, "template_id", "template", "created_ms", "memory_bytes", "disk_bytes",
 * "frozen_us", "not_carried": […], "cell": what cell_row() said then}. */
#pragma once
#include "cell/domain.h"

#define IMAGE_PATH 4200

void image_path(struct world *, const char *id, bool tmp, char out[IMAGE_PATH]);
bool image_there(struct world *, const char *id); /* its directory */
/* A new id and its empty .tmp directory. */
int image_begin(struct world *, char id[CELL_ID_MAX], struct err *);
/* Everything in it to the disk, then its final name, then that to the disk. */
void image_publish(struct world *, const char *id, driver_done, void *arg);
/* Remove what there is of it, in the background: files, and what the driver keeps. Its row is gone or never was. */
void image_discard(struct world *, const char *id);

/* At the start of the daemon, when every cell is known: rows without files are told, files without a row removed. */
void images_at_start(struct world *);

struct json_object *image_row(struct cell *, const char *kind, const char *name, const struct driver_image *);
struct json_object *image_row_get(struct world *, const char *id); /* parsed; NULL: none. New reference */
int image_row_put(struct world *, const char *id, struct json_object *row, struct err *);
