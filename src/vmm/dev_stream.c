#include "vmm/dev_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RX 0
#define TX 1
#define EVENTS 2

static struct stream_conn *find(struct stream *s, uint32_t host_port) {
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++)
        if (s->conn[i].phase != STREAM_FREE && s->conn[i].host_port == host_port) return &s->conn[i];
    return NULL;
}

static void config(struct virtio_dev *d, uint32_t offset, void *to, unsigned n) {
    const uint64_t cid = STREAM_GUEST_CID;
    (void)d;
    virtio_config_bytes(&cid, sizeof cid, offset, to, n);
}

/* ---- towards the guest ---- */

static struct vsock_head head_for(const struct stream_conn *c, uint16_t op) {
    return (struct vsock_head){.src_cid = STREAM_HOST_CID, .dst_cid = STREAM_GUEST_CID, .src_port = c->host_port, .dst_port = c->guest_port, .type = c->type,
                               .op = op, .buf_alloc = STREAM_WINDOW, .fwd_cnt = c->taken};
}

static void say_reset(struct stream *s, struct vsock_head h) {
    h.op = OP_RST, h.len = 0, h.flags = 0;
    if (s->resets < STREAM_RESETS) s->reset[s->resets++] = h;
}

static void reset_conn(struct stream *s, struct stream_conn *c) {
    say_reset(s, head_for(c, OP_RST));
    conn_free(c);
}

/* What this connection has to say next; *payload bytes of to_guest go with it. False: nothing. room: bytes of payload the buffer takes. */
static bool next_of(struct stream_conn *c, struct vsock_head *h, uint32_t room) {
    if (c->phase == STREAM_FREE) return false;
    if (c->say_request) {
        c->say_request = false;
        *h = head_for(c, OP_REQUEST);
        return true;
    }
    if (c->phase != STREAM_OPEN) return false;
    const uint32_t credit = conn_credit(c);
    if (c->guest_message && credit && room) {
        uint32_t n = c->guest_bytes - c->guest_at;
        n = n < credit ? n : credit;
        n = n < room ? n : room;
        *h = head_for(c, OP_RW);
        h->len = n;
        if (c->type == VMM_STREAM_PACKETS && c->guest_at + n == c->guest_bytes) h->flags = SEQ_EOM | SEQ_EOR;
        c->say_credit = false; /* every head carries it */
        return true;
    }
    if (c->say_shutdown && !c->guest_message) {
        c->say_shutdown = false, c->said_shutdown = true;
        *h = head_for(c, OP_SHUTDOWN);
        h->flags = SHUTDOWN_SEND;
        return true;
    }
    if (!c->say_credit) return false;
    c->say_credit = false;
    *h = head_for(c, OP_CREDIT_UPDATE);
    return true;
}

static bool put(struct stream *s, const struct vq_chain *chain, const struct vsock_head *h, struct stream_conn *c) {
    if (!vq_write(chain, 0, h, sizeof *h) || (h->len && !vq_write(chain, sizeof *h, c->to_guest + c->guest_at, h->len))) return false;
    if (h->len) {
        c->guest_at += h->len, c->sent += h->len;
        if (c->guest_at == c->guest_bytes) c->guest_message = false;
    }
    virtio_push(&s->dev, RX, chain, (uint32_t)sizeof *h + h->len);
    return true;
}

/* One packet into the guest: false when nobody has one. */
static bool next(struct stream *s, struct vsock_head *h, struct stream_conn **from, uint32_t room) {
    *from = NULL;
    if (s->resets) {
        *h = s->reset[0];
        memmove(s->reset, s->reset + 1, --s->resets * sizeof *s->reset);
        return true;
    }
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) {
        struct stream_conn *c = &s->conn[(s->turn + i) % VMM_STREAMS_MAX];
        if (c->phase == STREAM_OPEN && conn_credit(c) && conn_fill(c) < 0) {
            *h = head_for(c, OP_RST);
            conn_free(c);
            return true;
        }
        if (!next_of(c, h, room)) continue;
        *from = c, s->turn = (s->turn + i + 1) % VMM_STREAMS_MAX;
        return true;
    }
    return false;
}

