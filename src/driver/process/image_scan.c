#include "driver/process/image_scan.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"

#define LOOK_PAGES 4096 /* page map entries looked at in one go */
#define REGIONS 2048    /* of one PAGEMAP_SCAN */
#define WHOLE_MAX (1ull << 30)
#define FEW 4           /* pages read needlessly rather than by another call */

/* A page map entry (Documentation/admin-guide/mm/pagemap.rst). */
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRY_FILE (1ull << 61)
#define ENTRY_FRAME ((1ull << 55) - 1)

/* PAGEMAP_SCAN, Linux 6.7; the headers of this system are older. */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan_argument {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_REQUEST _IOWR('f', 16, struct scan_argument)
#define SCAN_FILE (1u << 2)
#define SCAN_PRESENT (1u << 3)
#define SCAN_SWAPPED (1u << 4)
#define SCAN_ZERO_FRAME (1u << 5)

struct scan {
    const struct memory_source *from;
    const struct base_view *view; /* NULL: nothing to compare with */
    bool shares;
    uint32_t base_cursor;
    size_t view_cursor;
    struct memory_index *index; /* writing: what was found */
    struct image_sink *sink;    /* writing: where contents go; NULL: comparing */
    struct base_view *compared; /* comparing: its runs */
    size_t space;
    uint8_t *buffer; /* comparing: SINK_PIECE bytes */
    uint64_t data_pages, base_pages;
    struct scan_region *region; /* pages that are there; ascending */
    size_t regions, region_space;
    uint64_t *own, *zygote;     /* the last look: pages from `looked` on */
    uint64_t looked, looked_end;
};

void memory_source_close(struct memory_source *s) {
    close_fd(&s->memory_fd);
    close_fd(&s->pagemap_fd);
    close_fd(&s->maps_fd);
}

int digest_of(const void *bytes, size_t n, uint8_t digest[IMAGE_DIGEST], struct err *e) {
    unsigned out = IMAGE_DIGEST;
    return EVP_Digest(bytes, n, digest, &out, EVP_sha256(), NULL) ? 0 : err_set(e, ERR_INTERNAL, "no SHA-256");
}

int vdso_digest(int memory_fd, const struct memory_map *m, uint8_t digest[IMAGE_DIGEST], struct err *e) {
    memset(digest, 0, IMAGE_DIGEST);
    if (!m->vdso) return 0;
    if (m->vdso_bytes > 1u << 20) return err_set(e, ERR_INTERNAL, "the kernel's own code in a process is larger than known");
    cleanup_free void *code = malloc(m->vdso_bytes);
    if (!code) abort();
    if (pread(memory_fd, code, m->vdso_bytes, (off_t)m->vdso) != (ssize_t)m->vdso_bytes) return err_sys(e, errno, "read the kernel's own code in a process");
    return digest_of(code, m->vdso_bytes, digest, e);
}

static bool is_zero(const uint8_t *page) {
    uint64_t first;
    memcpy(&first, page, sizeof first);
    return !first && !memcmp(page, page + 8, PAGE - 8);
}

/* ---- what becomes of a page ---- */

static void remember_same(struct scan *s, uint64_t address, bool equal) {
    struct base_view *v = s->compared;
    struct same_run *last = v->runs ? &v->same[v->runs - 1] : NULL;
    v->pages++;
    v->pages_equal += equal;
    if (last && last->end == address && last->equal == equal) {
        last->end += PAGE;
        return;
    }
    if (v->runs == s->space) {
        s->space = s->space ? s->space * 2 : 512;
        if (!(v->same = realloc(v->same, s->space * sizeof *v->same))) abort();
    }
    v->same[v->runs++] = (struct same_run){address, address + PAGE, equal};
}

/* One page that was read; *to is where the next contents go (behind the earlier ones, in the same piece). */
static void take_page(struct scan *s, const struct area *a, uint64_t address, const uint8_t *page, uint8_t **to, uint64_t *offset) {
    const bool zero = is_zero(page), anonymous = a->kind != AREA_FILE;
    const bool based = a->kind != AREA_SHARED && a->kind != AREA_DELETED;
    if (zero && anonymous) return; /* what the area gives by itself */
    const uint8_t *base = based && s->view && s->view->base ? base_page(s->view->base, address, &s->base_cursor) : NULL;
    const bool equal = base && !memcmp(base, page, PAGE);
    if (!s->sink) {
        remember_same(s, address, equal);
        return;
    }
    if (equal || zero) {
        memory_index_page(s->index, address, equal ? RUN_BASE : RUN_ZERO, 0);
        s->base_pages += equal;
        return;
    }
    memory_index_page(s->index, address, RUN_DATA, *offset);
    if (*to != page) memmove(*to, page, PAGE);
    *to += PAGE;
    *offset += PAGE;
    s->data_pages++;
}

static int read_some(const struct scan *s, const struct area *a, uint64_t address, uint8_t *to, size_t bytes, size_t *got, struct err *e) {
    ssize_t n = pread(s->from->memory_fd, to, bytes, (off_t)address);
    if (n < 0 && errno == EINTR) n = 0;
    *got = n > 0 ? (size_t)n / PAGE * PAGE : 0;
    if (*got) return 0;
    if (a->kind == AREA_DELETED || a->kind == AREA_SHARED) { /* behind the end of its file: nobody can read it there either */
        memset(to, 0, PAGE);
        *got = PAGE;
        return 0;
    }
    if (!n) return err_set(e, ERR_LOST, "the memory of a context cannot be read: it is gone");
    return err_sys(e, errno, "read the memory of a context at %#llx", (unsigned long long)address);
}

static int read_pages(struct scan *s, const struct area *a, uint64_t address, uint64_t end, struct err *e) {
    while (address < end) {
        uint8_t *room = s->sink ? sink_room(s->sink) : s->buffer, *to = room;
        size_t bytes = s->sink ? sink_left(s->sink) : SINK_PIECE, got;
        uint64_t offset = s->sink ? sink_at(s->sink) : 0;
        if (bytes > end - address) bytes = end - address;
        if (read_some(s, a, address, room, bytes, &got, e)) return -1;
        for (size_t i = 0; i < got; i += PAGE) take_page(s, a, address + i, room + i, &to, &offset);
        if (s->sink && to > room && sink_commit(s->sink, (size_t)(to - room), e)) return -1;
        address += got;
    }
    return 0;
}

/* ---- which pages have to be read ---- */

static int entries(int fd, uint64_t address, uint64_t n, uint64_t *out, struct err *e) {
    const size_t bytes = n * sizeof *out;
    ssize_t got = pread(fd, out, bytes, (off_t)(address / PAGE * sizeof *out));
    if (got < 0) return err_sys(e, errno, "read a page map");
    if ((size_t)got < bytes) memset((uint8_t *)out + got, 0, bytes - (size_t)got); /* the interpreter is gone: nothing is shared with it */
    return 0;
}

static void add_region(struct scan *s, uint64_t start, uint64_t end) {
    struct scan_region *last = s->regions ? &s->region[s->regions - 1] : NULL;
    if (last && last->end == start) {
        last->end = end;
        return;
    }
    if (s->regions + REGIONS > s->region_space) {
        s->region_space = s->regions + 2 * REGIONS;
        if (!(s->region = realloc(s->region, s->region_space * sizeof *s->region))) abort();
    }
    s->region[s->regions++] = (struct scan_region){start, end, 0};
}

/* Without PAGEMAP_SCAN: every entry of every area is looked at. */
static int find_slowly(struct scan *s, const struct memory_map *m, struct err *e) {
    for (uint32_t i = 0; i < m->areas; i++) {
        const struct area *a = &m->area[i];
        if (!area_is_anonymous(a) && a->kind != AREA_FILE) continue;
        for (uint64_t at = a->start, n; at < a->end; at += n * PAGE) {
            n = (a->end - at) / PAGE < LOOK_PAGES ? (a->end - at) / PAGE : LOOK_PAGES;
            if (entries(s->from->pagemap_fd, at, n, s->own, e)) return -1;
            for (uint64_t k = 0; k < n; k++)
                if (s->own[k] & (ENTRY_PRESENT | ENTRY_SWAPPED) && !(s->own[k] & ENTRY_FILE)) add_region(s, at + k * PAGE, at + (k + 1) * PAGE);
        }
    }
    return 0;
}

/* All pages of the process that are there and neither a file's nor the one page of zeros that the kernel lends to everybody. */
static int find_pages(struct scan *s, const struct memory_map *m, struct err *e) {
    for (uint64_t at = 0; at < ADDRESS_END;) {
        if (s->regions + REGIONS > s->region_space) {
            s->region_space = s->regions + 2 * REGIONS;
            if (!(s->region = realloc(s->region, s->region_space * sizeof *s->region))) abort();
        }
        struct scan_argument arg = {.size = sizeof arg, .start = at, .end = ADDRESS_END, .vec = (uintptr_t)(s->region + s->regions), .vec_len = REGIONS,
                                    .category_inverted = SCAN_FILE | SCAN_ZERO_FRAME, .category_mask = SCAN_FILE | SCAN_ZERO_FRAME,
                                    .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED, .return_mask = SCAN_PRESENT};
        int n = ioctl(s->from->pagemap_fd, SCAN_REQUEST, &arg);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == ENOTTY || errno == EINVAL) && !at) return find_slowly(s, m, e);
        if (n < 0) return err_sys(e, errno, "look for the pages of a context");
        if (arg.walk_end <= at) return err_set(e, ERR_INTERNAL, "the kernel's search for pages does not move on");
        s->regions += (size_t)n;
        /* The kernel collects 512 regions at a time, and where the walk then reaches its end, walk_end stays at the last such stop, before
         * regions that were already given. */
        at = n && s->region[s->regions - 1].end > arg.walk_end ? s->region[s->regions - 1].end : arg.walk_end;
    }
    return 0;
}

