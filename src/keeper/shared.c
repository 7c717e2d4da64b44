#include "keeper/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "keeper/descriptors.h"

/* Since Linux 6.11; linux/fs.h may be older. */
struct procmap_query {
    uint64_t size, query_flags, query_addr;
    uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
    uint64_t vma_name_addr, build_id_addr;
};
#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)
#define QUERY_SHARED 0x8u
#define QUERY_NEXT 0x10u
#define PAGE 4096ul

struct piece {
    uint64_t start, bytes, offset; /* offset in the file */
    uint32_t prot;
};

/* The first shared mapping at or above `from`; 0: there is none. */
static int next_piece(int maps, uint64_t from, struct piece *p, struct err *e) {
    struct procmap_query q = {.size = sizeof q, .query_flags = QUERY_SHARED | QUERY_NEXT, .query_addr = from};
    if (ioctl(maps, PROCMAP_QUERY, &q)) {
        if (errno == ENOENT) return 0;
        if (errno == ENOTTY) return err_set(e, ERR_UNSUPPORTED, "copies of a running cell need Linux 6.11");
        return err_sys(e, errno, "mappings of a context");
    }
    *p = (struct piece){q.vma_start, q.vma_end - q.vma_start, q.vma_offset, (uint32_t)(q.vma_flags & (PROT_READ | PROT_WRITE | PROT_EXEC))};
    return 1;
}

/* ---- at the capture ---- */

/* Runs of data only: what was never written is not read, and stays unwritten. */
static int copy_data(pid_t copy, int fd, uint64_t offset, uint64_t bytes, uint64_t to, struct err *e) {
    static uint8_t buffer[1 << 20];
    const off_t end = (off_t)(offset + bytes);
    for (off_t at = (off_t)offset; at < end;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) return 0;
        if (data < 0 || data >= end) return data < 0 ? err_sys(e, errno, "read shared memory") : 0;
        off_t hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0 || hole > end) hole = end;
        for (at = data; at < hole;) {
            size_t want = (size_t)(hole - at) < sizeof buffer ? (size_t)(hole - at) : sizeof buffer;
            ssize_t n = pread(fd, buffer, want, at);
            if (n < 0) return err_sys(e, errno, "read shared memory");
            if (n == 0) return 0; /* cut off just now by another process: those pages are zeros */
            if (task_write(copy, to + (uint64_t)at - offset, buffer, (size_t)n, e)) return -1;
            at += n;
        }
    }
    return 0;
}

int shared_take(const struct image *im, pid_t copy, int fd, uint64_t offset, uint64_t bytes, uint64_t want, uint64_t *address, struct err *e) {
    const long arg[6] = {(long)want, (long)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (want ? MAP_FIXED : 0), -1, 0};
    long result;
    if (inject_single(copy, &im->thread[0].regs, SYS_mmap, arg, &result, NULL, e)) return -1;
    if (result < 0 && result > -(long)PAGE) return err_sys(e, (int)-result, "memory for a copy of what is shared");
    *address = (uint64_t)result;
    return fd < 0 ? 0 : copy_data(copy, fd, offset, bytes, *address, e);
}

static const struct image_file *unnamed_of(const struct image *im, const struct stat *st) {
    for (uint32_t i = 0; i < im->files; i++) {
        const struct image_file *f = &im->file[i];
        if (f->head.kind == STATE_UNNAMED && f->head.inode == st->st_ino && f->device == st->st_dev) return f;
    }
    return NULL;
}

static int note_file(struct image *im, const struct piece *p, const struct stat *st, const char *path, struct err *e) {
    struct image_file *f = image_add_file(im);
    size_t n = strlen(path) + 1;
    if (!f || !(f->extra = malloc(n))) return err_set(e, ERR_LIMIT, "the context has too many files and mappings to be copied");
    memcpy(f->extra, path, n);
    f->head = (struct state_file){.fd = -1, .other = -1, .kind = STATE_MAPPING, .flags = p->prot & PROT_WRITE ? O_RDWR : O_RDONLY, .offset = p->start, .inode = st->st_ino,
                                  .mapping_bytes = p->bytes, .mapping_offset = p->offset, .mapping_prot = p->prot, .path_bytes = (uint32_t)n};
    return 0;
}

