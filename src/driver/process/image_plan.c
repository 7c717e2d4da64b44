#include "driver/process/image_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define RESERVE_MAX (1ull << 30) /* larger areas are address space more than memory: not counted as promised */

/* ---- tables ---- */

static struct keeper_calls *table_with_room(struct call_tables *c, size_t scratch) {
    struct keeper_calls *t = c->tables ? &c->table[c->tables - 1] : NULL;
    if (t && t->count < KEEPER_CALLS_MAX && t->scratch_bytes + scratch <= KEEPER_SCRATCH_MAX) return t;
    if (!(c->table = realloc(c->table, (c->tables + 1) * sizeof *c->table))) abort();
    t = &c->table[c->tables++];
    memset(t, 0, sizeof *t);
    return t;
}

static void add(struct call_tables *c, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5) {
    struct keeper_calls *t = table_with_room(c, 0);
    t->call[t->count++] = (struct keeper_one_call){.nr = (uint64_t)nr, .arg = {a0, a1, a2, a3, a4, a5}};
}

/* As the cell's user, in the cell's own root; a link in /proc leads nowhere. */
static void add_open(struct call_tables *c, const char *path) {
    const struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, .resolve = RESOLVE_NO_MAGICLINKS};
    const size_t bytes = strlen(path) + 1, all = sizeof how + (bytes + 7) / 8 * 8;
    struct keeper_calls *t = table_with_room(c, all);
    const uint64_t at = KEEPER_SCRATCH_ADDRESS + t->scratch_bytes;
    memcpy(t->scratch + t->scratch_bytes, &how, sizeof how);
    memcpy(t->scratch + t->scratch_bytes + sizeof how, path, bytes);
    t->scratch_bytes += (uint32_t)all;
    add(c, SYS_openat2, (uint64_t)AT_FDCWD, at + sizeof how, at, sizeof how, 0, 0);
}

static const char *path_in(const struct keeper_calls *t, const struct keeper_one_call *c) {
    const uint64_t at = c->arg[1] - KEEPER_SCRATCH_ADDRESS;
    return at < t->scratch_bytes && memchr(t->scratch + at, 0, t->scratch_bytes - at) ? (const char *)t->scratch + at : "";
}

int thaw_calls_check(const struct keeper_calls *t, struct err *e) {
    for (uint32_t i = 0; i < t->count && i < KEEPER_CALLS_MAX; i++) {
        const struct keeper_one_call *c = &t->call[i];
        if (c->nr == SYS_openat2 && c->ret < 0)
            return err_hint(e, ERR_IMAGE, "the files of an image belong to it; remake the image when the template was changed by hand",
                            "the file %.200s, which the image has in memory, cannot be opened: %s", path_in(t, c), strerror((int)-c->ret));
        const bool wrong = (c->nr == SYS_openat2 && c->ret != PLAN_FD) || ((c->nr == SYS_mmap || c->nr == SYS_brk) && (uint64_t)c->ret != c->arg[0]);
        if (c->ret < 0 && !c->ignore) return err_sys(e, (int)-c->ret, "make the memory of a context again (call %d at %#llx)", (int)c->nr, (unsigned long long)c->arg[0]);
        if (wrong) return err_set(e, ERR_INTERNAL, "the memory of a context could not be made again (call %d at %#llx)", (int)c->nr, (unsigned long long)c->arg[0]);
    }
    return 0;
}

/* ---- areas ---- */

struct planner {
    struct thaw_plan *plan;
    const struct memory_index *want;
    const struct base_view *view;
    struct memory_map now; /* as it will be when the break is set */
    uint32_t run;          /* the first run that does not end before the piece at hand */
    size_t same;
    const char *open;      /* path of the file that stands at PLAN_FD */
};

