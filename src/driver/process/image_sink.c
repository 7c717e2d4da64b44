#include "driver/process/image_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/cleanup.h"

#define PIECES 3 /* one is filled, one is written, one waits */
#define WRITE_SOON (8u << 20) /* the disk begins this early: the fsync at the end finds little left */

struct piece {
    uint8_t *bytes;
    size_t n;
};

/* The thread that reads memory fills pieces; the other takes the digest and writes. */
struct image_sink {
    int dir_fd, fd;
    char name[128];
    uint64_t at;
    EVP_MD_CTX *sha;
    struct piece piece[PIECES];
    uv_mutex_t lock;
    uv_cond_t changed;
    uv_thread_t thread;
    unsigned filled, written; /* counted; piece k is piece[k % PIECES] */
    bool over;
    int failed; /* errno of the writer */
    bool threaded;
};

static int write_all(int fd, const uint8_t *p, size_t n) {
    while (n) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return put ? errno : EIO;
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static void take_piece(struct image_sink *s, const struct piece *p, uint64_t *done, uint64_t *told) {
    if (!s->failed && !EVP_DigestUpdate(s->sha, p->bytes, p->n)) s->failed = EIO;
    if (!s->failed) s->failed = write_all(s->fd, p->bytes, p->n);
    *done += p->n;
    if (*done - *told < WRITE_SOON) return;
    (void)sync_file_range(s->fd, (off64_t)*told, (off64_t)(*done - *told), SYNC_FILE_RANGE_WRITE);
    *told = *done;
}

static void writer(void *arg) {
    struct image_sink *s = arg;
    uint64_t done = 0, told = 0;
    uv_mutex_lock(&s->lock);
    for (;;) {
        while (s->written == s->filled && !s->over) uv_cond_wait(&s->changed, &s->lock);
        if (s->written == s->filled) break;
        struct piece *p = &s->piece[s->written % PIECES];
        uv_mutex_unlock(&s->lock);
        take_piece(s, p, &done, &told);
        uv_mutex_lock(&s->lock);
        s->written++;
        uv_cond_broadcast(&s->changed);
    }
    uv_mutex_unlock(&s->lock);
}

static void sink_free(struct image_sink *s) {
    for (int i = 0; i < PIECES; i++) free(s->piece[i].bytes);
    EVP_MD_CTX_free(s->sha);
    close_fd(&s->fd);
    free(s);
}

struct image_sink *sink_open(int dir_fd, const char *name, struct err *e) {
    struct image_sink *s = calloc(1, sizeof *s);
    if (!s) abort();
    s->dir_fd = dir_fd;
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    s->fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->fd < 0) {
        err_sys(e, errno, "make the file %s of an image", name);
        free(s);
        return NULL;
    }
    s->sha = EVP_MD_CTX_new();
    for (int i = 0; i < PIECES; i++)
        if (!(s->piece[i].bytes = malloc(SINK_PIECE))) abort();
    if (!s->sha || !EVP_DigestInit_ex(s->sha, EVP_sha256(), NULL)) {
        err_set(e, ERR_INTERNAL, "no SHA-256");
        (void)unlinkat(dir_fd, name, 0);
        sink_free(s);
        return NULL;
    }
    uv_mutex_init(&s->lock);
    uv_cond_init(&s->changed);
    s->threaded = !uv_thread_create(&s->thread, writer, s);
    return s;
}

uint64_t sink_at(const struct image_sink *s) { return s->at + s->piece[s->filled % PIECES].n; }

/* The piece at hand is full: the writer's now. Without a thread (none to be had) it is written here. */
static int hand_over(struct image_sink *s, struct err *e) {
    struct piece *p = &s->piece[s->filled % PIECES];
    uint64_t done = 0, told = 0;
    int failed;
    if (!p->n) return s->failed ? err_sys(e, s->failed, "write the file %s of an image", s->name) : 0;
    s->at += p->n;
    uv_mutex_lock(&s->lock);
    if (!s->threaded) take_piece(s, p, &done, &told), s->written++;
    s->filled++;
    uv_cond_broadcast(&s->changed);
    while (s->filled - s->written == PIECES) uv_cond_wait(&s->changed, &s->lock);
    failed = s->failed;
    uv_mutex_unlock(&s->lock);
    s->piece[s->filled % PIECES].n = 0;
    return failed ? err_sys(e, failed, "write the file %s of an image", s->name) : 0;
}

uint8_t *sink_room(struct image_sink *s) {
    const struct piece *p = &s->piece[s->filled % PIECES];
    return p->bytes + p->n;
}

size_t sink_left(const struct image_sink *s) { return SINK_PIECE - s->piece[s->filled % PIECES].n; }

int sink_commit(struct image_sink *s, size_t n, struct err *e) {
    struct piece *p = &s->piece[s->filled % PIECES];
    p->n += n;
    return p->n == SINK_PIECE ? hand_over(s, e) : 0;
}

int sink_write(struct image_sink *s, const void *data, size_t n, struct err *e) {
    const uint8_t *p = data;
    while (n) {
        size_t part = n < sink_left(s) ? n : sink_left(s);
        memcpy(sink_room(s), p, part);
        if (sink_commit(s, part, e)) return -1;
        p += part;
        n -= part;
    }
    return 0;
}

static void join(struct image_sink *s) {
    uv_mutex_lock(&s->lock);
    s->over = true;
    uv_cond_broadcast(&s->changed);
    uv_mutex_unlock(&s->lock);
    if (s->threaded) uv_thread_join(&s->thread);
    uv_mutex_destroy(&s->lock);
    uv_cond_destroy(&s->changed);
}

int sink_close(struct image_sink *s, uint8_t digest[IMAGE_DIGEST], struct err *e) {
    unsigned n = IMAGE_DIGEST;
    int rc = hand_over(s, e);
    join(s);
    if (!rc && s->failed) rc = err_sys(e, s->failed, "write the file %s of an image", s->name);
    if (!rc && !EVP_DigestFinal_ex(s->sha, digest, &n)) rc = err_set(e, ERR_INTERNAL, "no SHA-256");
    if (!rc && fsync(s->fd)) rc = err_sys(e, errno, "bring the file %s of an image to the disk", s->name);
    if (rc) (void)unlinkat(s->dir_fd, s->name, 0);
    sink_free(s);
    return rc;
}

void sink_drop(struct image_sink *s) {
    join(s);
    (void)unlinkat(s->dir_fd, s->name, 0);
    sink_free(s);
}