static int take_memory(struct image *im, const struct piece *p, pid_t copy, const char *at, const struct stat *st, struct copy_budget *left, struct err *e) {
    const struct image_file *open_too = unnamed_of(im, st);
    struct image_file *f;
    uint64_t address;
    cleanup_close int fd = open_too ? -1 : open(at, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (!open_too && fd < 0) return err_sys(e, errno, "open memory that the context shares");
    if (fd >= 0 && (uint64_t)st->st_blocks * 512 > left->bytes)
        return left->by_limit ? err_set(e, ERR_LIMIT, "the memory limit of the sandbox leaves no room for a copy of what it shares")
                              : err_set(e, ERR_LIMIT, "the sandbox shares more than %lu MiB of memory and cannot be copied", SHARED_BYTES_MAX >> 20);
    if (fd >= 0) left->bytes -= (uint64_t)st->st_blocks * 512;
    if (shared_take(im, copy, fd, p->offset, p->bytes, p->start, &address, e)) return -1;
    int other = open_too ? open_too->head.fd : -1; /* before the table moves */
    if (!(f = image_add_file(im))) return err_set(e, ERR_LIMIT, "the context has too many files and mappings to be copied");
    f->head = (struct state_file){.fd = -1, .other = other, .kind = STATE_MAPPING, .offset = p->start, .mapping_bytes = p->bytes,
                                  .mapping_offset = other < 0 ? 0 : p->offset, .mapping_prot = p->prot};
    return 0;
}

/* A mapping of the template's own file that the zygote made (the C library maps its tables so): nobody can write it, in any cell. What was opened for
 * writing may be read-only now and made writable later: the kernel shows that in the mode of the link. */
static bool from_template(const char *at, const struct statx *st, const struct statx *root, uint32_t prot) {
    struct stat link;
    return st->stx_mnt_id != root->stx_mnt_id && !(prot & PROT_WRITE) && !lstat(at, &link) && !(link.st_mode & S_IWUSR);
}

static int take_piece(struct image *im, const struct piece *p, pid_t copy, const struct statx *root, struct copy_budget *left, struct err *e) {
    char at[96], path[STATE_PATH_MAX];
    struct stat st;
    struct statx sx;
    struct statfs fs;
    (void)snprintf(at, sizeof at, "/proc/%d/map_files/%lx-%lx", copy, (unsigned long)p->start, (unsigned long)(p->start + p->bytes));
    if (stat(at, &st) || statfs(at, &fs) || statx(AT_FDCWD, at, 0, STATX_MNT_ID, &sx)) return err_sys(e, errno, "memory that the context shares");
    if (!S_ISREG(st.st_mode)) return err_set(e, ERR_UNSUPPORTED, "the context has a device in its memory and cannot be copied");
    const bool disk = fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC;
    if (disk && from_template(at, &sx, root, p->prot)) return 0;
    if (disk && sx.stx_mnt_id != root->stx_mnt_id) /* memfd_secret(2), say: nobody else can read it */
        return err_set(e, ERR_UNSUPPORTED, "the context shares memory that nobody but itself can read, and cannot be copied");
    ssize_t n = readlink(at, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    if (disk && st.st_nlink && n > 0 && n < (ssize_t)sizeof path - 1) return note_file(im, p, &st, path, e);
    notes_add(&im->notes, KEEPER_NOTE_MAPPING, -1, 0, path);
    return take_memory(im, p, copy, at, &st, left, e);
}

int shared_copy(struct image *im, pid_t leader, pid_t copy, struct copy_budget *left, struct err *e) {
    struct statx root;
    char path[64];
    struct piece p;
    int more;
    (void)snprintf(path, sizeof path, "/proc/%d/maps", copy);
    cleanup_close int maps = open(path, O_RDONLY | O_CLOEXEC);
    if (maps < 0) return err_sys(e, errno, "open %s", path);
    (void)snprintf(path, sizeof path, "/proc/%d/root", leader);
    if (statx(AT_FDCWD, path, 0, STATX_MNT_ID, &root)) return err_sys(e, errno, "root of a context");
    for (uint64_t from = 0; (more = next_piece(maps, from, &p, e)) == 1; from = p.start + p.bytes) {
        if (p.start == STUB_CODE) continue;
        if (left->pieces-- <= 0) return err_set(e, ERR_LIMIT, "the sandbox shares more than %d pieces of memory and cannot be copied", SHARED_PIECES_MAX);
        if (take_piece(im, &p, copy, &root, left, e)) return -1;
    }
    return more;
}

/* ---- in the new context ---- */

#define STEP_BYTES (16ul << 20) /* so that a large piece is never there twice */

struct run {
    uint64_t at, bytes;
};

/* PAGEMAP_SCAN, since Linux 6.7; linux/fs.h may be older. Unlike the page map itself it steps over what has no page table at all: a cell can share
 * terabytes that it never touched. */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct scan)
#define SCAN_PRESENT (1u << 3)
#define SCAN_SWAPPED (1u << 4)

/* The next run of pages that are there, within [from, end); bytes 0: none. */
static int next_run(int pagemap, uint64_t from, uint64_t end, struct run *r, struct err *e) {
    struct scan_region found;
    struct scan q = {.size = sizeof q, .start = from, .end = end, .vec = (uintptr_t)&found, .vec_len = 1, .max_pages = STEP_BYTES / PAGE,
                     .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED, .return_mask = SCAN_PRESENT};
    *r = (struct run){0};
    int n = from < end ? ioctl(pagemap, PAGEMAP_SCAN, &q) : 0;
    if (n < 0) return err_sys(e, errno, "pages of a copy");
    if (n) *r = (struct run){found.start, found.end - found.start};
    return 0;
}

static void add_map(struct reopen *o, const struct state_file *h, int fd, uint64_t offset) {
    size_t call = batch_add(&o->batch, SYS_mmap, (long)h->offset, (long)h->mapping_bytes, h->mapping_prot, MAP_SHARED | MAP_FIXED, fd);
    o->batch.call[call].arg[5] = offset;
}

int shared_fill(struct reopen *o, int fd, uint64_t at, uint64_t bytes, bool drop, struct err *e) {
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%d/pagemap", o->task);
    cleanup_close int pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) return err_sys(e, errno, "open %s", path);
    reopen_start(o);
    for (struct run r = {at, 0};;) {
        if (next_run(pagemap, r.at + r.bytes, at + bytes, &r, e)) return -1;
        if (!r.bytes) return reopen_run(o, e);
        /* the last page may reach beyond the end of the file */
        (void)batch_add(&o->batch, SYS_pwrite64, fd, (long)r.at, (long)(r.bytes < at + bytes - r.at ? r.bytes : at + bytes - r.at), (long)(r.at - at), 0);
        if (drop) batch_try(&o->batch, SYS_madvise, (long)r.at, (long)r.bytes, MADV_DONTNEED, 0, 0);
        if (o->batch.n + 2 < STUB_CALLS_MAX) continue;
        int failed = reopen_run(o, e);
        if (failed) return failed;
        reopen_start(o);
    }
}

