/* machine_manifest.h: the manifest of an image of a machine (image/sealed.h, docs/image-format.md). The image's directory holds besides it "machine.state" and
 * "machine.memory" as cella-vmm wrote them; its disk is the keeper's layer of the image's id. Any thread. */
#pragma once
#include "driver/driver.h"
#include "driver/image/sealed.h"

#define MACHINE_IMAGE_FORMAT 1
#define MACHINE_STATE_NAME "machine.state"
#define MACHINE_MEMORY_NAME "machine.memory"

struct machine_file {
    uint64_t bytes;                /* its length */
    uint64_t kept;                 /* of it in pages that are not zero */
    uint8_t digest[IMAGE_DIGEST];
};

struct machine_manifest {
    char image_id[CELL_ID_MAX], template_id[TEMPLATE_ID_HEX + 1], base[CELL_ID_MAX];
    int64_t made_at_ms;
    uint32_t vcpus;
    uint64_t memory_bytes; /* of the machine */
    struct cell_limits limits;
    uint64_t layer_bytes;
    struct machine_file state, memory;
};

int machine_manifest_write(const struct machine_manifest *, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *);
/* Read and check everything that the manifest itself can tell. */
int machine_manifest_read(struct machine_manifest *, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *);
/* The same from n bytes of text, authentic or hostile. */
int machine_manifest_parse(struct machine_manifest *, const char *json, size_t n, struct err *);

/* Length and digest of a file: SHA-256 over the offset (8 bytes, little-endian) and the contents of every 4 KiB page that is not zero, and then the length, so
 * that holes cost nothing and mean nothing. */
int machine_file_measure(int fd, struct machine_file *, struct err *);
/* Is this file the one? image_refused. */
int machine_file_check(int fd, const struct machine_file *, const char *name, struct err *);
