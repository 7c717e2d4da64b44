/* kept_layers.h: the files of images that the keeper keeps until they are dropped (KEEPER_LAYER_*). Cells of every driver have theirs in one list, by the id
 * of the image. Loop thread. */
#pragma once
#include "driver/driver.h"
#include "driver/keeper/keeper_client.h"

/* Drop one. Not there: success. */
void kept_layer_drop(struct keeper_client *, const char *image_id, driver_done, void *arg);

/* Drop all but keep[n]: what a crash left behind. *slot is the caller's place for it while it is under way, NULL before and after; an event KEEPER_EVENT_LAYER
 * of that time goes to kept_layers_told(). */
struct kept_layers;
void kept_layers_sweep(struct keeper_client *, struct kept_layers **slot, const char *const *keep, size_t n, driver_done, void *arg);
void kept_layers_told(struct kept_layers *, const char *id);
void kept_layers_forget(struct kept_layers *); /* the handle was closed: no answer comes any more. NULL is allowed */
