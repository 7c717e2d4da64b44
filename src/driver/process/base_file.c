/* base_file.c: bases on the disk and the lookups in them. Threads of the pool; nothing here is shared but what is immutable. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "base/log.h"
#include "driver/process/base_file.h"
#include "driver/process/image_scan.h"

#define NAME_MAX_BYTES 200

const uint8_t *base_page(const struct base_file *b, uint64_t address, uint32_t *cursor) {
    const struct page_run *run = b->index.run;
    uint32_t low = *cursor, high = b->index.runs;
    if (low >= high || run[low].address > address) low = 0;
    /* mostly the one at the cursor or the next */
    for (int i = 0; i < 2 && low < high && run[low].address + run[low].pages * PAGE <= address; i++) low++;
    while (low < high && run[low].address + run[low].pages * PAGE <= address) {
        uint32_t middle = low + (high - low) / 2;
        if (run[middle].address + run[middle].pages * PAGE <= address) low = middle + 1;
        else high = middle;
        if (low == high) break;
    }
    *cursor = low;
    if (low >= b->index.runs || run[low].address > address) return NULL;
    static const uint8_t zero[PAGE];
    return run[low].kind == RUN_ZERO ? zero : b->bytes + run[low].offset + (address - run[low].address);
}

int view_page(const struct base_view *v, uint64_t address, size_t *cursor) {
    size_t low = *cursor, high = v->runs;
    if (low >= high || v->same[low].start > address) low = 0;
    while (low < high) {
        size_t middle = v->same[low].end > address ? low : low + (high - low) / 2;
        if (v->same[middle].end > address) high = middle;
        else low = middle + 1;
    }
    *cursor = low;
    return low < v->runs && v->same[low].start <= address ? v->same[low].equal : -1;
}

