#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmm/devices.h"

#define SECTOR 512u
#define SEGMENTS (VQ_SEGMENTS_MAX - 2)

enum { F_SEG_MAX = 1 << 2, F_BLK_SIZE = 1 << 6, F_FLUSH = 1 << 9 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8 };
enum { ST_OK = 0, ST_IOERR = 1, ST_UNSUPPORTED = 2 };

struct block {
    struct virtio_dev dev;
    unsigned index;
    int fd;
    bool read_only;
    uint64_t sectors;
};
struct block_config {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint32_t geometry, blk_size;
};
struct request {
    uint32_t type, reserved;
    uint64_t sector;
};

static void config(struct virtio_dev *d, uint32_t offset, void *to, unsigned n) {
    const struct block *b = (struct block *)d;
    const struct block_config c = {.capacity = b->sectors, .seg_max = SEGMENTS, .blk_size = SECTOR};
    virtio_config_bytes(&c, sizeof c, offset, to, n);
}

/* Move n bytes at the given place; the segments are the guest's own pages, which the kernel copies from or to once. */
static int move(const struct block *b, bool writes, struct iovec *v, unsigned k, uint64_t at, size_t n) {
    while (n) {
        const ssize_t did = writes ? pwritev(b->fd, v, (int)k, (off_t)at) : preadv(b->fd, v, (int)k, (off_t)at);
        if (did < 0 && errno == EINTR) continue;
        if (did <= 0) return -1;
        n -= (size_t)did, at += (uint64_t)did;
        for (size_t left = (size_t)did; k && left;) {
            const size_t take = left < v->iov_len ? left : v->iov_len;
            v->iov_base = (uint8_t *)v->iov_base + take, v->iov_len -= take, left -= take;
            if (!v->iov_len) v++, k--;
        }
    }
    return 0;
}

static int transfer(const struct block *b, const struct vq_chain *c, const struct request *r, size_t n) {
    struct iovec v[VQ_SEGMENTS_MAX];
    const bool writes = r->type == T_OUT;
    if (n % SECTOR || r->sector > b->sectors || n / SECTOR > b->sectors - r->sector || (writes && b->read_only)) return ST_IOERR;
    const unsigned k = vq_slice(c, !writes, writes ? sizeof *r : 0, n, v);
    return move(b, writes, v, k, r->sector * SECTOR, n) < 0 ? ST_IOERR : ST_OK;
}

/* Does the request; the status byte is the last writable one. Returns the bytes written, or -1 when the request is none. */
static int64_t serve(const struct block *b, const struct vq_chain *c) {
    struct request r;
    if (!vq_read(c, 0, &r, sizeof r) || !c->in_bytes) return -1;
    const size_t in = c->in_bytes - 1, out = c->out_bytes - sizeof r;
    uint8_t status = ST_UNSUPPORTED;
    char id[20] = {0};
    size_t wrote = 0;
    if (r.type == T_IN) status = (uint8_t)transfer(b, c, &r, in), wrote = in;
    if (r.type == T_OUT) status = (uint8_t)transfer(b, c, &r, out);
    if (r.type == T_FLUSH) status = !b->read_only && fdatasync(b->fd) < 0 ? ST_IOERR : ST_OK;
    if (r.type == T_GET_ID) {
        snprintf(id, sizeof id, "cella-disk-%u", b->index);
        wrote = in < sizeof id ? in : sizeof id;
        status = vq_write(c, 0, id, wrote) ? ST_OK : ST_IOERR;
    }
    (void)vq_write(c, in, &status, 1);
    return (int64_t)wrote + 1;
}

static void notify(struct virtio_dev *d, unsigned queue) {
    struct vq_chain c;
    for (unsigned n = d->ops->entries; n && virtio_pop(d, queue, &c) == 1; n--) {
        const int64_t wrote = serve((struct block *)d, &c);
        if (wrote < 0) {
            virtio_broken(d);
            return;
        }
        virtio_push(d, queue, &c, wrote > UINT32_MAX ? UINT32_MAX : (uint32_t)wrote);
    }
}

static void save(struct virtio_dev *d, struct state_out *out) { state_put(out, &((struct block *)d)->sectors, sizeof(uint64_t)); }

static int load(struct virtio_dev *d, struct state_in *in) {
    uint64_t sectors;
    return state_get(in, &sectors, sizeof sectors) < 0 || sectors != ((struct block *)d)->sectors ? -1 : 0;
}

static void forked(struct virtio_dev *d) {
    struct block *b = (struct block *)d;
    if (b->read_only || b->fd < 0) return;
    close(b->fd);
    b->fd = -1;
}

static const char *missing(const struct virtio_dev *d) { return ((const struct block *)d)->fd < 0 ? "a disk is not attached" : NULL; }

static const struct virtio_ops block_ops = {.name = "block", .id = 2, .queues = 1, .entries = 256, .features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH, .config = config,
                                            .notify = notify, .save = save, .load = load, .forked = forked, .missing = missing};
static const struct virtio_ops block_ro_ops = {.name = "block", .id = 2, .queues = 1, .entries = 256, .features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | 1 << 5,
                                               .config = config, .notify = notify, .save = save, .load = load, .forked = forked, .missing = missing};

struct virtio_dev *block_make(unsigned index, const struct guest_memory *m, struct virtio_irq irq) {
    struct block *b = calloc(1, sizeof *b);
    if (!b) abort();
    b->index = index, b->fd = -1;
    virtio_init(&b->dev, &block_ops, m, irq);
    return &b->dev;
}

int block_attach(struct virtio_dev *d, int fd, bool read_only, struct err *e) {
    struct block *b = (struct block *)d;
    struct stat st;
    const int mode = fcntl(fd, F_GETFL);
    const off_t end = fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) ? lseek(fd, 0, SEEK_END) : -1;
    const uint64_t sectors = end < 0 ? 0 : (uint64_t)end / SECTOR;
    if (!sectors || mode < 0 || (!read_only && (mode & O_ACCMODE) != O_RDWR)) {
        close(fd);
        return err_set(e, ERR_INVALID, "disk %u is no file of at least one sector that can be %s", b->index, read_only ? "read" : "read and written");
    }
    pthread_mutex_lock(&d->lock);
    const bool other = d->status && (sectors != b->sectors || read_only != b->read_only);
    if (!other) {
        if (b->fd >= 0) close(b->fd);
        b->fd = fd, b->read_only = read_only, b->sectors = sectors;
        d->ops = read_only ? &block_ro_ops : &block_ops;
    }
    pthread_mutex_unlock(&d->lock);
    if (!other) return 0;
    close(fd);
    return err_set(e, ERR_CONFLICT, "disk %u in use has another size or mode", b->index);
}

uint64_t block_bytes(const struct virtio_dev *d) { return ((const struct block *)d)->sectors * SECTOR; }