static void pump(struct stream *s) {
    struct vq_chain chain;
    struct vsock_head h;
    struct stream_conn *c;
    for (unsigned n = 2u * s->dev.ops->entries; n && virtio_pop(&s->dev, RX, &chain) == 1; n--) { /* then a notification is on its way */
        if (chain.in_bytes < sizeof h) {
            virtio_broken(&s->dev);
            return;
        }
        const size_t room = chain.in_bytes - sizeof h;
        if (!next(s, &h, &c, room < STREAM_PACKET_MAX ? (uint32_t)room : STREAM_PACKET_MAX)) {
            vq_unpop(&s->dev.queue[RX]);
            break;
        }
        if (!put(s, &chain, &h, c)) {
            virtio_broken(&s->dev);
            return;
        }
    }
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++)
        if (s->conn[i].phase != STREAM_FREE) conn_watch(&s->conn[i]);
}

/* ---- from the guest ---- */

static void answer(struct stream *s, struct stream_conn *c, const struct vsock_head *h, const uint8_t *payload) {
    c->peer_window = h->buf_alloc, c->peer_taken = h->fwd_cnt;
    switch (h->op) {
    case OP_RESPONSE:
        if (c->phase == STREAM_ASKED) c->phase = STREAM_OPEN;
        break;
    case OP_RW:
        if (c->phase != STREAM_OPEN || conn_take(c, payload, h->len, h->flags) < 0 || conn_flush(c) < 0) reset_conn(s, c);
        break;
    case OP_SHUTDOWN:
        if (h->flags & SHUTDOWN_SEND) c->guest_done = true;
        if (h->flags & SHUTDOWN_RECEIVE) c->host_done = true, c->guest_message = false;
        (void)conn_flush(c);
        if (c->guest_done && c->host_done && !c->host_bytes) reset_conn(s, c); /* the end of a tidy close, as the guest's kernel expects it */
        break;
    case OP_CREDIT_UPDATE: break;
    case OP_CREDIT_REQUEST: c->say_credit = true; break;
    default: conn_free(c); /* RST, or nonsense */
    }
}

static void take(struct stream *s, const struct vq_chain *chain) {
    static __thread uint8_t payload[STREAM_PACKET_MAX];
    struct vsock_head h;
    if (!vq_read(chain, 0, &h, sizeof h) || h.len > STREAM_PACKET_MAX || !vq_read(chain, sizeof h, payload, h.len)) {
        virtio_broken(&s->dev);
        return;
    }
    struct stream_conn *c = h.dst_cid == STREAM_HOST_CID ? find(s, h.dst_port) : NULL;
    if (c && c->guest_port == h.src_port && c->type == h.type) {
        answer(s, c, &h, payload);
    } else if (h.op != OP_RST) {
        say_reset(s, (struct vsock_head){.src_cid = h.dst_cid, .dst_cid = STREAM_GUEST_CID, .src_port = h.dst_port, .dst_port = h.src_port, .type = h.type});
    }
}

static void notify(struct virtio_dev *d, unsigned queue) {
    struct stream *s = (struct stream *)d;
    struct vq_chain chain;
    for (unsigned n = d->ops->entries; queue == TX && n && virtio_pop(d, TX, &chain) == 1; n--) {
        take(s, &chain);
        if (!virtio_running(d)) return;
        virtio_push(d, TX, &chain, 0);
    }
    if (queue != EVENTS) pump(s);
}

static void ready(struct watch *w, uint32_t events) {
    struct stream_conn *c = (struct stream_conn *)w;
    struct stream *s = c->device;
    pthread_mutex_lock(&s->dev.lock);
    if (c->phase != STREAM_FREE) {
        if (conn_flush(c) < 0 || (events & EPOLLERR && !(events & EPOLLIN)) ) reset_conn(s, c);
        else if (c->guest_done && c->host_done && !c->host_bytes) reset_conn(s, c);
        pump(s);
    }
    pthread_mutex_unlock(&s->dev.lock);
}

static void reset(struct virtio_dev *d) {
    struct stream *s = (struct stream *)d;
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++)
        if (s->conn[i].phase == STREAM_OPEN) conn_free(&s->conn[i]); /* what was only asked for waits for the new driver */
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) s->conn[i].say_request = s->conn[i].phase == STREAM_ASKED;
    s->resets = 0;
}

/* ---- fork and snapshot ---- */

