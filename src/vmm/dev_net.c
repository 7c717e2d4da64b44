#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmm/devices.h"

#define PACKET_MAX 65550u /* Ethernet's head and the largest IP packet */
#define RX 0
#define TX 1
enum { F_MAC = 1 << 5 };

struct net_head { /* virtio_net_hdr_v1: without offloads all zero but for buffers */
    uint8_t flags, gso;
    uint16_t fields[4], buffers;
};
struct net {
    struct virtio_dev dev;
    struct watch watch;
    struct loop *loop;
    uint8_t mac[6];
    uint8_t held[PACKET_MAX]; /* a packet that came while no buffer was there */
    size_t held_bytes;
};

static struct net *of_watch(struct watch *w) { return (struct net *)((char *)w - offsetof(struct net, watch)); }

static void config(struct virtio_dev *d, uint32_t offset, void *to, unsigned n) {
    virtio_config_bytes(((struct net *)d)->mac, 6, offset, to, n);
}

static bool deliver(struct net *n) {
    const struct net_head h = {.buffers = 1};
    struct vq_chain c;
    if (virtio_pop(&n->dev, RX, &c) != 1) return false;
    const size_t all = sizeof h + n->held_bytes;
    const bool fits = c.in_bytes >= all && vq_write(&c, 0, &h, sizeof h) && vq_write(&c, sizeof h, n->held, n->held_bytes);
    if (!fits) vq_unpop(&n->dev.queue[RX]); /* too small a buffer: that packet is dropped, the buffer stays */
    if (fits) virtio_push(&n->dev, RX, &c, (uint32_t)all);
    n->held_bytes = 0;
    return true;
}

/* From the tap to the guest, until one of the two has nothing more. */
static void pump(struct net *n) {
    if (n->watch.fd < 0) return;
    for (unsigned left = 2u * n->dev.ops->entries; left; left--) { /* so many packets took every buffer twice: a notification is on its way */
        if (!n->held_bytes) {
            const ssize_t got = read(n->watch.fd, n->held, sizeof n->held);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) { /* empty: hear of the next one; a closed other end says nothing ever again */
                if (got < 0 && errno == EAGAIN) loop_watch(n->loop, &n->watch, EPOLLIN);
                return;
            }
            n->held_bytes = (size_t)got;
        }
        if (!virtio_running(&n->dev)) {
            n->held_bytes = 0; /* nobody listens */
            loop_watch(n->loop, &n->watch, EPOLLIN);
            return;
        }
        if (!deliver(n)) return; /* goes on when the driver gives a buffer */
    }
}

static void ready(struct watch *w, uint32_t events) {
    struct net *n = of_watch(w);
    pthread_mutex_lock(&n->dev.lock);
    if (!(events & (EPOLLHUP | EPOLLERR)) || events & EPOLLIN) pump(n);
    pthread_mutex_unlock(&n->dev.lock);
}

static void send_all(struct net *n) {
    struct vq_chain c;
    for (unsigned left = n->dev.ops->entries; left && virtio_pop(&n->dev, TX, &c) == 1; left--) {
        struct iovec v[VQ_SEGMENTS_MAX];
        const size_t head = sizeof(struct net_head);
        if (c.out_bytes > head && c.out_bytes - head <= PACKET_MAX && n->watch.fd >= 0) {
            const unsigned k = vq_slice(&c, false, head, c.out_bytes - head, v);
            while (writev(n->watch.fd, v, (int)k) < 0 && errno == EINTR) continue; /* a full tap drops, like a full wire */
        }
        virtio_push(&n->dev, TX, &c, 0);
    }
}

static void notify(struct virtio_dev *d, unsigned queue) {
    if (queue == TX) send_all((struct net *)d);
    if (queue == RX) pump((struct net *)d);
}

static void save(struct virtio_dev *d, struct state_out *out) { state_put(out, ((struct net *)d)->mac, 6); }
static int load(struct virtio_dev *d, struct state_in *in) { return state_get(in, ((struct net *)d)->mac, 6); }

static void forked(struct virtio_dev *d) {
    struct net *n = (struct net *)d;
    if (n->watch.fd >= 0) close(n->watch.fd);
    n->watch = (struct watch){.fd = -1, .ready = ready};
    n->held_bytes = 0;
}

static const struct virtio_ops net_ops = {.name = "net", .id = 1, .queues = 2, .entries = 256, .features = F_MAC, .config = config, .notify = notify,
                                          .save = save, .load = load, .forked = forked};

struct virtio_dev *net_make(const struct guest_memory *m, struct virtio_irq irq, struct loop *l) {
    struct net *n = calloc(1, sizeof *n);
    if (!n) abort();
    n->watch = (struct watch){.fd = -1, .ready = ready}, n->loop = l;
    virtio_init(&n->dev, &net_ops, m, irq);
    return &n->dev;
}

int net_attach(struct virtio_dev *d, int fd, uint64_t mac, struct err *e) {
    struct net *n = (struct net *)d;
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        const int why = errno;
        close(fd);
        return err_sys(e, why, "network descriptor");
    }
    pthread_mutex_lock(&d->lock);
    if (n->watch.fd >= 0) {
        loop_forget(n->loop, &n->watch);
        close(n->watch.fd);
    }
    n->watch.fd = fd, n->watch.added = false;
    if (mac) memcpy(n->mac, &mac, 6);
    loop_watch(n->loop, &n->watch, EPOLLIN);
    pthread_mutex_unlock(&d->lock);
    return 0;
}
