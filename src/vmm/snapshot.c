#include "vmm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"

#define RUN_PAGES_MAX 256u  /* one write */
#define MAP_PAGES_MIN 64u   /* a shorter run of kept pages is read, a longer one mapped: about where a fault per page costs more than the copy */
#define READY_PAGES_MAX 16384u /* 64 MiB of mapped pages are in the page tables before the machine runs: at 0.1 us each, well under what a fault costs */
#define MAPS_MAX 1024u      /* the kernel allows 65,530 areas; a machine is not to come near */

static int write_all(int fd, const void *from, size_t n, uint64_t at) {
    for (const uint8_t *p = from; n;) {
        const ssize_t did = pwrite(fd, p, n, (off_t)at);
        if (did < 0 && errno == EINTR) continue;
        if (did < 0) return -1;
        p += did, n -= (size_t)did, at += (uint64_t)did;
    }
    return 0;
}

static int read_all(int fd, void *to, size_t n, uint64_t at) {
    for (uint8_t *p = to; n;) {
        const ssize_t did = pread(fd, p, n, (off_t)at);
        if (did < 0 && errno == EINTR) continue;
        if (did <= 0) return -1;
        p += did, n -= (size_t)did, at += (uint64_t)did;
    }
    return 0;
}

/* ---- out ---- */

static bool is_zero(const uint8_t *page) { return !page[0] && !memcmp(page, page + 1, MEMORY_PAGE - 1); }

static bool wanted(const struct guest_memory *m, uint64_t page, bool changed) {
    return changed ? m->dirty[page / 64] >> page % 64 & 1 : !is_zero(m->base + page * MEMORY_PAGE);
}

/* In the writer: every wanted page at its place, then the id. Returns 0 or an errno. */
static int memory_write(const struct guest_memory *m, int fd, bool changed, const uint8_t id[16], uint64_t *pages) {
    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)m->bytes) < 0) return errno;
    for (uint64_t at = 0, n; at < memory_pages(m); at += n ? n : 1) {
        n = 0;
        while (n < RUN_PAGES_MAX && at + n < memory_pages(m) && wanted(m, at + n, changed)) n++;
        if (n && write_all(fd, m->base + at * MEMORY_PAGE, n * MEMORY_PAGE, at * MEMORY_PAGE) < 0) return errno;
        *pages += n;
    }
    return write_all(fd, id, 16, m->bytes) < 0 ? errno : 0;
}

static void writer_run(const struct machine *m, int memory_fd, int out, bool changed, const uint8_t id[16]) {
    struct snapshot_result r = {.done = 1};
    r.status = memory_write(&m->memory, memory_fd, changed, id, &r.pages);
    _exit(write(out, &r, sizeof r) == sizeof r ? 0 : 1);
}

static int state_write(struct machine *m, int fd, bool changed, const uint8_t id[16], struct err *e) {
    struct snapshot_head h = {.magic = STATE_VM_MAGIC, .version = STATE_VM_VERSION, .memory_bytes = m->memory.bytes, .vcpus = m->vcpus, .has_base = changed,
                              .pages = changed ? memory_dirty_count(&m->memory) : 0};
    for (unsigned i = 0; i < MACHINE_DEVICES_MAX; i++) h.devices |= m->device[i] ? 1u << i : 0;
    memcpy(h.id, id, 16);
    if (changed) memcpy(h.base_id, m->base_id, 16);
    struct buf bytes = {0};
    snapshot_encode(m, &h, m->memory.dirty, &bytes);
    const bool good = ftruncate(fd, 0) == 0 && write_all(fd, bytes.data, bytes.len, 0) == 0;
    const int why = errno;
    buf_free(&bytes);
    return good ? 0 : err_sys(e, why, "write the state");
}

int snapshot_begin(struct machine *m, int state_fd, int memory_fd, bool changed, bool base, int *result_fd, struct err *e) {
    static const uint8_t none[16];
    uint8_t id[16];
    int ends[2];
    if (changed && (!m->memory.dirty || base || !memcmp(m->base_id, none, 16)))
        return err_set(e, ERR_INVALID, "a machine without a base (or without a record of what it wrote) has no changes to keep");
    random_fill(id, sizeof id);
    if (machine_save(m, e) < 0 || machine_harvest(m, e) < 0 || state_write(m, state_fd, changed, id, e) < 0) return -1;
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return err_sys(e, errno, "pipe");
    const pid_t pid = fork();
    if (pid == 0) writer_run(m, memory_fd, ends[1], changed, id);
    const int why = errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return err_sys(e, why, "fork the writer");
    }
    if (base) {
        memcpy(m->base_id, id, 16);
        if (m->memory.dirty) memset(m->memory.dirty, 0, memory_dirty_bytes(&m->memory));
    }
    *result_fd = ends[0];
    return 0;
}

/* ---- in ---- */