/* Marks the pages of [from, from + n) that are physically the interpreter's. The process is asked twice, before and after: were a page moved meanwhile and
 * its place taken by one of the interpreter's, the first answer alone would lie. */
static int look_shared(struct scan *s, uint64_t from, uint64_t n, struct err *e) {
    uint64_t *again = s->own + LOOK_PAGES;
    if (entries(s->from->pagemap_fd, from, n, s->own, e) || entries(s->view->pagemap_fd, from, n, s->zygote, e) ||
        entries(s->from->pagemap_fd, from, n, again, e))
        return -1;
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t frame = s->own[i] & ENTRY_FRAME;
        const bool shared = s->own[i] & ENTRY_PRESENT && again[i] & ENTRY_PRESENT && s->zygote[i] & ENTRY_PRESENT && frame && frame == (s->zygote[i] & ENTRY_FRAME) &&
                            frame == (again[i] & ENTRY_FRAME) && !(s->own[i] & ENTRY_FILE);
        s->own[i] = shared && view_page(s->view, from + i * PAGE, &s->view_cursor) == 1;
    }
    s->looked = from;
    s->looked_end = from + n * PAGE;
    return 0;
}

/* Pages that are known to be the base's from here on, up to end. */
static uint64_t known_from(const struct scan *s, uint64_t address, uint64_t end) {
    uint64_t at = address;
    while (at < end && at < s->looked_end && s->own[(at - s->looked) / PAGE]) at += PAGE;
    return at;
}