static void forked(struct virtio_dev *d) {
    struct stream *s = (struct stream *)d;
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) {
        struct watch *w = &s->conn[i].watch;
        if (w->fd >= 0) close(w->fd);
        w->fd = -1, w->added = false;
    }
}

struct conn_state {
    uint32_t phase, guest_port, host_port, type, flags, peer_window, peer_taken, sent, taken, guest_bytes, host_bytes, host_payload;
    int32_t open_record;
};
enum { C_REQUEST = 1, C_SHUTDOWN = 2, C_SAID = 4, C_HOST_DONE = 8, C_GUEST_DONE = 16 };

static void save(struct virtio_dev *d, struct state_out *out) {
    struct stream *s = (struct stream *)d;
    const uint32_t n = stream_count(d);
    state_put(out, &n, sizeof n);
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) {
        const struct stream_conn *c = &s->conn[i];
        if (c->phase == STREAM_FREE) continue;
        const uint32_t left = c->guest_message ? c->guest_bytes - c->guest_at : 0;
        const struct conn_state k = {.phase = c->phase, .guest_port = c->guest_port, .host_port = c->host_port, .type = c->type, .peer_window = c->peer_window,
            .flags = (c->say_request ? C_REQUEST : 0u) | (c->say_shutdown ? C_SHUTDOWN : 0u) | (c->said_shutdown ? C_SAID : 0u) |
                     (c->host_done ? C_HOST_DONE : 0u) | (c->guest_done ? C_GUEST_DONE : 0u),
            .peer_taken = c->peer_taken, .sent = c->sent, .taken = c->taken, .guest_bytes = left, .host_bytes = c->host_bytes, .host_payload = c->host_payload,
            .open_record = c->open_record};
        state_put(out, &k, sizeof k);
        state_put(out, c->to_guest + (left ? c->guest_at : 0), left);
        state_put(out, c->to_host + c->host_at, c->host_bytes);
    }
}

static struct stream_conn *make_conn(struct stream *s, uint32_t guest_port, uint32_t host_port, uint16_t type) {
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) {
        struct stream_conn *c = &s->conn[i];
        if (c->phase != STREAM_FREE) continue;
        c->to_guest = malloc(STREAM_PACKET_MAX), c->to_host = malloc(2 * STREAM_WINDOW);
        if (!c->to_guest || !c->to_host) abort();
        c->guest_port = guest_port, c->host_port = host_port, c->type = type, c->phase = STREAM_ASKED, c->open_record = -1;
        return c;
    }
    return NULL;
}

/* The records must be what conn_take would have made of them. */
static int check_records(const struct stream_conn *c) {
    uint32_t at = 0, payload = 0;
    while (at < c->host_bytes) {
        uint32_t length;
        if (c->host_bytes - at < 4) return -1;
        memcpy(&length, c->to_host + at, 4);
        if (length > c->host_bytes - at - 4) return -1;
        if (c->open_record == (int32_t)at && at + 4 + length != c->host_bytes) return -1;
        if (length > STREAM_PACKET_MAX && c->type == VMM_STREAM_PACKETS) return -1;
        at += 4 + length, payload += length;
    }
    return payload == c->host_payload && payload <= STREAM_WINDOW && c->open_record < (int32_t)c->host_bytes ? 0 : -1;
}

static int load_conn(struct stream *s, struct state_in *in) {
    struct conn_state k;
    if (state_get(in, &k, sizeof k) < 0 || (k.phase != STREAM_ASKED && k.phase != STREAM_OPEN) || find(s, k.host_port) || k.guest_bytes > STREAM_PACKET_MAX ||
        k.host_bytes > 2 * STREAM_WINDOW || k.open_record < -1 || (k.type != VMM_STREAM_BYTES && k.type != VMM_STREAM_PACKETS))
        return -1;
    struct stream_conn *c = make_conn(s, k.guest_port, k.host_port, (uint16_t)k.type);
    if (!c || state_get(in, c->to_guest, k.guest_bytes) < 0 || state_get(in, c->to_host, k.host_bytes) < 0) return -1;
    c->phase = k.phase, c->peer_window = k.peer_window, c->peer_taken = k.peer_taken, c->sent = k.sent, c->taken = k.taken;
    c->say_request = k.flags & C_REQUEST, c->say_shutdown = k.flags & C_SHUTDOWN, c->said_shutdown = k.flags & C_SAID;
    c->host_done = k.flags & C_HOST_DONE, c->guest_done = k.flags & C_GUEST_DONE;
    c->guest_bytes = k.guest_bytes, c->guest_message = k.guest_bytes > 0;
    c->host_bytes = k.host_bytes, c->host_payload = k.host_payload, c->open_record = k.open_record;
    bool record = k.open_record < 0;
    for (uint32_t at = 0, length; at < c->host_bytes && !record; at += 4 + length) {
        if (c->host_bytes - at < 4) return -1;
        memcpy(&length, c->to_host + at, 4);
        record = (int32_t)at == k.open_record;
        if (length > c->host_bytes - at - 4) return -1;
    }
    return record ? check_records(c) : -1;
}