static bool same_backing(const struct memory_map *nm, const struct area *n, const struct memory_map *wm, const struct area *w) {
    if (area_is_anonymous(w)) return area_is_anonymous(n) && (w->kind == AREA_STACK) == (n->kind == AREA_STACK);
    if (w->kind != AREA_FILE && w->kind != AREA_SHARED_FILE) return false;
    return n->kind == w->kind && n->inode == w->inode && n->offset - n->start == w->offset - w->start && !strcmp(memory_map_path(nm, n), memory_map_path(wm, w));
}

/* The break first: what lies below it is the heap and can grow again. */
static void plan_break(struct planner *p) {
    const struct memory_map *w = &p->want->map;
    struct area *heap = NULL;
    uint64_t end = 0, limit = ADDRESS_END;
    for (uint32_t i = 0; i < w->areas; i++)
        if (w->area[i].kind == AREA_HEAP) end = w->area[i].end;
    for (uint32_t i = 0; i < p->now.areas; i++) {
        if (heap && limit == ADDRESS_END && p->now.area[i].kind != AREA_HEAP) limit = p->now.area[i].start;
        if (p->now.area[i].kind == AREA_HEAP) heap = &p->now.area[i];
    }
    if (!end || !heap || end == heap->end || end <= heap->start || end > limit) return;
    add(&p->plan->before, SYS_brk, end, 0, 0, 0, 0, 0);
    heap->end = end;
}

static void unmap(struct planner *p, uint64_t start, uint64_t end) {
    struct call_tables *c = &p->plan->before;
    struct keeper_calls *t = c->tables ? &c->table[c->tables - 1] : NULL;
    struct keeper_one_call *last = t && t->count ? &t->call[t->count - 1] : NULL;
    if (last && last->nr == SYS_munmap && last->arg[0] + last->arg[1] == start) last->arg[1] += end - start;
    else add(c, SYS_munmap, start, end - start, 0, 0, 0, 0);
}

static bool is_fixed(const struct area *a) { return a->kind == AREA_KERNEL || a->kind == AREA_STUB; }

/* What the image has nothing for goes. */
static void plan_unmap(struct planner *p) {
    const struct memory_map *w = &p->want->map;
    uint32_t k = 0;
    for (uint32_t i = 0; i < p->now.areas; i++) {
        const struct area *n = &p->now.area[i];
        uint64_t at = n->start;
        if (is_fixed(n)) continue;
        while (k < w->areas && w->area[k].end <= n->start) k++;
        for (uint32_t j = k; j < w->areas && w->area[j].start < n->end; j++) {
            if (w->area[j].start > at) unmap(p, at, w->area[j].start);
            at = w->area[j].end;
        }
        if (at < n->end) unmap(p, at, n->end);
    }
}

/* ---- pages ---- */

static void write_pages(struct planner *p, uint64_t address, uint64_t end, enum run_kind kind, uint64_t offset) {
    struct thaw_plan *plan = p->plan;
    struct page_write *last = plan->writes ? &plan->write[plan->writes - 1] : NULL;
    plan->write_bytes += end - address;
    if (last && last->kind == kind && last->address + last->bytes == address && (kind != RUN_DATA || last->offset + last->bytes == offset)) {
        last->bytes += end - address;
        return;
    }
    if (plan->writes == plan->space) {
        plan->space = plan->space ? plan->space * 2 : 256;
        if (!(plan->write = realloc(plan->write, plan->space * sizeof *plan->write))) abort();
    }
    plan->write[plan->writes++] = (struct page_write){address, end - address, kind == RUN_DATA ? offset : 0, kind};
}

/* [address, end) shall be as in the base: only what the copy has not, or has otherwise, is written. */
static void write_base(struct planner *p, uint64_t address, uint64_t end, bool kept) {
    while (address < end) {
        while (p->same < p->view->runs && p->view->same[p->same].end <= address) p->same++;
        const struct same_run *s = p->same < p->view->runs ? &p->view->same[p->same] : NULL;
        const bool inside = s && s->start <= address;
        uint64_t until = !s ? end : inside ? s->end : s->start;
        if (until > end) until = end;
        if (!kept || !inside || !s->equal) write_pages(p, address, until, RUN_BASE, 0);
        address = until;
    }
}

