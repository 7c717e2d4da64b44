/* Fuzz target (libFuzzer): what a guest sends to the microVM driver: messages on the control connection, pieces of a context; and the manifest of an image of
 * a machine.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c tests/fuzz/machine_fuzz.c \
 *     src/driver/microvm/machine_link.c src/driver/microvm/context_pump.c src/driver/microvm/machine_manifest.c src/driver/image/sealed.c \
 *     src/base/err.c src/base/buf.c src/base/id.c -ljson-c -lcrypto -luv \
 *     -o /tmp/machine_fuzz
 *   /tmp/machine_fuzz -max_total_time=10 tests/fuzz/machine_corpus
 *
 * The first byte chooses: control, a context, a manifest. Behind it packets, each with two bytes of length (little endian) in front.
 *
 * What must hold: nothing is read or written outside; every request is answered exactly once, the end is told at most once; an exit is of a slot that exists; what
 * came through a pipe or the socket is what the pieces held, in their order; an accepted manifest has valid ids. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/id.h"
#include "driver/microvm/context_pump.h"
#include "driver/microvm/machine_link.h"
#include "driver/microvm/machine_manifest.h"
#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static uv_loop_t loop;

static void must(int holds) {
    if (!holds) abort();
}

static void pair(int fd[2]) { must(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd)); }

static void turn(int times) {
    for (int i = 0; i < times; i++) uv_run(&loop, UV_RUN_NOWAIT);
}

/* ---- control ---- */

struct seen {
    int ended, answers;
};

static void on_exit_of(void *arg, int slot, enum context_fate fate, int code) {
    (void)arg;
    must(slot >= 0 && slot < DRIVER_SLOTS && fate >= FATE_EXITED && fate <= FATE_OOM && code >= 0);
}
static void on_end(void *arg, const char *why) {
    (void)why;
    must(++((struct seen *)arg)->ended == 1);
}
static void on_answer(void *arg, struct err *e, const struct machine_message *m) {
    must(!e == !!m);
    ((struct seen *)arg)->answers++;
}

/* A message of the input, with the tag and type of what was asked where it says so (its tag is 1 to 3). */
static void send_message(int fd, const struct machine_message asked[3], const unsigned char *bytes, size_t n) {
    union {
        struct machine_message m;
        unsigned char room[600];
    } u = {.room = {0}};
    memcpy(&u, bytes, n < sizeof u.m ? n : sizeof u.m);
    if (u.m.tag >= 1 && u.m.tag <= 3) u.m.type = asked[u.m.tag - 1].type, u.m.tag = asked[u.m.tag - 1].tag;
    (void)!send(fd, &u, n > sizeof u.m || n < 8 ? n % sizeof u : sizeof u.m, MSG_NOSIGNAL);
}

static void control(const unsigned char *data, size_t size) {
    static const uint32_t types[3] = {MACHINE_HOLD, MACHINE_STATS, MACHINE_RESET};
    struct machine_message asked[3];
    struct seen seen = {0};
    int fd[2];
    pair(fd);
    struct machine_link *l = machine_link_open(&loop, fd[0], &(struct machine_link_events){NULL, on_exit_of, on_end, &seen});
    for (int i = 0; i < 3; i++) {
        asked[i] = (struct machine_message){.type = types[i]};
        machine_call(l, &asked[i], 60000, on_answer, &seen);
    }
    while (size >= 2) {
        size_t n = (size_t)(data[0] | data[1] << 8);
        data += 2, size -= 2;
        if (n > size) n = size;
        send_message(fd[1], asked, data, n);
        data += n, size -= n;
        turn(1);
    }
    machine_link_close(l, false);
    turn(4);
    must(seen.answers == 3);
    close(fd[1]);
}

/* ---- a context ---- */

struct stream { /* what the pieces say should come */
    unsigned char *bytes;
    size_t n, at;
};

static void expect(struct stream *s, const unsigned char *bytes, size_t n) {
    if (!n) return;
    s->bytes = realloc(s->bytes, s->n + n);
    memcpy(s->bytes + s->n, bytes, n);
    s->n += n;
}

static void drain(int fd, struct stream *s) {
    static unsigned char got[WIRE_PACKET_MAX];
    ssize_t n;
    while ((n = read(fd, got, sizeof got)) > 0) {
        must((size_t)n <= s->n - s->at && !memcmp(got, s->bytes + s->at, (size_t)n));
        s->at += (size_t)n;
    }
}

static void context(const unsigned char *data, size_t size) {
    struct seen seen = {0};
    struct stream out = {0}, err = {0}, stream = {0};
    struct context_ends ends;
    struct err e;
    int fd[2];
    pair(fd);
    struct context_pump *p = context_pump_open(&loop, fd[0], false, &(struct context_pump_events){on_end, &seen}, &ends, &e);
    must(p != NULL);
    while (size >= 2) {
        size_t n = (size_t)(data[0] | data[1] << 8);
        data += 2, size -= 2;
        if (n > size) n = size;
        if (n && send(fd[1], data, n, MSG_NOSIGNAL) == (ssize_t)n) {
            if (data[0] == MACHINE_PIECE_STDOUT) expect(&out, data + 1, n - 1);
            if (data[0] == MACHINE_PIECE_STDERR) expect(&err, data + 1, n - 1);
            if (!(data[0] & ~MACHINE_PIECE_MORE)) expect(&stream, data + 1, n - 1);
        }
        data += n, size -= n;
        turn(1);
        drain(ends.stdout_fd, &out);
        drain(ends.stderr_fd, &err);
        drain(ends.control_fd, &stream);
    }
    close(fd[1]);
    for (int i = 0; i < 6; i++) {
        turn(1);
        drain(ends.stdout_fd, &out);
        drain(ends.stderr_fd, &err);
        drain(ends.control_fd, &stream);
    }
    context_pump_close(p);
    close(ends.control_fd), close(ends.stdout_fd), close(ends.stderr_fd);
    turn(2);
    free(out.bytes), free(err.bytes), free(stream.bytes);
}

static void manifest(const unsigned char *data, size_t size) {
    struct machine_manifest m;
    struct err e;
    if (machine_manifest_parse(&m, (const char *)data, size, &e)) {
        must(e.code && *e.text);
        return;
    }
    must(id_valid(m.image_id, "img_") && id_valid(m.base, "bas_") && hex_valid(m.template_id, TEMPLATE_ID_HEX) && m.vcpus);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    static int ready;
    if (!ready) {
        (void)signal(SIGPIPE, SIG_IGN);
        must(!uv_loop_init(&loop));
        ready = 1;
    }
    if (!size) return 0;
    if (data[0] % 3 == 0) control(data + 1, size - 1);
    else if (data[0] % 3 == 1) context(data + 1, size - 1);
    else manifest(data + 1, size - 1);
    turn(3);
    return 0;
}
