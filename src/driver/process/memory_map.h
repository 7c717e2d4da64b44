/* memory_map.h: what /proc/PID/maps says, as a list. Pure; any thread.
 *
 * The text comes from the kernel, but its paths are of a cell's choice: sizes are bounded, an odd line is refused, never skipped. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define PAGE 4096ul
#define MAP_AREAS_MAX 70000u /* vm.max_map_count is 65,530 */
#define MAP_PATH_MAX 4096u

enum area_kind {
    AREA_ANONYMOUS = 1, /* private memory */
    AREA_HEAP,          /* the same, ends at the program break */
    AREA_STACK,         /* the same, grows downwards: that of the first thread */
    AREA_FILE,          /* a private mapping of a file: its pages are the file's until they are written */
    AREA_SHARED_FILE,   /* a shared mapping of a file: has no contents of its own here */
    AREA_SHARED,        /* shared memory without a file that could be opened again */
    AREA_KERNEL,        /* vdso, vvar, vsyscall: the kernel's own */
    AREA_STUB,          /* the keeper's page of code and its data: in every context, never touched */
    AREA_DELETED,       /* a private mapping of a file that has no name any more */
    AREA_KINDS,
};

struct area {
    uint64_t start, end; /* multiples of PAGE */
    uint64_t offset, inode;
    uint32_t prot; /* PROT_* */
    uint32_t kind;
    uint32_t path; /* offset in the map's text; 0: none */
    uint32_t pad;
};

struct memory_map {
    struct area *area; /* ascending, without overlap */
    uint32_t areas, space;
    struct buf text;   /* paths, each with its NUL; the first byte is the empty path */
    uint64_t vdso, vdso_bytes; /* 0: none */
};

/* Read the whole file behind maps_fd (from its start) into *m, which is empty. The caller frees it, also after a failure. */
int memory_map_read(struct memory_map *m, int maps_fd, struct err *);
/* One area behind the others. path may be NULL. */
void memory_map_add(struct memory_map *m, const struct area *, const char *path);
const char *memory_map_path(const struct memory_map *m, const struct area *);
void memory_map_free(struct memory_map *m);
/* Private memory of the process itself: its absent pages are zero. */
static inline int area_is_anonymous(const struct area *a) { return a->kind == AREA_ANONYMOUS || a->kind == AREA_HEAP || a->kind == AREA_STACK; }
