/* base.h: what images leave out: the memory of a template's warm interpreter, written once per template and language to STATE/bases, and how the
 * interpreter that is warm now differs from it.
 *
 * A later interpreter of the same template (after a restart of the keeper or the host) lies at the same addresses, because it is started without address
 * randomisation and with hash seed 0; about one page in a hundred differs. An image names its base by SHA-256, so it outlives every
 * interpreter: what is resumed is a copy of the one that is warm now, with the pages that differ put right. */
#pragma once
#include <stdbool.h>
#include <uv.h>

#include "driver/driver.h"
#include "driver/process/image_format.h"

struct process_driver;

/* A base file in memory (mapped). */
struct base_file {
    int users; /* views, loop thread */
    uint8_t digest[IMAGE_DIGEST];
    struct memory_index index;
    const uint8_t *bytes;
    size_t size;
};

struct same_run { /* pages of the warm interpreter that are its own; sorted */
    uint64_t start, end;
    bool equal; /* the base has the same contents there */
};

/* A base, and the warm interpreter seen from it. Immutable once it is handed out. */
struct base_view {
    struct base_view *next;
    int users;
    char template_id[TEMPLATE_ID_HEX + 1];
    uint32_t language;
    uint64_t zygote;  /* number of the interpreter; 0: none was compared, run is empty */
    int pagemap_fd;   /* of the interpreter; -1 without one */
    struct base_file *base;
    struct same_run *same;
    size_t runs;
    uint64_t pages, pages_equal;
};

/* The contents of the base at this address, or NULL: it has none there. *cursor: 0 at first, then left alone; addresses that ascend are found fast. */
const uint8_t *base_page(const struct base_file *, uint64_t address, uint32_t *cursor);
/* 1: the interpreter's page here is its own and as in the base, 0: its own and different, -1: none of its own. */
int view_page(const struct base_view *, uint64_t address, size_t *cursor);

typedef void (*base_done)(void *arg, struct err *, struct base_view *);
/* The view of the base named by digest (NULL: the newest one, made of the warm interpreter when there is none) from the template's warm
 * interpreter. want_zygote: warm one if need be; otherwise, when none is warm and there is a base, a view without one. The view is held until view_release(). The
 * callback may come from inside the call. */
void base_need(struct process_driver *, const char *template_id, uint32_t language, const uint8_t *digest, bool want_zygote, base_done, void *arg);
void view_release(struct process_driver *, struct base_view *);
/* This interpreter ended, or the keeper with all of them: what was compared with it is of no use any more. */
void bases_forget_zygote(struct process_driver *, const char *template_id, uint32_t language);
void bases_forget(struct process_driver *);
void bases_close(struct process_driver *); /* the driver closes */
