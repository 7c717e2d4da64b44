/* image_manifest.h: the manifest of an image of the process driver (image/sealed.h, docs/image-format.md). */
#pragma once
#include <stdbool.h>

#include "driver/driver.h"
#include "driver/image/sealed.h"
#include "driver/process/arch.h"
#include "driver/process/image_format.h"
#include "driver/process/image_scan.h"

#define IMAGE_FORMAT 1

struct image_slot {
    bool used;
    uint32_t language;
    struct memory_written memory; /* sizes and digests of the file "memory-N" */
    uint8_t base[IMAGE_DIGEST];
};

struct image_manifest {
    char image_id[CELL_ID_MAX], template_id[TEMPLATE_ID_HEX + 1];
    int64_t made_at_ms;
    struct cell_limits limits;
    uint64_t layer_bytes;
    struct arch_features features;
    struct image_slot slot[DRIVER_SLOTS];
    struct json_object *not_carried; /* array; owned: image_manifest_free */
};

void image_manifest_free(struct image_manifest *);
/* Write the file into the directory, durable. */
int image_manifest_write(const struct image_manifest *, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *);
/* Read and check everything that the manifest itself can tell. The caller frees, also after a failure. */
int image_manifest_read(struct image_manifest *, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *);
/* The same from memory: n bytes of hostile text behind the first line, whose authenticity was checked. */
int image_manifest_parse(struct image_manifest *, const char *json, size_t n, struct err *);
/* Can this image be used on this machine? */
int image_manifest_fits(const struct image_manifest *, struct err *);