/* [address, end) shall be what the area gives by itself: the interpreter's own pages there go. */
static void drop_pages(struct planner *p, uint64_t address, uint64_t end) {
    while (address < end) {
        while (p->same < p->view->runs && p->view->same[p->same].end <= address) p->same++;
        const struct same_run *s = p->same < p->view->runs ? &p->view->same[p->same] : NULL;
        if (!s || s->start >= end) return;
        const uint64_t from = s->start > address ? s->start : address, until = s->end < end ? s->end : end;
        struct call_tables *c = &p->plan->before;
        struct keeper_calls *t = c->tables ? &c->table[c->tables - 1] : NULL;
        struct keeper_one_call *last = t && t->count ? &t->call[t->count - 1] : NULL;
        if (last && last->nr == SYS_madvise && last->arg[0] + last->arg[1] == from) last->arg[1] += until - from;
        else add(c, SYS_madvise, from, until - from, MADV_DONTNEED, 0, 0, 0);
        address = until;
    }
}

/* The contents of one piece of an area. True when something is written to it. */
static bool plan_pages(struct planner *p, uint64_t start, uint64_t end, bool kept) {
    const struct memory_index *x = p->want;
    const uint64_t before = p->plan->write_bytes;
    uint64_t at = start;
    while (p->run < x->runs && x->run[p->run].address + x->run[p->run].pages * PAGE <= start) p->run++;
    for (uint32_t i = p->run; i < x->runs && x->run[i].address < end; i++) {
        const struct page_run *r = &x->run[i];
        const uint64_t run_end = r->address + r->pages * PAGE, from = r->address > start ? r->address : start, until = run_end < end ? run_end : end;
        if (kept && from > at) drop_pages(p, at, from);
        if (r->kind == RUN_BASE) write_base(p, from, until, kept);
        else write_pages(p, from, until, r->kind, r->offset + (from - r->address));
        at = until;
    }
    if (kept && at < end) drop_pages(p, at, end);
    return p->plan->write_bytes != before;
}

/* ---- pieces ---- */

static void map_piece(struct planner *p, const struct area *w, uint64_t start, uint64_t end, uint32_t prot) {
    struct call_tables *c = &p->plan->before;
    uint64_t flags = MAP_FIXED | MAP_PRIVATE;
    if (w->kind == AREA_FILE) {
        const char *path = memory_map_path(&p->want->map, w);
        if (!p->open || strcmp(p->open, path)) {
            if (p->open) add(c, SYS_close, PLAN_FD, 0, 0, 0, 0, 0);
            add_open(c, path);
            p->open = path;
        }
        add(c, SYS_mmap, start, end - start, prot, flags, PLAN_FD, w->offset + (start - w->start));
        return;
    }
    flags |= MAP_ANONYMOUS | (w->kind == AREA_STACK ? MAP_GROWSDOWN | MAP_STACK : 0) | (end - start > RESERVE_MAX ? MAP_NORESERVE : 0);
    if (w->kind == AREA_SHARED) flags = MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS;
    add(c, SYS_mmap, start, end - start, prot, flags, (uint64_t)-1, 0);
}

/* n: what lies there now and fits, or NULL. Pages can be written only where a protection lets them: with it on the way. */
static void plan_piece(struct planner *p, const struct area *w, uint64_t start, uint64_t end, const struct area *n) {
    const uint32_t open = PROT_READ | PROT_WRITE;
    const bool writes = plan_pages(p, start, end, n != NULL);
    uint32_t prot = w->prot;
    if (writes && !(prot & PROT_WRITE)) prot = open;
    if (!n) map_piece(p, w, start, end, prot);
    else if (!writes || n->prot & PROT_WRITE) prot = n->prot;
    else add(&p->plan->before, SYS_mprotect, start, end - start, prot = open, 0, 0, 0);
    if (prot != w->prot) add(&p->plan->after, SYS_mprotect, start, end - start, w->prot, 0, 0, 0);
}