/* Pages [address, end) of one area are there. Those the interpreter has in common with it are not read, but where they are few between others: one
 * read more costs as much as some pages. */
static int take_range(struct scan *s, const struct area *a, uint64_t address, uint64_t end, struct err *e) {
    for (uint64_t unread = address; address < end;) {
        if (!s->shares) return read_pages(s, a, address, end, e);
        if (address >= s->looked_end) { /* one look serves this range and what follows it closely */
            const uint64_t n = (ADDRESS_END - address) / PAGE < LOOK_PAGES ? (ADDRESS_END - address) / PAGE : LOOK_PAGES;
            if (look_shared(s, address, n, e)) return -1;
        }
        const uint64_t until = known_from(s, address, end);
        const bool skip = until > address + FEW * PAGE || (until > address && (until == end || unread == address));
        if (skip && unread < address && read_pages(s, a, unread, address, e)) return -1;
        for (uint64_t at = address; skip && at < until; at += PAGE, s->base_pages++) memory_index_page(s->index, at, RUN_BASE, 0);
        address = until > address ? until : address + PAGE;
        if (skip) unread = address;
        if ((address == end || address >= s->looked_end) && unread < address) {
            if (read_pages(s, a, unread, address, e)) return -1;
            unread = address;
        }
    }
    return 0;
}

/* Areas that are taken whole, whether they were touched or not: a file of terabytes with nothing in it would keep a thread for days. */
static bool is_whole(const struct area *a) { return a->kind == AREA_DELETED || a->kind == AREA_SHARED; }

static int check_whole(const struct memory_map *m, struct err *e) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < m->areas; i++)
        if (is_whole(&m->area[i])) bytes += m->area[i].end - m->area[i].start;
    return bytes > WHOLE_MAX ? err_set(e, ERR_LIMIT, "a context has deleted files of more than %llu MiB in its memory: they do not fit an image", WHOLE_MAX >> 20) : 0;
}

