#include "driver/process/image_format.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "wire/context_state.h"

static const char *const hint = "the image cannot be used; an older one of the same cell may be whole";

void memory_index_free(struct memory_index *x) {
    memory_map_free(&x->map);
    free(x->run);
    buf_free(&x->state);
    *x = (struct memory_index){0};
}

void memory_index_cut(struct memory_index *x) {
    if (x->runs == x->space) {
        x->space = x->space ? x->space * 2 : 512;
        struct page_run *grown = realloc(x->run, x->space * sizeof *grown);
        if (!grown) abort();
        x->run = grown;
    }
    if (x->runs && !x->run[x->runs - 1].pages) return;
    x->run[x->runs++] = (struct page_run){0};
}

void memory_index_page(struct memory_index *x, uint64_t address, enum run_kind kind, uint64_t offset) {
    struct page_run *last = x->runs ? &x->run[x->runs - 1] : NULL;
    if (last && last->pages && last->kind == kind && last->address + last->pages * PAGE == address && last->pages < UINT32_MAX / 2 &&
        (kind != RUN_DATA || last->offset + last->pages * PAGE == offset)) {
        last->pages++;
        return;
    }
    if (!last || last->pages) memory_index_cut(x);
    x->run[x->runs - 1] = (struct page_run){.address = address, .offset = kind == RUN_DATA ? offset : 0, .pages = 1, .kind = kind};
}

static void append_padded(struct buf *out, const void *bytes, size_t n) {
    static const char zero[8];
    if (n) buf_append(out, bytes, n);
    if (n % 8) buf_append(out, zero, 8 - n % 8);
}

void memory_index_build(const struct memory_index *x, struct buf *out) {
    const uint32_t runs = x->runs && !x->run[x->runs - 1].pages ? x->runs - 1 : x->runs; /* an unused cut at the end */
    struct index_head h = {.magic = INDEX_MAGIC, .format = MEMORY_FORMAT, .areas = x->map.areas, .runs = runs, .text_bytes = (uint32_t)x->map.text.len,
                           .state_bytes = (uint32_t)x->state.len, .vdso = x->map.vdso, .vdso_bytes = x->map.vdso_bytes};
    memcpy(h.vdso_digest, x->vdso_digest, sizeof h.vdso_digest);
    buf_append(out, &h, sizeof h);
    append_padded(out, x->map.area, h.areas * sizeof *x->map.area);
    append_padded(out, x->run, runs * sizeof *x->run);
    append_padded(out, x->map.text.data, x->map.text.len);
    append_padded(out, x->state.data, x->state.len);
}

/* ---- reading ---- */

static int bad(struct err *e, const char *what) { return err_hint(e, ERR_IMAGE, hint, "the image's list of memory is damaged: %s", what); }

struct reader {
    const uint8_t *at;
    size_t left;
};

/* n records of size bytes, padded to 8; NULL when they are not there. */
static const void *take(struct reader *r, uint64_t n, size_t size) {
    const uint64_t bytes = (n * size + 7) / 8 * 8; /* n < 2^32, size < 2^8 */
    if (bytes > r->left) return NULL;
    const void *p = r->at;
    r->at += bytes;
    r->left -= bytes;
    return p;
}

static int take_areas(struct memory_index *x, const struct area *a, uint32_t n, struct err *e) {
    uint64_t end = 0;
    if (!(x->map.area = calloc(n ? n : 1, sizeof *a))) return err_sys(e, 12, "memory of an image's list");
    if (n) memcpy(x->map.area, a, n * sizeof *a);
    x->map.areas = x->map.space = n;
    for (uint32_t i = 0; i < n; i++) {
        a = &x->map.area[i];
        const bool file = a->kind == AREA_FILE || a->kind == AREA_SHARED_FILE, kernel = a->kind == AREA_KERNEL;
        if (a->start < end || a->start >= a->end || a->start % PAGE || a->end % PAGE || (a->end > ADDRESS_END && !kernel)) return bad(e, "bounds of an area");
        if (!a->kind || a->kind >= AREA_KINDS || a->kind == AREA_DELETED || a->prot & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC) || a->pad)
            return bad(e, "kind of an area");
        if (file != (a->path != 0) || a->path >= x->map.text.len || a->offset % PAGE || a->offset > INT64_MAX - (a->end - a->start)) return bad(e, "file of an area");
        if (!file && (a->offset || a->inode)) return bad(e, "an area has a file's fields");
        const char *path = x->map.text.data + a->path;
        if (file && (path[0] != '/' || strlen(path) >= MAP_PATH_MAX)) return bad(e, "path of a file");
        end = a->end;
    }
    return 0;
}

