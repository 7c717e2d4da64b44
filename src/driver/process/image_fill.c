#include "driver/process/image_fill.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/cleanup.h"

#define PIECE (1u << 20)
#define ALONE_BELOW (4u << 20) /* a smaller file is not worth a thread */

static const char *const hint = "the image cannot be used; an older one of the same cell may be whole";

void slot_name(char out[16], int slot) { (void)snprintf(out, 16, "memory-%d", slot); }

void slot_free(struct slot_file *s) {
    close_fd(&s->fd);
    memory_index_free(&s->index);
}

static int read_exactly(int fd, void *to, size_t n, uint64_t offset, struct err *e) {
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (uint8_t *)to + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_sys(e, errno, "read the memory of an image");
        if (!got) return err_hint(e, ERR_IMAGE, hint, "the memory of the image is cut off");
        done += (size_t)got;
    }
    return 0;
}

int slot_open(struct slot_file *s, int dir_fd, int slot, const struct image_slot *m, struct err *e) {
    char name[16];
    uint8_t digest[IMAGE_DIGEST];
    struct stat st;
    slot_name(name, slot);
    *s = (struct slot_file){.fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), .bytes = m->memory.file_bytes, .index_offset = m->memory.index_offset};
    memcpy(s->digest, m->memory.digest, sizeof s->digest);
    if (s->fd < 0 && errno == ENOENT) return err_hint(e, ERR_IMAGE, hint, "the file %s of the image is missing", name);
    if (s->fd < 0 || fstat(s->fd, &st)) return err_sys(e, errno, "open the file %s of an image", name);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != s->bytes) return err_hint(e, ERR_IMAGE, hint, "the file %s of the image has not its size", name);
    cleanup_free uint8_t *index = malloc(m->memory.index_bytes + 1);
    if (!index) abort();
    if (read_exactly(s->fd, index, m->memory.index_bytes, s->index_offset, e) || digest_of(index, m->memory.index_bytes, digest, e)) return -1;
    if (memcmp(digest, m->memory.index_digest, sizeof digest)) return err_hint(e, ERR_IMAGE, hint, "the file %s of the image is damaged", name);
    return memory_index_parse(&s->index, index, m->memory.index_bytes, s->index_offset, 1, e);
}

/* ---- the digest of the whole file ---- */

struct check {
    const struct slot_file *file;
    int rc;
    struct err err;
};

static void check_digest(void *arg) {
    struct check *c = arg;
    uint8_t digest[IMAGE_DIGEST];
    unsigned n = IMAGE_DIGEST;
    uint8_t *piece = malloc(PIECE);
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    if (!piece || !sha) abort();
    c->rc = EVP_DigestInit_ex(sha, EVP_sha256(), NULL) ? 0 : err_set(&c->err, ERR_INTERNAL, "no SHA-256");
    for (uint64_t at = 0; !c->rc && at < c->file->bytes; at += PIECE) {
        const size_t part = c->file->bytes - at < PIECE ? (size_t)(c->file->bytes - at) : PIECE;
        c->rc = read_exactly(c->file->fd, piece, part, at, &c->err);
        if (!c->rc && !EVP_DigestUpdate(sha, piece, part)) c->rc = err_set(&c->err, ERR_INTERNAL, "no SHA-256");
    }
    if (!c->rc && (!EVP_DigestFinal_ex(sha, digest, &n) || memcmp(digest, c->file->digest, sizeof digest)))
        c->rc = err_hint(&c->err, ERR_IMAGE, hint, "the contents of the image's memory are damaged");
    EVP_MD_CTX_free(sha);
    free(piece);
}

/* ---- pages ---- */

static int write_memory(int memory_fd, const uint8_t *from, size_t n, uint64_t address, struct err *e) {
    while (n) {
        ssize_t put = pwrite(memory_fd, from, n, (off_t)address);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            const int failed = put ? errno : ESRCH;
            err_sys(e, failed, "write the memory of a context at %#llx", (unsigned long long)address);
            if (failed == EIO || failed == ENOMEM || failed == ESRCH) e->hint = "the cell may have less memory than the image needs";
            return -1;
        }
        from += put;
        address += (uint64_t)put;
        n -= (size_t)put;
    }
    return 0;
}

static int write_one(const struct slot_file *s, const struct page_write *w, const struct base_file *base, int memory_fd, uint8_t *piece, uint32_t *cursor, struct err *e) {
    for (uint64_t at = 0; at < w->bytes;) {
        size_t part = w->bytes - at < PIECE ? (size_t)(w->bytes - at) : PIECE;
        const uint8_t *from = piece;
        if (w->kind == RUN_BASE) {
            part = PAGE;
            if (!(from = base_page(base, w->address + at, cursor))) return err_hint(e, ERR_IMAGE, hint, "the image names a page that its base has not");
        } else if (w->kind == RUN_ZERO) {
            memset(piece, 0, part);
        } else if (read_exactly(s->fd, piece, part, w->offset + at, e)) {
            return -1;
        }
        if (write_memory(memory_fd, from, part, w->address + at, e)) return -1;
        at += part;
    }
    return 0;
}

int slot_fill(const struct slot_file *s, const struct thaw_plan *plan, const struct base_file *base, int memory_fd, struct err *e) {
    struct check c = {.file = s};
    uv_thread_t thread;
    const bool apart = s->bytes >= ALONE_BELOW && !uv_thread_create(&thread, check_digest, &c);
    cleanup_free uint8_t *piece = malloc(PIECE);
    uint32_t cursor = 0;
    int rc = 0;
    if (!piece) abort();
    for (size_t i = 0; i < plan->writes && !rc; i++) rc = write_one(s, &plan->write[i], base, memory_fd, piece, &cursor, e);
    if (apart) uv_thread_join(&thread);
    else check_digest(&c);
    if (!c.rc) return rc;
    *e = c.err; /* says more than what came of it */
    return -1;
}