static int take_areas(struct scan *s, const struct memory_map *m, struct err *e) {
    size_t k = 0;
    if ((s->sink && check_whole(m, e)) || find_pages(s, m, e)) return -1;
    for (uint32_t i = 0; i < m->areas; i++) {
        const struct area *a = &m->area[i];
        int rc = 0;
        if (s->index) memory_index_cut(s->index); /* a run lies within one area */
        while (k < s->regions && s->region[k].end <= a->start) k++;
        for (size_t r = k; (area_is_anonymous(a) || a->kind == AREA_FILE) && !rc && r < s->regions && s->region[r].start < a->end; r++) {
            const uint64_t start = s->region[r].start > a->start ? s->region[r].start : a->start, end = s->region[r].end < a->end ? s->region[r].end : a->end;
            rc = take_range(s, a, start, end, e);
        }
        if (s->sink && is_whole(a)) rc = read_pages(s, a, a->start, a->end, e); /* whole: only here it exists */
        if (rc) return -1;
    }
    return 0;
}

static void scan_open(struct scan *s) {
    if (!(s->own = malloc(3 * LOOK_PAGES * sizeof *s->own))) abort();
    s->zygote = s->own + 2 * LOOK_PAGES;
}

int memory_compare(const struct memory_source *from, struct base_view *view, struct err *e) {
    struct scan s = {.from = from, .view = view, .compared = view, .buffer = malloc(SINK_PIECE)};
    struct memory_map m = {0};
    if (!s.buffer) abort();
    scan_open(&s);
    int rc = memory_map_read(&m, from->maps_fd, e);
    if (!rc) rc = take_areas(&s, &m, e);
    memory_map_free(&m);
    free(s.buffer);
    free(s.own);
    free(s.region);
    return rc;
}

/* ---- writing ---- */

static int write_header(struct image_sink *sink, struct err *e) {
    static const uint8_t zero[PAGE - sizeof(struct memory_header)];
    const struct memory_header h = {.magic = MEMORY_MAGIC, .format = MEMORY_FORMAT, .page = PAGE};
    return sink_write(sink, &h, sizeof h, e) ? -1 : sink_write(sink, zero, sizeof zero, e);
}

static int write_index(struct scan *s, struct memory_index *x, struct memory_written *out, struct err *e) {
    struct buf index = {0};
    for (uint32_t i = 0; i < x->map.areas; i++)
        if (x->map.area[i].kind == AREA_DELETED) x->map.area[i].kind = AREA_ANONYMOUS; /* from now on it is memory of its own */
    memory_index_build(x, &index);
    out->index_offset = sink_at(s->sink);
    out->index_bytes = index.len;
    out->file_bytes = out->index_offset + index.len + sizeof(struct memory_trailer);
    const struct memory_trailer t = {MEMORY_MAGIC, out->index_offset, out->index_bytes, out->file_bytes};
    int rc = index.len > INDEX_BYTES_MAX || x->runs > INDEX_RUNS_MAX ? err_set(e, ERR_LIMIT, "the memory of a context is in too many pieces") : 0;
    if (!rc) rc = digest_of(index.data, index.len, out->index_digest, e);
    if (!rc) rc = sink_write(s->sink, index.data, index.len, e);
    if (!rc) rc = sink_write(s->sink, &t, sizeof t, e);
    buf_free(&index);
    return rc;
}

int memory_write(const struct memory_source *from, const struct base_view *view, bool shares, const struct buf *state, int dir_fd, const char *name,
                 struct memory_written *out, struct err *e) {
    struct memory_index x = {0};
    struct scan s = {.from = from, .view = view, .shares = shares && view && view->pagemap_fd >= 0, .index = &x};
    if (!(s.sink = sink_open(dir_fd, name, e))) return -1;
    scan_open(&s);
    if (state->len) buf_append(&x.state, state->data, state->len);
    int rc = memory_map_read(&x.map, from->maps_fd, e);
    if (!rc) rc = vdso_digest(from->memory_fd, &x.map, x.vdso_digest, e);
    if (!rc) rc = write_header(s.sink, e);
    if (!rc) rc = take_areas(&s, &x.map, e);
    if (!rc) rc = write_index(&s, &x, out, e);
    out->data_pages = s.data_pages;
    out->base_pages = s.base_pages;
    if (rc) sink_drop(s.sink);
    else rc = sink_close(s.sink, out->digest, e);
    memory_index_free(&x);
    free(s.own);
    free(s.region);
    return rc;
}
