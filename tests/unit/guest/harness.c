#include "harness.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cell.h"

#define CELL_NAMESPACES                                                                                                \
    (CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP)

const char *guest_binary;
const char *guest_layers[2];

int guest_tests_main(int argc, char **argv, const char *name, const struct CMUnitTest *tests, size_t n) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s PATH-OF-CELLA-GUEST\n", argv[0]);
        return 2;
    }
    if (geteuid() != 0) {
        fprintf(stderr, "%s: needs root: the guest changes identities\n", name);
        return 77; /* meson shows it as SKIP */
    }
    guest_binary = argv[1];
    (void)signal(SIGPIPE, SIG_IGN);
    return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}

/* The binary as the keeper holds it: in memory, of no file system, so that Landlock has no say about it. */
static int binary_in_memory(void) {
    int file = open(guest_binary, O_RDONLY | O_CLOEXEC), copy = memfd_create("cella-guest", MFD_CLOEXEC);
    if (file < 0 || copy < 0) _exit(99);
    while (sendfile(copy, file, NULL, 1 << 20) > 0) continue;
    close(file);
    return copy;
}

static void place_layers(void) {
    for (int i = 0; i < 2; i++) {
        int fd = guest_layers[i] ? open(guest_layers[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (guest_layers[i] && dup2(fd, GUEST_FD_LAYER + i) < 0) _exit(99);
    }
}

static _Noreturn void run_guest(int fd, enum guest_mode mode, const char *root, const int go[2]) {
    char mapped;
    close(go[1]);
    if (read(go[0], &mapped, 1) != 1) _exit(96);
    int binary = binary_in_memory();
    if (dup2(fd, GUEST_FD_STREAM) < 0 || dup2(fd, GUEST_FD_SLOTS) < 0) _exit(99);
    mode == GUEST_IN_CELL ? cell_enter(root) : place_layers();
    char *argv[] = {"cella-guest", NULL};
    /* The keeper passes nothing. Leak checking needs a dumpable process, which the guest is not. */
    char *envp[] = {MEMORY_SCALE > 1 ? "ASAN_OPTIONS=detect_leaks=0:disable_coredump=0" : NULL, NULL};
    fexecve(binary, argv, envp);
    _exit(98);
}

struct guest *guest_start(enum guest_mode mode) {
    int pair[2];
    struct guest *g = calloc(1, sizeof *g);
    assert_non_null(g);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    if (mode == GUEST_IN_CELL) cell_root_make(g->root, sizeof g->root);
    int go[2], flags = mode == GUEST_IN_CELL ? CELL_NAMESPACES : 0;
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    g->pid = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
    assert_true(g->pid >= 0);
    if (g->pid == 0) run_guest(pair[1], mode, g->root, go);
    if (mode == GUEST_IN_CELL) cell_map_ids(g->pid);
    assert_int_equal(write(go[1], "", 1), 1);
    close(go[0]);
    close(go[1]);
    close(pair[1]);
    g->fd = pair[0];
    g->next_channel = 1;
    for (int64_t end = monotonic_ms() + WAIT_MS; !g->hellos;)
        if (!guest_pump(g, 1000) && (g->eof || monotonic_ms() > end)) fail_msg("the guest did not say HELLO");
    return g;
}

int guest_wait_exit(struct guest *g) {
    for (int64_t end = monotonic_ms() + WAIT_MS; g->pid; usleep(1000)) {
        if (waitpid(g->pid, &g->exit_status, WNOHANG) == g->pid) g->pid = 0;
        if (monotonic_ms() > end) fail_msg("the guest did not exit");
    }
    return g->exit_status;
}

void guest_stop(struct guest *g) {
    close(g->fd);
    assert_int_equal(guest_wait_exit(g), 0);
    for (size_t i = 0; i < CHANNELS; i++) {
        struct channel_seen *c = &g->channels[i];
        buf_free(&c->out);
        buf_free(&c->err);
        buf_free(&c->reply);
        buf_free(&c->end);
    }
    if (g->root[0]) cell_root_remove(g->root);
    free(g);
}

void guest_frame_send(struct guest *g, uint16_t type, uint16_t flags, uint32_t channel, const void *bytes, size_t n) {
    static uint8_t packet[WIRE_PACKET_MAX];
    size_t len = 0;
    assert_true(frame_put(packet, &len, type, flags, channel, bytes, n));
    /* Never block on a guest that itself waits for us: take what it sends meanwhile. */
    while (send(g->fd, packet, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno != EAGAIN) fail_msg("send: %s", strerror(errno));
        if (!guest_pump(g, 10)) usleep(1000);
    }
}

static uint32_t open_text(struct guest *g, const char *text, size_t n) {
    uint32_t channel = g->next_channel++;
    assert_true(channel < CHANNELS);
    g->channels[channel].send_credit = GUEST_WINDOW;
    g->channels[channel].hash = HASH_START;
    for (; n > WIRE_PAYLOAD_MAX; text += WIRE_PAYLOAD_MAX, n -= WIRE_PAYLOAD_MAX)
        guest_frame_send(g, GUEST_OPEN, FRAME_MORE, channel, text, WIRE_PAYLOAD_MAX);
    guest_frame_send(g, GUEST_OPEN, 0, channel, text, n);
    return channel;
}

static uint32_t open_formatted(struct guest *g, const char *fmt, va_list ap) {
    char *text = NULL;
    int n = vasprintf(&text, fmt, ap);
    assert_true(n >= 0);
    uint32_t channel = open_text(g, text, (size_t)n);
    free(text);
    return channel;
}

uint32_t guest_open(struct guest *g, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    uint32_t channel = open_formatted(g, fmt, ap);
    va_end(ap);
    return channel;
}

uint32_t hash_more(uint32_t h, const void *bytes, size_t n) {
    for (const uint8_t *p = bytes; n--; p++) h = (h ^ *p) * 16777619u;
    return h;
}

static void file_data(struct guest *g, struct channel_seen *c, const struct frame *f) {
    c->out_total += f->length;
    c->hash = hash_more(c->hash, f->payload, f->length);
    if (!c->discard) buf_append(f->type == GUEST_DATA ? &c->out : &c->err, f->payload, f->length);
    uint32_t bytes = htole32(f->length);
    if (!c->no_credit && f->length) guest_frame_send(g, GUEST_CREDIT, 0, f->channel, &bytes, sizeof bytes);
}

static void file_frame(struct guest *g, const struct frame *f) {
    assert_true(f->channel < CHANNELS);
    struct channel_seen *c = &g->channels[f->channel];
    uint32_t bytes;
    if (c->ended && f->channel && !g->any_frames) fail_msg("frame %u after END of channel %u", f->type, f->channel);
    switch (f->type) {
    case GUEST_HELLO: g->hellos++; break;
    case GUEST_DATA:
    case GUEST_DATA_ERR: file_data(g, c, f); break;
    case GUEST_REPLY: buf_append(&c->reply, f->payload, f->length); break;
    case GUEST_END:
        buf_append(&c->end, f->payload, f->length);
        c->ended = !(f->flags & FRAME_MORE);
        break;
    case GUEST_CREDIT:
        assert_int_equal(f->length, 4);
        memcpy(&bytes, f->payload, 4);
        c->send_credit += le32toh(bytes);
        assert_true(c->send_credit <= GUEST_WINDOW);
        break;
    default: fail_msg("frame type %u", f->type);
    }
}

bool guest_pump(struct guest *g, int timeout_ms) {
    struct pollfd p = {.fd = g->fd, .events = POLLIN};
    if (g->eof || poll(&p, 1, timeout_ms) <= 0) return false;
    uint8_t *packet = malloc(WIRE_PACKET_MAX); /* not static: file_frame may come back here through a full socket */
    assert_non_null(packet);
    ssize_t n = recv(g->fd, packet, WIRE_PACKET_MAX, MSG_DONTWAIT);
    struct frame f;
    size_t at = 0;
    int got = 0;
    if (n == 0 || (n < 0 && errno != EAGAIN)) g->eof = true;
    while (n > 0 && (got = frame_next(packet, (size_t)n, &at, &f)) == 1) file_frame(g, &f);
    free(packet);
    assert_int_equal(got, 0);
    return n > 0;
}

static void pump_until(struct guest *g, int64_t deadline, const char *what, uint32_t channel) {
    if (g->eof) fail_msg("the guest went away while the test waited for %s of channel %u", what, channel);
    if (monotonic_ms() > deadline)
        fail_msg("no %s of channel %u; so far: %s", what, channel, g->channels[channel].out.data);
    (void)guest_pump(g, 100);
}

struct channel_seen *guest_wait_end(struct guest *g, uint32_t channel) {
    int64_t deadline = monotonic_ms() + WAIT_MS;
    while (!g->channels[channel].ended) pump_until(g, deadline, "END", channel);
    return &g->channels[channel];
}

void guest_wait_text(struct guest *g, uint32_t channel, const char *text) {
    int64_t deadline = monotonic_ms() + WAIT_MS;
    while (!g->channels[channel].out.data || !strstr(g->channels[channel].out.data, text))
        pump_until(g, deadline, text, channel);
}

void guest_wait_reply(struct guest *g, uint32_t channel) {
    int64_t deadline = monotonic_ms() + WAIT_MS;
    while (!g->channels[channel].reply.len) pump_until(g, deadline, "REPLY", channel);
}

void guest_data(struct guest *g, uint32_t channel, const void *bytes, size_t n, bool eof) {
    struct channel_seen *c = &g->channels[channel];
    const uint8_t *at = bytes;
    int64_t deadline = monotonic_ms() + WAIT_MS;
    do {
        while (n && !c->send_credit && !c->ended) pump_until(g, deadline, "CREDIT", channel);
        if (c->ended) return;
        size_t part = n < WIRE_PAYLOAD_MAX ? n : WIRE_PAYLOAD_MAX;
        if (part > c->send_credit) part = c->send_credit;
        c->send_credit -= part;
        guest_frame_send(g, GUEST_DATA, eof && part == n ? FRAME_EOF : 0, channel, at, part);
        at += part;
        n -= part;
    } while (n);
}

void guest_close(struct guest *g, uint32_t channel) { guest_frame_send(g, GUEST_CLOSE, 0, channel, NULL, 0); }

struct channel_seen *guest_run(struct guest *g, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    uint32_t channel = open_formatted(g, fmt, ap);
    va_end(ap);
    return guest_wait_end(g, channel);
}

void guest_put(struct guest *g, const char *path, const char *text) {
    uint32_t channel = guest_open(g, "{\"op\":\"write\",\"path\":\"%s\"}", path);
    guest_data(g, channel, text, strlen(text), true);
    expect_ok(guest_wait_end(g, channel));
}

const char *guest_sh(struct guest *g, const char *user, const char *fmt, ...) {
    char *command = NULL;
    va_list ap;
    va_start(ap, fmt);
    assert_true(vasprintf(&command, fmt, ap) >= 0);
    va_end(ap);
    json_object *o = json_object_new_object();
    json_object_object_add(o, "op", json_object_new_string("exec"));
    json_object_object_add(o, "user", json_object_new_string(user));
    json_object_object_add(o, "cmd", json_object_new_string(command));
    const char *text = json_object_to_json_string(o);
    struct channel_seen *c = guest_wait_end(g, open_text(g, text, strlen(text)));
    json_object_put(o);
    if (!json_has(&c->end, "exit_code") || json_number(&c->end, "exit_code") != 0)
        fail_msg("`%s`: %s %s", command, c->end.data, c->err.data ? c->err.data : "");
    free(command);
    return c->out.data ? c->out.data : "";
}

static json_object *member(const struct buf *json, const char *key) {
    static json_object *kept;
    json_object *v = NULL;
    json_object_put(kept);
    kept = json->data ? json_tokener_parse(json->data) : NULL;
    return kept && json_object_object_get_ex(kept, key, &v) ? v : NULL;
}

long long json_number(const struct buf *json, const char *key) {
    json_object *v = member(json, key);
    if (!json_object_is_type(v, json_type_int)) fail_msg("no number `%s` in %s", key, json->data);
    return json_object_get_int64(v);
}

const char *json_word(const struct buf *json, const char *key) {
    json_object *v = member(json, key);
    if (!json_object_is_type(v, json_type_string)) fail_msg("no string `%s` in %s", key, json->data);
    return json_object_get_string(v);
}

bool json_has(const struct buf *json, const char *key) { return member(json, key) != NULL; }

void expect_error(const struct channel_seen *c, const char *code) {
    if (!json_has(&c->end, "code") || strcmp(json_word(&c->end, "code"), code))
        fail_msg("expected %s, got %s", code, c->end.data);
    assert_true(strlen(json_word(&c->end, "error")) > 0);
}

void expect_ok(const struct channel_seen *c) {
    if (json_has(&c->end, "error")) fail_msg("%s", c->end.data);
}

long guest_memory_kib(const struct guest *g) {
    char path[64], line[256];
    long kib = -1;
    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)g->pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %ld", &kib) == 1) break;
    fclose(f);
    assert_true(kib > 0);
    return kib;
}