static void hex_of(const uint8_t digest[IMAGE_DIGEST], char out[2 * IMAGE_DIGEST + 1]) {
    for (int i = 0; i < IMAGE_DIGEST; i++) (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static bool digest_from(const char *hex, uint8_t digest[IMAGE_DIGEST]) {
    if (!hex_valid(hex, 2 * IMAGE_DIGEST)) return false;
    for (int i = 0; i < IMAGE_DIGEST; i++) {
        unsigned byte;
        (void)sscanf(hex + 2 * i, "%2x", &byte);
        digest[i] = (uint8_t)byte;
    }
    return true;
}

static void prefix_of(char out[NAME_MAX_BYTES], const char *template_id, const char *language) {
    (void)snprintf(out, NAME_MAX_BYTES, "%s-%s-", template_id, language);
}

void base_file_free(struct base_file *b) {
    if (!b) return;
    if (b->bytes) (void)munmap((void *)(uintptr_t)b->bytes, b->size);
    memory_index_free(&b->index);
    free(b);
}

static int check(struct base_file *b, const uint8_t digest[IMAGE_DIGEST], struct err *e) {
    uint8_t seen[IMAGE_DIGEST];
    struct memory_trailer t;
    if (b->size < PAGE + sizeof t) return err_set(e, ERR_IMAGE, "a base is cut off");
    if (digest_of(b->bytes, b->size, seen, e)) return -1;
    if (memcmp(seen, digest, sizeof seen)) return err_hint(e, ERR_IMAGE, "images made of it cannot be used; new ones can be made", "a base of images is damaged");
    memcpy(&t, b->bytes + b->size - sizeof t, sizeof t);
    if (memory_trailer_check(&t, b->size, e)) return -1;
    return memory_index_parse(&b->index, b->bytes + t.index_offset, t.index_bytes, t.index_offset, 0, e);
}

struct base_file *base_file_open(const char *directory, const char *template_id, const char *language, const uint8_t digest[IMAGE_DIGEST], struct err *e) {
    char path[4096], prefix[NAME_MAX_BYTES], hex[2 * IMAGE_DIGEST + 1];
    struct stat st;
    prefix_of(prefix, template_id, language);
    hex_of(digest, hex);
    (void)snprintf(path, sizeof path, "%s/%s%s.base", directory, prefix, hex);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return err_hint(e, ERR_IMAGE, "it was made on another installation, or STATE/bases was emptied", "the base that the image was made against is not here"), NULL;
    if (fd < 0 || fstat(fd, &st)) return err_sys(e, errno, "open a base of images"), NULL;
    struct base_file *b = calloc(1, sizeof *b);
    if (!b) abort();
    b->size = (size_t)st.st_size;
    memcpy(b->digest, digest, sizeof b->digest);
    void *at = b->size ? mmap(NULL, b->size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    if (at == MAP_FAILED) {
        b->size ? err_sys(e, errno, "map a base of images") : err_set(e, ERR_IMAGE, "a base of images is empty");
        free(b);
        return NULL;
    }
    b->bytes = at;
    if (!check(b, digest, e)) return b;
    base_file_free(b);
    return NULL;
}

bool base_file_newest(const char *directory, const char *template_id, const char *language, uint8_t digest[IMAGE_DIGEST]) {
    char prefix[NAME_MAX_BYTES];
    struct timespec newest = {0};
    bool found = false;
    prefix_of(prefix, template_id, language);
    const size_t n = strlen(prefix);
    cleanup_dir DIR *d = opendir(directory);
    for (struct dirent *f; d && (f = readdir(d));) {
        char hex[2 * IMAGE_DIGEST + 1];
        struct stat st;
        if (strncmp(f->d_name, prefix, n) != 0 || strlen(f->d_name) != n + 2 * IMAGE_DIGEST + 5) continue;
        memcpy(hex, f->d_name + n, sizeof hex - 1);
        hex[sizeof hex - 1] = 0;
        if (!hex_valid(hex, sizeof hex - 1) || fstatat(dirfd(d), f->d_name, &st, AT_SYMLINK_NOFOLLOW)) continue;
        if (found && (st.st_mtim.tv_sec < newest.tv_sec || (st.st_mtim.tv_sec == newest.tv_sec && st.st_mtim.tv_nsec <= newest.tv_nsec))) continue;
        found = digest_from(hex, digest);
        newest = st.st_mtim;
    }
    return found;
}

struct base_file *base_file_make(const char *directory, const char *template_id, const char *language, const struct memory_source *from, struct err *e) {
    char name[NAME_MAX_BYTES], temporary[64], hex[2 * IMAGE_DIGEST + 1], prefix[NAME_MAX_BYTES];
    struct memory_written w;
    const struct buf none = {0};
    if (mkdir(directory, 0700) && errno != EEXIST) return err_sys(e, errno, "make the directory of bases"), NULL;
    cleanup_close int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return err_sys(e, errno, "open the directory of bases"), NULL;
    id_make(temporary, "new-");
    if (memory_write(from, NULL, false, &none, dir, temporary, &w, e)) return NULL;
    prefix_of(prefix, template_id, language);
    hex_of(w.digest, hex);
    (void)snprintf(name, sizeof name, "%.*s%s.base", (int)sizeof prefix - 80, prefix, hex);
    if (renameat(dir, temporary, dir, name) || fsync(dir)) {
        err_sys(e, errno, "keep a base of images");
        (void)unlinkat(dir, temporary, 0);
        return NULL;
    }
    log_info("base of images for %s, template %.12s: %llu MB", language, template_id, (unsigned long long)(w.file_bytes >> 20));
    return base_file_open(directory, template_id, language, w.digest, e);
}

void base_files_tidy(const char *directory) {
    cleanup_dir DIR *d = opendir(directory);
    for (struct dirent *f; d && (f = readdir(d));)
        if (!strncmp(f->d_name, "new-", 4)) (void)unlinkat(dirfd(d), f->d_name, 0);
}
