/* image_format.h: the bytes of a memory file, of an image or of a base (docs/image-format.md). Little-endian, x86-64.
 *
 *   0                header page: struct memory_header, zero to PAGE
 *   PAGE             contents of pages, in ascending order of their addresses
 *   index_offset     struct index_head, struct area [areas], struct page_run [runs], text (paths), state; each padded to 8
 *   last 32 bytes    struct memory_trailer
 *
 * A page that no run names is what its area gives by itself: zero, or the file's. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "driver/image/sealed.h"
#include "driver/process/memory_map.h"

#define MEMORY_FORMAT 1
#define MEMORY_MAGIC 0x004d454d414c4c43ull /* "CLLAMEM" */
#define INDEX_MAGIC 0x58444e49u            /* "INDX" */
#define INDEX_RUNS_MAX (16u << 20)
#define INDEX_BYTES_MAX (512u << 20)
#define ADDRESS_END 0x7ffffffff000ull /* of user memory on x86-64 */

struct memory_header {
    uint64_t magic;
    uint32_t format, page;
};
struct memory_trailer {
    uint64_t magic, index_offset, index_bytes, file_bytes;
};
struct index_head {
    uint32_t magic, format;
    uint32_t areas, runs, text_bytes, state_bytes;
    uint64_t vdso, vdso_bytes; /* where the kernel's own code lay, and what it was: memory holds addresses in it */
    uint8_t vdso_digest[IMAGE_DIGEST];
};

enum run_kind {
    RUN_DATA = 1, /* contents at `offset` of this file */
    RUN_BASE,     /* as in the base at this address */
    RUN_ZERO,     /* written, and zero, where the area would give something else */
    RUN_KINDS,
};
struct page_run {
    uint64_t address;
    uint64_t offset; /* DATA: of the file; else 0 */
    uint32_t pages, kind;
};

_Static_assert(sizeof(struct area) == 48 && sizeof(struct page_run) == 24 && sizeof(struct index_head) == 72, "parts of the file");
_Static_assert(sizeof(struct memory_header) == 16 && sizeof(struct memory_trailer) == 32, "parts of the file");

/* An index in memory: read from a file, or being made. */
struct memory_index {
    struct memory_map map; /* areas and paths; the keeper's and the kernel's own are listed too */
    struct page_run *run;  /* ascending, each within one area */
    uint32_t runs, space;
    struct buf state;      /* wire/context_state.h: kept as it is */
    uint8_t vdso_digest[IMAGE_DIGEST];
};

void memory_index_free(struct memory_index *);
/* Append one page to the runs (offset: DATA). It joins the last run where it can. */
void memory_index_page(struct memory_index *, uint64_t address, enum run_kind, uint64_t offset);
/* The next call of memory_index_page begins a run of its own (another area). */
void memory_index_cut(struct memory_index *);
/* The bytes of the index. */
void memory_index_build(const struct memory_index *, struct buf *out);
/* Check n bytes in every respect and take them into *out (empty; the caller frees it also after a failure). data_end: where the contents of pages
 * end in the file. based: RUN_BASE may occur. The bytes are hostile. */
int memory_index_parse(struct memory_index *out, const void *bytes, size_t n, uint64_t data_end, int based, struct err *);
/* Check the trailer of a file of this size. */
int memory_trailer_check(const struct memory_trailer *, uint64_t file_bytes, struct err *);
