/* layers.h: what a cell writes. One btrfs subvolume per cell with a quota of its own; where neither the state directory nor a loop image
 * can be btrfs, a plain directory without a quota (reported as a missing KEEPER_HAS_DISK_QUOTA).
 *
 * A layer holds two directories, "u" (upper) and "w" (work) of the cell's overlay. Owners on disk are canonical (0…65535). */
#pragma once
#include <stdint.h>

#include "base/err.h"

/* Mount the store of layers below the state directory (in the keeper's private mount namespace) and remove every layer in it that a keeper
 * before this one left behind. */
int layers_open(const char *state_dir, uint32_t *features, struct err *);
int layer_make(const char *id, uint64_t disk_bytes, struct err *);
/* A new layer with the files of another, as they are at this moment; needs btrfs. Its quota is set with layer_limit. */
int layer_snapshot(const char *from, const char *id, struct err *);
/* Write what the layer has in memory only, so that a snapshot is quick. */
int layer_flush(const char *id, struct err *);
/* Open the layer's directory; the caller owns the descriptor. */
int layer_fd(const char *id, struct err *);
int layer_limit(const char *id, uint64_t disk_bytes, struct err *);
uint64_t layer_used(const char *id);
int layer_remove(const char *id, struct err *);
