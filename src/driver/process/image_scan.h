/* image_scan.h: find what a stopped process has in its memory that a base has not, and write it. Threads of the pool; nothing here is shared.
 *
 * A page that the process still shares with the warm interpreter (the same physical page at the same address: both pagemaps were opened by the keeper, which
 * sees the numbers) is known without reading it. Every other one is read and compared with the base. */
#pragma once
#include "driver/process/base.h"
#include "driver/process/image_format.h"
#include "driver/process/image_sink.h"

struct memory_source { /* of a stopped process, as the keeper gave them */
    int memory_fd, pagemap_fd, maps_fd;
};
void memory_source_close(struct memory_source *);

struct memory_written {
    uint64_t file_bytes, index_offset, index_bytes;
    uint64_t data_pages, base_pages;
    uint8_t digest[IMAGE_DIGEST], index_digest[IMAGE_DIGEST];
};

/* Write the memory of *from as a new file. view: what it is compared with, NULL: everything is written (a base). shares: it descends from the very
 * interpreter that view describes, so that physical pages may be compared. state: the keeper's bytes, kept in the index (may be empty).
 * Durable when it returns 0; otherwise no file is left. */
int memory_write(const struct memory_source *from, const struct base_view *view, bool shares, const struct buf *state, int dir_fd, const char *name,
                 struct memory_written *out, struct err *);

/* How the warm interpreter behind *from differs from the base: fills view->same and view->runs. */
int memory_compare(const struct memory_source *from, struct base_view *view, struct err *);

/* SHA-256 of the vdso behind memory_fd; zero when there is none. */
int vdso_digest(int memory_fd, const struct memory_map *, uint8_t digest[IMAGE_DIGEST], struct err *);
/* SHA-256 of n bytes. */
int digest_of(const void *bytes, size_t n, uint8_t digest[IMAGE_DIGEST], struct err *);