static bool may_have(const struct area *a, uint32_t kind) {
    switch (a->kind) {
    case AREA_ANONYMOUS:
    case AREA_HEAP:
    case AREA_STACK: return kind == RUN_DATA || kind == RUN_BASE;
    case AREA_SHARED: return kind == RUN_DATA;
    case AREA_FILE: return true;
    default: return false;
    }
}

static int take_runs(struct memory_index *x, const struct page_run *run, uint32_t n, uint64_t data_end, bool based, struct err *e) {
    uint64_t offset = PAGE, end = 0;
    const struct area *a = x->map.area, *last = x->map.area + x->map.areas;
    if (!(x->run = calloc(n ? n : 1, sizeof *run))) return err_sys(e, 12, "memory of an image's list");
    if (n) memcpy(x->run, run, n * sizeof *run);
    x->runs = x->space = n;
    for (run = x->run; run < x->run + n; run++) {
        const uint64_t bytes = (uint64_t)run->pages * PAGE;
        if (!run->pages || run->address % PAGE || run->address >= ADDRESS_END || run->address < end || !run->kind || run->kind >= RUN_KINDS) return bad(e, "bounds of pages");
        while (a < last && a->end <= run->address) a++;
        if (a == last || run->address < a->start || bytes > a->end - run->address || !may_have(a, run->kind)) return bad(e, "pages outside an area");
        if (run->kind == RUN_BASE && !based) return bad(e, "pages of a base in a base");
        if (run->kind == RUN_DATA ? run->offset != offset || bytes > data_end - offset : run->offset != 0) return bad(e, "place of pages");
        if (run->kind == RUN_DATA) offset += bytes;
        end = run->address + bytes;
    }
    return offset == data_end ? 0 : bad(e, "contents that belong to no page");
}

int memory_index_parse(struct memory_index *out, const void *bytes, size_t n, uint64_t data_end, int based, struct err *e) {
    struct reader r = {bytes, n};
    struct index_head h;
    const void *p = take(&r, 1, sizeof h);
    *out = (struct memory_index){0};
    if (!p) return bad(e, "too short");
    memcpy(&h, p, sizeof h);
    if (h.magic != INDEX_MAGIC) return bad(e, "its mark");
    if (h.format != MEMORY_FORMAT) return err_hint(e, ERR_IMAGE, "use the version of Cella that wrote it", "the image's memory has format %u; this version reads %d", h.format, MEMORY_FORMAT);
    if (h.areas > MAP_AREAS_MAX || h.runs > INDEX_RUNS_MAX || h.state_bytes > STATE_BYTES_MAX || data_end < PAGE || data_end % PAGE) return bad(e, "sizes");
    if (h.vdso % PAGE || h.vdso >= ADDRESS_END || h.vdso_bytes > (1u << 20) || h.vdso_bytes % PAGE) return bad(e, "place of the kernel's code");
    const void *areas = take(&r, h.areas, sizeof(struct area)), *runs = areas ? take(&r, h.runs, sizeof(struct page_run)) : NULL;
    const char *text = runs ? take(&r, h.text_bytes, 1) : NULL;
    const void *state = text ? take(&r, h.state_bytes, 1) : NULL;
    if (!state || r.left) return bad(e, "sizes");
    if (h.text_bytes && (text[0] || text[h.text_bytes - 1])) return bad(e, "its text"); /* every path ends within */
    if (h.text_bytes) buf_append(&out->map.text, text, h.text_bytes);
    else buf_append(&out->map.text, "", 1);
    if (h.state_bytes) buf_append(&out->state, state, h.state_bytes);
    out->map.vdso = h.vdso;
    out->map.vdso_bytes = h.vdso_bytes;
    memcpy(out->vdso_digest, h.vdso_digest, sizeof out->vdso_digest);
    if (take_areas(out, areas, h.areas, e)) return -1;
    return take_runs(out, runs, h.runs, data_end, based != 0, e);
}

int memory_trailer_check(const struct memory_trailer *t, uint64_t file_bytes, struct err *e) {
    if (t->magic != MEMORY_MAGIC || t->file_bytes != file_bytes || t->index_offset < PAGE || t->index_offset % PAGE || t->index_bytes > INDEX_BYTES_MAX ||
        file_bytes < PAGE + sizeof *t || t->index_offset > file_bytes - sizeof *t || t->index_bytes != file_bytes - sizeof *t - t->index_offset)
        return bad(e, "its end");
    return 0;
}
