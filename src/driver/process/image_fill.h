/* image_fill.h: the memory file of a context, read. Threads of the pool. */
#pragma once
#include "driver/process/image_manifest.h"
#include "driver/process/image_plan.h"

struct slot_file {
    int fd;
    uint64_t bytes, index_offset;
    uint8_t digest[IMAGE_DIGEST];
    struct memory_index index;
};

/* Open the file of this slot and check its index; the contents of pages are checked when they are used (slot_fill). The caller frees. */
int slot_open(struct slot_file *, int dir_fd, int slot, const struct image_slot *, struct err *);
void slot_free(struct slot_file *);
void slot_name(char out[16], int slot);
/* Write the plan's pages into a stopped process. Fails when the file as a whole is not the one that the manifest names: what was written must not
 * run then. */
int slot_fill(const struct slot_file *, const struct thaw_plan *, const struct base_file *, int memory_fd, struct err *);
