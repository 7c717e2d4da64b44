/* Fuzz target (libFuzzer): bytes of a hostile cell into the daemon's two links, guest_link and context_link.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c \
 *     tests/fuzz/link_fuzz.c src/cell/guest_link.c src/cell/guest_channel.c src/cell/context_link.c \
 *     src/cell/seqpacket.c src/cell/text.c src/wire/frame.c src/base/err.c src/base/buf.c src/base/id.c \
 *     -luv -ljson-c -o /tmp/link_fuzz
 *   /tmp/link_fuzz -max_total_time=10 tests/fuzz/link_corpus
 *
 * Input: one byte that chooses the link and how its owner behaves, then packets, each a little-endian u16 length and
 * that many bytes; a length of 0 is output on a pipe (context link only). What must hold: a link ends once and says
 * nothing after that; a channel ends once; no more DATA than the window is handed over without credit; JSON handed over
 * is an object. */
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "cell/context_link.h"
#include "cell/guest_link.h"
#include "wire/frame.h"
#include "wire/guest_proto.h"

#define CHANNELS 4
enum {
    CONTEXT = 1,
    CLOSE_IN_CALLBACK = 2,
    TAKEN_OVER = 4,
    NO_CREDIT = 8,
    CLOSE_CHANNELS = 16,
    DETACH = 32,
    WRITE = 64
};

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int holds) {
    if (!holds) abort();
}

static uv_loop_t loop;
static int mode, ends;
static bool closed;
static struct guest_link *guest;
static struct context_link *context;
struct channel {
    struct guest_channel *c;
    size_t unpaid;
    int ended;
};
static struct channel channels[CHANNELS];

static void close_link(void) {
    if (closed) return;
    closed = true;
    if (guest) guest_link_close(guest, "closed by the owner");
    if (context) context_link_close(context);
}

/* ---- the guest link ---- */
static void on_hello(void *arg) { (void)arg, must(!closed && !ends); }
static void on_lost(void *arg, const char *why) {
    (void)arg;
    must(++ends == 1 && !closed && why);
    if (mode & CLOSE_IN_CALLBACK) close_link();
}
static void on_reply(void *arg, struct json_object *o) {
    struct channel *x = arg;
    must(!closed && !ends && !x->ended && json_object_is_type(o, json_type_object));
    if (mode & CLOSE_CHANNELS) guest_channel_close(x->c);
    if (mode & WRITE) guest_channel_write(x->c, "stdin", 5);
}
static void on_data(void *arg, bool is_err, const void *bytes, size_t n) {
    (void)is_err;
    struct channel *x = arg;
    must(!closed && !ends && !x->ended && n > 0);
    volatile unsigned char sum = 0;
    for (size_t i = 0; i < n; i++) sum = (unsigned char)(sum + ((const unsigned char *)bytes)[i]);
    x->unpaid += n;
    must(x->unpaid <= GUEST_WINDOW);
    if (mode & CLOSE_IN_CALLBACK) {
        close_link();
        return;
    }
    if (mode & NO_CREDIT) return;
    guest_channel_consumed(x->c, n);
    x->unpaid = 0;
    if (mode & DETACH) guest_channel_detach(x->c);
}
static void on_room(void *arg) {
    struct channel *x = arg;
    must(!closed && !x->ended);
    guest_channel_write(x->c, "more", 4);
}
static void on_end(void *arg, struct json_object *end, struct err *err) {
    struct channel *x = arg;
    must(++x->ended == 1 && (end == NULL) == (err != NULL));
    if (err) must(err->code && strlen(err->text) < sizeof err->text);
    x->c = NULL;
}
static void open_guest(int fd) {
    static const struct guest_channel_events events = {on_reply, on_data, on_room, on_end};
    static char big[GUEST_WINDOW];
    struct err err;
    struct json_object *op = json_object_new_object();
    guest = guest_link_open(&loop, fd, mode & TAKEN_OVER, &(struct guest_link_events){on_hello, on_lost, NULL});
    for (int i = 0; i < CHANNELS; i++) {
        channels[i] = (struct channel){0};
        channels[i].c = guest_channel_open(guest, op, &events, &channels[i], &err);
        must(channels[i].c != NULL);
        if ((mode & WRITE) && i == 0) guest_channel_write(channels[i].c, big, sizeof big);
    }
    json_object_put(op);
}

/* ---- the context link ---- */
static void on_output(void *arg, bool is_err, const void *bytes, size_t n) {
    (void)arg, (void)is_err;
    must(!closed && n > 0 && bytes);
    if (mode & CLOSE_IN_CALLBACK) close_link();
}
static void on_frame(void *arg, uint16_t type, uint16_t flags, uint32_t execution, struct json_object *json) {
    (void)arg, (void)execution;
    must(!closed && !ends && !(flags & FRAME_MORE) && type >= 32 && json_object_is_type(json, json_type_object));
    if (mode & CLOSE_IN_CALLBACK) close_link();
}
static void on_context_end(void *arg, const char *why) {
    (void)arg, (void)why;
    must(++ends == 1 && !closed);
    if (mode & CLOSE_IN_CALLBACK) close_link();
}

static void turn(void) {
    for (int i = 0; i < 3; i++) uv_run(&loop, UV_RUN_NOWAIT);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static bool ready;
    int pair[2], out[2] = {-1, -1}, err[2] = {-1, -1};
    if (!ready) ready = uv_loop_init(&loop) == 0;
    if (size < 1) return 0;
    static size_t unfinished;
    if (unfinished) abort(); /* the link before this one gave all of it back */
    mode = data[0];
    ends = 0;
    closed = false;
    guest = NULL;
    context = NULL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) abort();
    if (mode & CONTEXT) {
        if (pipe2(out, O_NONBLOCK | O_CLOEXEC) < 0 || pipe2(err, O_NONBLOCK | O_CLOEXEC) < 0) abort();
        context = context_link_open(&loop, &(struct context_ends){pair[0], out[0], err[0]},
                                    &(struct context_link_events){on_output, on_frame, on_context_end, NULL}, &unfinished);
    } else
        open_guest(pair[0]);
    size_t at = 1;
    while (at + 2 <= size && !closed) {
        size_t n = (size_t)data[at] | (size_t)data[at + 1] << 8;
        at += 2;
        if (n > size - at) n = size - at;
        if (n)
            (void)!send(pair[1], data + at, n, MSG_NOSIGNAL);
        else if (out[1] >= 0)
            (void)!write(at & 1 ? out[1] : err[1], "output", 6);
        at += n;
        turn();
    }
    if (context && !closed) context_link_drain(context);
    close(pair[1]);
    turn();
    close_link();
    turn();
    for (int i = 0; guest && i < CHANNELS; i++) must(channels[i].ended == 1 || (mode & DETACH));
    if (out[1] >= 0) close(out[1]), close(err[1]);
    return 0;
}
