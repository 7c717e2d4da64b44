/* A server behind the stream device: accepts every connection, answers each packet.
 *   "e…"  the same bytes     "c"  the counter, one higher each time     "w PAGES"  writes that many pages, answers their sum
 *   "D…"  these bytes into the first sector of the private disk     "d"  16 bytes of it
 *   "r"   16 bytes of the random device     "n"  pages written so far that still hold what was written     "x"  triple fault */
#include "guest.h"

#define BUFFERS 8
#define BUFFER 4096
#define PEERS 8
#define PAGES_AT 0x400000ull

struct head {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port, len;
    u16 type, op;
    u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
struct peer {
    u32 host_port, guest_port, got, bytes;
    u16 type, used;
    u8 packet[65536];
};

static struct ring ring[3], rng[1], disk[1];
static u8 buffer[BUFFERS][BUFFER] __attribute__((aligned(4096)));
static struct {
    struct head head;
    u8 bytes[65536];
} out;
static struct peer peer[PEERS];
static u64 pages_written;

static void send(const struct peer *p, u16 op, u32 flags, const void *bytes, u32 n) {
    out.head = (struct head){3, 2, p->guest_port, p->host_port, n, p->type, op, flags, 256 << 10, p->got};
    if (n) copy(out.bytes, bytes, n);
    ring_add(ring + 1, 0, &(struct part){&out, (u32)sizeof out.head + n, 0}, 1);
    device_notify(W_STREAM, 1);
    (void)ring_wait(ring + 1);
}

static void answer(const struct peer *p, const void *bytes, u32 n) { send(p, 5, p->type == 2 ? 3 : 0, bytes, n); }

static void answer_number(const struct peer *p, u64 n) {
    char text[21];
    unsigned at = 20;
    for (; n || at == 20; n /= 10) text[--at] = (char)('0' + n % 10);
    answer(p, text + at, 20 - at);
}

static u64 pages_touch(u64 n) {
    u64 sum = 0;
    for (u64 i = 0; i < n; i++, pages_written++) *(volatile u64 *)(PAGES_AT + pages_written * 4096) = pages_written + 1, sum += pages_written + 1;
    return sum;
}

static u64 pages_good(void) {
    u64 n = 0;
    for (u64 i = 0; i < pages_written; i++) n += *(volatile u64 *)(PAGES_AT + i * 4096) == i + 1;
    return n;
}

/* The first sector of the second disk, which is the private one where the keeper starts the machine. */
static u8 disk_move(u8 *sector, int reads) {
    static struct {
        u32 type, zero;
        u64 sector;
    } head;
    static volatile u8 status;
    head.type = reads ? 0 : 1, status = 255;
    const struct part parts[] = {{&head, 16, 0}, {sector, 512, reads}, {(void *)&status, 1, 1}};
    ring_add(disk, 0, parts, 3);
    device_notify(W_DISK + 1, 0);
    (void)ring_wait(disk);
    return status;
}

static void disk_serve(struct peer *p) {
    static u8 sector[512] __attribute__((aligned(512)));
    const int reads = p->packet[0] == 'd';
    if (!reads) fill(sector, 0, 512), copy(sector, p->packet + 1, p->bytes - 1 < 512 ? p->bytes - 1 : 512);
    if (disk_move(sector, reads)) answer(p, "bad disk", 8);
    else answer(p, sector, 16);
}

static u64 parse(const u8 *s, u32 n) {
    u64 v = 0;
    for (u32 i = 0; i < n; i++)
        if (s[i] >= '0' && s[i] <= '9') v = v * 10 + (u64)(s[i] - '0');
    return v;
}

static void serve(struct peer *p) {
    const u8 *c = p->packet;
    if (*c == 'e') answer(p, c, p->bytes);
    if (*c == 'c') answer_number(p, ++guest_counter);
    if (*c == 'w') answer_number(p, pages_touch(parse(c, p->bytes)));
    if (*c == 'n') answer_number(p, pages_good());
    if (*c == 'r') {
        static u8 random[16];
        ring_add(rng, 0, &(struct part){random, 16, 1}, 1);
        device_notify(W_RNG, 0);
        (void)ring_wait(rng);
        answer(p, random, 16);
    }
    if (*c == 'd' || *c == 'D') disk_serve(p);
    if (*c == 'x') __asm__ volatile("lidt 0\n int3");
    p->bytes = 0;
}

static struct peer *find(const struct head *h) {
    for (unsigned i = 0; i < PEERS; i++)
        if (peer[i].used && peer[i].host_port == h->src_port) return &peer[i];
    return 0;
}

static void take(const struct head *h, const u8 *payload) {
    struct peer *p = find(h);
    if (h->op == 1 && !p) {
        for (unsigned i = 0; i < PEERS && !p; i++)
            if (!peer[i].used) p = &peer[i];
        if (!p || h->dst_port == 9) { /* port 9 refuses */
            static struct peer stranger;
            stranger.host_port = h->src_port, stranger.guest_port = h->dst_port, stranger.type = h->type;
            send(&stranger, 3, 0, 0, 0);
            return;
        }
        p->host_port = h->src_port, p->guest_port = h->dst_port, p->type = h->type, p->used = 1, p->got = p->bytes = 0;
        send(p, 2, 0, 0, 0);
    } else if (p && h->op == 5) {
        if (h->len > sizeof p->packet - p->bytes) return;
        copy(p->packet + p->bytes, payload, h->len);
        p->bytes += h->len, p->got += h->len;
        send(p, 6, 0, 0, 0); /* credit */
        if (p->type == 1 || h->flags & 1) serve(p);
    } else if (p && h->op == 4) {
        send(p, 4, 3, 0, 0); /* we close too; the host resets */
    } else if (p && h->op == 3) {
        p->used = 0;
    }
}

void run_serve(void) {
    (void)device_start(W_RNG, 0, rng, 1);
    if (device_id(W_DISK + 1) == 2) (void)device_start(W_DISK + 1, 0, disk, 1);
    if (device_start(W_STREAM, 3, ring, 3) < 0) return;
    for (u16 i = 0; i < BUFFERS; i++) ring_add(ring, i, &(struct part){buffer[i], BUFFER, 1}, 1);
    device_notify(W_STREAM, 0);
    print("serving\n");
    for (;;) {
        u16 head;
        u32 bytes;
        if (!ring_poll(ring, &head, &bytes)) {
            __asm__ volatile("pause");
            continue;
        }
        if (bytes >= sizeof(struct head)) take((struct head *)buffer[head], buffer[head] + sizeof(struct head));
        ring_add(ring, head, &(struct part){buffer[head], BUFFER, 1}, 1);
        device_notify(W_STREAM, 0);
    }
}