/* What is private becomes a memory file's, mapped at the same place. */
static int share_again(struct reopen *o, const struct state_file *h, struct err *e) {
    const char name[8] = "shared";
    const int fd = reopen_lowest(o, 0);
    reopen_start(o);
    reopen_make(o, fd, SYS_memfd_create, (long)reopen_put(o, name, sizeof name), MFD_CLOEXEC, 0, 0);
    (void)batch_add(&o->batch, SYS_ftruncate, fd, (long)h->mapping_bytes, 0, 0, 0);
    int failed = reopen_run(o, e);
    if (!failed) failed = shared_fill(o, fd, h->offset, h->mapping_bytes, true, e);
    if (failed) return failed < 0 ? -1 : err_set(e, ERR_INTERNAL, "memory of a copy could not be filled");
    reopen_start(o);
    add_map(o, h, fd, 0);
    (void)batch_add(&o->batch, SYS_close, fd, 0, 0, 0, 0);
    failed = reopen_run(o, e);
    return failed > 0 ? err_set(e, ERR_INTERNAL, "memory of a copy could not be shared again") : failed;
}

static int map_open_file(struct reopen *o, const struct state_file *h, struct err *e) {
    if (!reopen_is_open(o, h->other)) return 1;
    reopen_start(o);
    add_map(o, h, h->other, h->mapping_offset);
    return reopen_run(o, e);
}

/* The same path in this cell, when it is the same file. 1: it is not. */
static int map_file(struct reopen *o, const struct image_file *f, struct err *e) {
    const int fd = reopen_lowest(o, 0);
    struct stat st;
    reopen_start(o);
    reopen_open(o, fd, f->extra, f->head.flags, 0);
    uint64_t told = reopen_room(o, sizeof st);
    (void)batch_add(&o->batch, SYS_fstat, fd, (long)told, 0, 0, 0);
    int failed = reopen_run(o, e);
    if (failed < 0) return -1;
    bool same = !failed && !task_read(o->task, told, &st, sizeof st, e) && S_ISREG(st.st_mode) && reopen_same(&st, f->head.inode);
    reopen_start(o);
    if (same) add_map(o, &f->head, fd, f->head.mapping_offset);
    batch_try(&o->batch, SYS_close, fd, 0, 0, 0, 0);
    if ((failed = reopen_run(o, e)) < 0) return -1;
    return same ? failed : 1;
}

/* Memory with the last contents of a file that has no counterpart here; never the other cell's file. */
static int map_instead(struct reopen *o, const struct image_file *f, struct err *e) {
    char at[96];
    uint64_t address;
    const struct state_file *h = &f->head;
    (void)snprintf(at, sizeof at, "/proc/%d/map_files/%lx-%lx", o->task, (unsigned long)h->offset, (unsigned long)(h->offset + h->mapping_bytes));
    cleanup_close int fd = o->im->stated ? -1 : open(at, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    notes_add(o->notes, KEEPER_NOTE_MAPPING, -1, 0, f->extra);
    return shared_take(o->im, o->task, fd, h->mapping_offset, h->mapping_bytes, h->offset, &address, e);
}

int shared_open(struct reopen *o, struct err *e) {
    for (uint32_t i = 0; i < o->im->files; i++) {
        const struct image_file *f = &o->im->file[i];
        if (f->head.kind != STATE_MAPPING) continue;
        int rc = f->head.path_bytes ? map_file(o, f, e) : f->head.other >= 0 ? map_open_file(o, &f->head, e) : share_again(o, &f->head, e);
        if (rc > 0 && f->head.path_bytes) rc = map_instead(o, f, e);
        if (rc < 0) return -1; /* rc > 0: its descriptor could not be made, which has a note; the memory is the copy's own in any case */
    }
    return 0;
}