static void plan_area(struct planner *p, const struct area *w, uint32_t *first) {
    uint64_t at = w->start;
    while (*first < p->now.areas && p->now.area[*first].end <= w->start) (*first)++;
    for (uint32_t i = *first; i < p->now.areas && p->now.area[i].start < w->end; i++) {
        const struct area *n = &p->now.area[i];
        const uint64_t from = n->start > at ? n->start : at, until = n->end < w->end ? n->end : w->end;
        if (!same_backing(&p->now, n, &p->want->map, w)) continue;
        if (from > at) plan_piece(p, w, at, from, NULL);
        plan_piece(p, w, from, until, n);
        at = until;
    }
    if (at < w->end) plan_piece(p, w, at, w->end, NULL);
}

/* The kernel's own pages cannot be put anywhere else; and code in them is called by addresses that memory holds. */
static int check_kernel(const struct planner *p, struct err *e) {
    const struct memory_map *w = &p->want->map;
    for (uint32_t i = 0; i < w->areas; i++) {
        const struct area *a = &w->area[i];
        bool found = a->kind != AREA_KERNEL || a->start >= ADDRESS_END;
        for (uint32_t k = 0; k < p->now.areas && !found; k++)
            found = p->now.area[k].kind == AREA_KERNEL && p->now.area[k].start <= a->start && p->now.area[k].end >= a->end;
        if (!found) return err_hint(e, ERR_IMAGE, "resume it under the kernel it was made with", "this kernel puts its own code elsewhere in memory than the one the image was made with");
    }
    for (uint32_t k = 0; k < p->now.areas; k++)
        for (uint32_t i = 0; i < w->areas && is_fixed(&p->now.area[k]); i++)
            if (!is_fixed(&w->area[i]) && w->area[i].start < p->now.area[k].end && w->area[i].end > p->now.area[k].start)
                return err_hint(e, ERR_IMAGE, "resume it under the kernel it was made with", "memory of the image lies where this kernel puts its own");
    return 0;
}

static void copy_map(struct memory_map *to, const struct memory_map *from) {
    for (uint32_t i = 0; i < from->areas; i++) memory_map_add(to, &from->area[i], memory_map_path(from, &from->area[i]));
}

int thaw_plan_make(struct thaw_plan *plan, const struct memory_map *now, const struct memory_index *want, const struct base_view *view, struct err *e) {
    struct planner p = {.plan = plan, .want = want, .view = view};
    uint32_t first = 0;
    *plan = (struct thaw_plan){0};
    copy_map(&p.now, now);
    int rc = check_kernel(&p, e);
    if (!rc) {
        plan_break(&p);
        plan_unmap(&p);
        for (uint32_t i = 0; i < want->map.areas; i++) {
            const struct area *w = &want->map.area[i];
            if (is_fixed(w) || w->kind == AREA_SHARED_FILE) continue; /* shared files come with the state: wire/context_state.h */
            plan_area(&p, w, &first);
        }
        if (p.open) add(&plan->before, SYS_close, PLAN_FD, 0, 0, 0, 0, 0);
    }
    memory_map_free(&p.now);
    return rc;
}

void thaw_plan_free(struct thaw_plan *p) {
    free(p->before.table);
    free(p->after.table);
    free(p->write);
    *p = (struct thaw_plan){0};
}

int thaw_files_check(const struct memory_map *now, const struct memory_index *want, struct err *e) {
    uint32_t k = 0;
    for (uint32_t i = 0; i < want->map.areas; i++) {
        const struct area *w = &want->map.area[i];
        if (w->kind != AREA_FILE) continue;
        while (k < now->areas && now->area[k].end <= w->start) k++;
        const struct area *n = k < now->areas ? &now->area[k] : NULL;
        if (n && n->start <= w->start && n->kind == AREA_FILE && n->inode == w->inode) continue;
        return err_hint(e, ERR_IMAGE, "the files of an image belong to it; remake the image when the template was changed by hand",
                        "the file %.200s, which the image has in memory, is not the one it was", memory_map_path(&want->map, w));
    }
    return 0;
}