static int load(struct virtio_dev *d, struct state_in *in) {
    uint32_t n;
    if (state_get(in, &n, sizeof n) < 0 || n > VMM_STREAMS_MAX) return -1;
    while (n--)
        if (load_conn((struct stream *)d, in) < 0) return -1;
    return 0;
}

static const struct virtio_ops stream_ops = {.name = "stream", .id = 19, .queues = 3, .entries = 128, .features = 3 /* STREAM, SEQPACKET */, .config = config,
                                             .notify = notify, .reset = reset, .save = save, .load = load, .forked = forked};

struct virtio_dev *stream_make(const struct guest_memory *m, struct virtio_irq irq, struct loop *l) {
    struct stream *s = calloc(1, sizeof *s);
    if (!s) abort();
    s->loop = l;
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) s->conn[i] = (struct stream_conn){.device = s, .watch = {.fd = -1, .ready = ready}, .open_record = -1};
    virtio_init(&s->dev, &stream_ops, m, irq);
    return &s->dev;
}

/* ---- the driver's side ---- */

static int own(int fd, struct err *e) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0) return 0;
    const int why = errno;
    close(fd);
    return err_sys(e, why, "end of a stream");
}

int stream_connect(struct virtio_dev *d, uint32_t guest_port, uint32_t host_port, unsigned type, int fd, struct err *e) {
    struct stream *s = (struct stream *)d;
    if (own(fd, e) < 0) return -1;
    pthread_mutex_lock(&d->lock);
    const bool good = host_port && (type == VMM_STREAM_BYTES || type == VMM_STREAM_PACKETS);
    struct stream_conn *old = good ? find(s, host_port) : NULL;
    if (old) reset_conn(s, old); /* the same caller again, who has lost it: told to the guest before the new one */
    struct stream_conn *c = good ? make_conn(s, guest_port, host_port, (uint16_t)type) : NULL;
    if (c) {
        c->watch.fd = fd, c->say_request = true;
        pump(s);
    }
    pthread_mutex_unlock(&d->lock);
    if (c) return 0;
    close(fd);
    return !good ? err_set(e, ERR_INVALID, "host port %u or type %u cannot be used", host_port, type) : err_set(e, ERR_LIMIT, "no more than %d streams", VMM_STREAMS_MAX);
}

int stream_attach(struct virtio_dev *d, uint32_t host_port, int fd, struct err *e) {
    struct stream *s = (struct stream *)d;
    if (own(fd, e) < 0) return -1;
    pthread_mutex_lock(&d->lock);
    struct stream_conn *c = find(s, host_port);
    const bool good = c && c->watch.fd < 0;
    if (good) c->watch.fd = fd;
    pthread_mutex_unlock(&d->lock);
    if (good) return 0;
    close(fd);
    return err_set(e, ERR_NOT_FOUND, "no stream %u waits for its end", host_port);
}

void stream_resume(struct virtio_dev *d) {
    struct stream *s = (struct stream *)d;
    pthread_mutex_lock(&d->lock);
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) {
        struct stream_conn *c = &s->conn[i];
        if (c->phase == STREAM_FREE) continue;
        if (c->watch.fd < 0 || conn_flush(c) < 0) reset_conn(s, c);
    }
    pump(s);
    pthread_mutex_unlock(&d->lock);
}

unsigned stream_count(struct virtio_dev *d) {
    unsigned n = 0;
    for (unsigned i = 0; i < VMM_STREAMS_MAX; i++) n += ((struct stream *)d)->conn[i].phase != STREAM_FREE;
    return n;
}
