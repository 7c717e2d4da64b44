/* layers.h: what a cell writes. One btrfs subvolume per cell with a quota of its own; where neither the state directory nor a loop image
 * can be btrfs, a plain directory without a quota (reported as a missing KEEPER_HAS_DISK_QUOTA), whose snapshots are copies (layer_copy.h).
 *
 * A loop image has room for what lies in it and a reserve, and grows before that is used up. Its blocks are taken from the disk when it grows: a full
 * disk means no growth, and a cell that needs more gets "no space" from its own file system, never an error of a block that could not be
 * written.
 *
 * A layer holds two directories, "u" (upper) and "w" (work) of the cell's overlay. Owners on disk are canonical (0…65535). The layer of a virtual machine
 * holds its disk, one file (machine_files.h). */
#pragma once
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Mount the store of layers below the state directory (in the keeper's private mount namespace) and remove every layer in it that a keeper
 * before this one left behind. */
struct layers_options {
    bool plain;            /* --plain-layers: as if btrfs were not to be had */
    uint64_t reserve_bytes; /* --layers-reserve: the image grows when less than this is free in it; 0: LAYERS_RESERVE */
};
#define LAYERS_RESERVE (512ull << 20)
int layers_open(const char *state_dir, const struct layers_options *, uint32_t *features, struct err *);
/* Time for the image to grow, when it has to: call it now and then. */
void layers_grow(void);
int layer_make(const char *id, uint64_t disk_bytes, struct err *);
int layer_make_empty(const char *id, uint64_t disk_bytes, struct err *); /* without the two directories */
/* A new layer with the files of another, as they are at this moment; on plain directories a copy, which takes as long as it is large and
 * is refused when that is too long. Its quota is set with layer_limit. */
int layer_snapshot(const char *from, const char *id, struct err *);
/* Another name, at once: also for a layer that is in use. ERR_EXISTS when the new one is taken. */
int layer_rename(const char *from, const char *to, struct err *);
/* Write what the layer has in memory only, so that a snapshot is quick: by a snapshot `id` that is thrown away, since nothing else writes one
 * subvolume and waits for it. */
int layer_flush(const char *from, const char *id, struct err *);
/* Open the layer's directory; the caller owns the descriptor. */
int layer_fd(const char *id, struct err *);
int layer_limit(const char *id, uint64_t disk_bytes, struct err *);
uint64_t layer_used(const char *id);
/* Kept layers ("img_" + 32 hex) and disks of bases ("bas_" + 32 hex) stay when the keeper ends. Make everything of this one durable, the image it lies in as well, and count its
 * bytes on the disk; takes as long as the disk does: not in the keeper's loop. */
int layer_settle(const char *id, uint64_t *bytes, struct err *);
/* What layer_settle() counted. */
uint64_t layer_bytes(const char *id);
/* Kept layers, one after the other; NULL at the end. The caller closes the directory. */
DIR *layers_list(void);
const char *layers_next_kept(DIR *);
const char *layers_next_base(DIR *);
int layer_remove(const char *id, struct err *);