static int check_file(const struct guest_memory *m, int fd, const uint8_t id[16], const char *what, struct err *e) {
    uint8_t there[16];
    struct stat st;
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != m->bytes + 16 || read_all(fd, there, 16, m->bytes) < 0)
        return err_set(e, ERR_IMAGE, "%s does not have the size of the machine's memory", what);
    return memcmp(there, id, 16) ? err_set(e, ERR_IMAGE, "%s is not the one that the state belongs to", what) : 0;
}

static int map(struct guest_memory *m, int fd, uint64_t page, uint64_t pages, struct err *e) {
    void *at = m->base + page * MEMORY_PAGE;
    if (mmap(at, pages * MEMORY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)(page * MEMORY_PAGE)) == MAP_FAILED)
        return err_sys(e, errno, "map the memory");
    return 0;
}

/* What a machine wrote since its base is what it works with: it finds those pages in place instead of faulting on each. What goes beyond the bound is
 * only read ahead. Advice: a kernel that does not take it (MADV_POPULATE_READ is of Linux 5.14) costs time only. */
static void prefetch(const struct guest_memory *m, uint64_t page, uint64_t pages, uint64_t *ready) {
    void *at = m->base + page * MEMORY_PAGE;
    const uint64_t now = READY_PAGES_MAX - *ready < pages ? READY_PAGES_MAX - *ready : pages;
    (void)madvise(at, pages * MEMORY_PAGE, MADV_WILLNEED);
    if (now) (void)madvise(at, now * MEMORY_PAGE, MADV_POPULATE_READ);
    *ready += now;
}

/* The pages that the changed machine keeps, over its base. */
static int lay_over(struct guest_memory *m, int fd, const uint64_t *kept, uint64_t *pages, uint64_t *maps, struct err *e) {
    uint64_t ready = 0;
    for (uint64_t at = 0, n; at < memory_pages(m); at += n ? n : 1) {
        n = 0;
        if (!kept[at / 64] && at % 64 == 0) {
            n = 64;
            continue;
        }
        while (at + n < memory_pages(m) && kept[(at + n) / 64] >> (at + n) % 64 & 1) n++;
        if (!n) continue;
        *pages += n;
        if (n >= MAP_PAGES_MIN && *maps < MAPS_MAX) {
            if (map(m, fd, at, n, e) < 0) return -1;
            prefetch(m, at, n, &ready);
            ++*maps;
        } else if (read_all(fd, m->base + at * MEMORY_PAGE, n * MEMORY_PAGE, at * MEMORY_PAGE) < 0) {
            return err_set(e, ERR_IMAGE, "the memory file ends too early");
        }
    }
    return 0;
}

static int memory_restore(struct machine *m, const struct snapshot_head *h, const uint64_t *kept, int memory_fd, int base_fd, uint64_t *pages, uint64_t *maps,
                          struct err *e) {
    struct guest_memory *g = &m->memory;
    if (check_file(g, memory_fd, h->id, "the memory file", e) < 0) return -1;
    if (h->has_base && base_fd < 0) return err_set(e, ERR_INVALID, "the state needs the memory of its base");
    if (h->has_base && check_file(g, base_fd, h->base_id, "the base's memory file", e) < 0) return -1;
    memcpy(m->base_id, h->has_base ? h->base_id : h->id, 16);
    if (g->dirty) memcpy(g->dirty, kept, memory_dirty_bytes(g)); /* what differs from the base so far */
    *maps = 1;
    if (map(g, h->has_base ? base_fd : memory_fd, 0, memory_pages(g), e) < 0) return -1;
    return h->has_base ? lay_over(g, memory_fd, kept, pages, maps, e) : 0;
}

int snapshot_restore(struct machine *m, int state_fd, int memory_fd, int base_fd, uint64_t *pages, uint64_t *maps, struct err *e) {
    struct snapshot_head h;
    if (!m->memory.base || m->vm_fd >= 0) return err_set(e, ERR_CONFLICT, "the machine is not configured, or made already");
    const off_t n = lseek(state_fd, 0, SEEK_END);
    if (n <= 0 || n > (off_t)STATE_BYTES_MAX) return err_set(e, ERR_IMAGE, "a state of %lld bytes", (long long)n);
    cleanup_free uint8_t *bytes = malloc((size_t)n);
    cleanup_free uint64_t *kept = calloc(1, memory_dirty_bytes(&m->memory));
    if (!bytes || !kept || read_all(state_fd, bytes, (size_t)n, 0) < 0) return err_sys(e, EIO, "read the state");
    if (snapshot_decode(m, bytes, (size_t)n, &h, kept, e) < 0 || memory_restore(m, &h, kept, memory_fd, base_fd, pages, maps, e) < 0) return -1;
    if (machine_kvm(m, e) < 0 || machine_load(m, e) < 0) return -1;
    machine_ready(m);
    return 0;
}
