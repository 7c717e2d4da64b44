/* The builtin and its loop: frames in, DONE out. */
#include "contexts/shell/cella_shell.h"
#include "contexts/shell/json.h"
#include "contexts/shell/variables.h"

#include "wire/context_proto.h"
#include "wire/frame.h"

#include <config.h>

#include <builtins.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <shell.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

extern char *dist_version;
extern int patch_level;

static uint8_t packet[WIRE_PACKET_MAX + 1]; /* one more, to see that a packet is too long */

/* A message that goes on in further frames. */
static struct {
    uint8_t *data;
    size_t len;
    uint16_t type;
    uint32_t channel;
    bool open;
} joined;

/* What a taking-over daemon is told again; `number` 0: nothing ran yet. */
static struct {
    uint32_t number;
    bool interrupted;
    char done[128];
} newest;

static unsigned execution_count;

static _Noreturn void protocol_error(const char *what) {
    fprintf(stderr, "context stream: %s\n", what);
    _exit(3);
}

static void packet_send(const uint8_t *data, size_t n) {
    while (send(CONTEXT_FD, data, n, MSG_NOSIGNAL) < 0) {
        struct pollfd p = {.fd = CONTEXT_FD, .events = POLLOUT};
        if (errno == EAGAIN)
            poll(&p, 1, -1);
        else if (errno != EINTR)
            _exit(0); /* the daemon's end is gone */
    }
}

static void answer_put(uint8_t *out, size_t *len, uint16_t flags) {
    static const char stopped[] = "{\"name\":\"KeyboardInterrupt\",\"value\":\"\",\"traceback\":\"KeyboardInterrupt\"}";
    if (newest.interrupted) frame_put(out, len, CONTEXT_ERROR, flags, newest.number, stopped, sizeof stopped - 1);
    frame_put(out, len, CONTEXT_DONE, flags, newest.number, newest.done, strlen(newest.done));
}

static void send_ready(void) {
    uint8_t out[512];
    size_t len = 0;
    char text[256];
    int n = snprintf(text, sizeof text, "{\"language\":\"bash\",\"version\":\"%s.%d\",\"pid\":%d}", dist_version,
                     patch_level, (int)getpid());
    frame_put(out, &len, CONTEXT_READY, 0, 0, text, (size_t)n);
    packet_send(out, len);
}

static void answer_hello(void) {
    uint8_t out[1024];
    size_t len = 0;
    char text[64];
    if (newest.number) answer_put(out, &len, FRAME_REPLAY);
    int n = snprintf(text, sizeof text, "{\"last\":%u}", newest.number);
    frame_put(out, &len, CONTEXT_STATUS, 0, 0, text, (size_t)n);
    packet_send(out, len);
}

static void execute(uint32_t number, const uint8_t *code, size_t n) {
    static const char *const words[] = {"ok", "error", "interrupted", "exit"};
    int exit_code = 0;
    enum outcome outcome = run_code((const char *)code, n, &exit_code);
    environ_restore();
    fflush(stdout);
    fflush(stderr);
    newest.number = number;
    newest.interrupted = outcome == OUTCOME_INTERRUPTED;
    snprintf(newest.done, sizeof newest.done, "{\"status\":\"%s\",\"exit_code\":%d,\"execution_count\":%u}",
             words[outcome], exit_code, ++execution_count);
    uint8_t out[1024];
    size_t len = 0;
    answer_put(out, &len, 0);
    interrupts_idle(); /* the code may have changed SIGINT's handler */
    packet_send(out, len);
}

static void change_directory(const uint8_t *payload, size_t n) {
    if (n < 2 || payload[0] != '/' || memchr(payload, 0, n) != payload + n - 1)
        protocol_error("working directory is not an absolute path");
    char *quoted = sh_single_quote((const char *)payload);
    size_t size = strlen(quoted) + sizeof "builtin cd -- ";
    char *code = xmalloc(size);
    snprintf(code, size, "builtin cd -- %s", quoted);
    int exit_code;
    run_code(code, size - 1, &exit_code); /* cd says on stderr what is wrong */
    xfree(quoted);
    xfree(code);
    variables_refresh("PWD");
}

/* VARIABLES in as many packets as it takes, then DONE. */
static void inspect(uint32_t number, const uint8_t *payload, size_t n) {
    uint8_t out[WIRE_PACKET_MAX];
    char done[64];
    size_t len = 0;
    struct text text = {0};
    if (!variables_tell((const char *)payload, n, &text)) protocol_error("INSPECT is not what it should be");
    for (size_t at = 0; at < text.len;) {
        size_t part = text.len - at < WIRE_PAYLOAD_MAX ? text.len - at : WIRE_PAYLOAD_MAX;
        len = 0;
        frame_put(out, &len, CONTEXT_VARIABLES, at + part < text.len ? FRAME_MORE : 0, number, text.data + at, part);
        packet_send(out, len);
        at += part;
    }
    xfree(text.data);
    int size = snprintf(done, sizeof done, "{\"status\":\"ok\",\"exit_code\":0,\"execution_count\":%u}", execution_count);
    len = 0;
    frame_put(out, &len, CONTEXT_DONE, 0, number, done, (size_t)size);
    packet_send(out, len);
}

static void be_a_copy(const uint8_t *payload, size_t n) {
    const char *text = (const char *)payload, *at = json_member(text, n, "hostname");
    char *name;
    if (!at || !json_string(&at, text + n, &name)) protocol_error("FORKED without a host name");
    forked(name);
    variables_refresh("HOSTNAME");
    xfree(name);
}

static void set_environment(const uint8_t *payload, size_t n, bool temporary) {
    if (!environ_apply(payload, n, temporary)) protocol_error("environment entry is not NAME=VALUE");
    if (temporary || newest.number) return;
    /* Before anything ran it belongs to the start. */
    for (const char *p = (const char *)payload, *end = p + n; p < end; p += strlen(p) + 1) {
        char *name = substring(p, 0, (int)(strchr(p, '=') - p));
        variables_refresh(name);
        xfree(name);
    }
}

static void handle(uint16_t type, uint32_t channel, const uint8_t *payload, size_t n) {
    switch (type) {
    case CONTEXT_EXECUTE: execute(channel, payload, n); break;
    case CONTEXT_SETENV:
    case CONTEXT_TEMPENV: set_environment(payload, n, type == CONTEXT_TEMPENV); break;
    case CONTEXT_HELLO: answer_hello(); break;
    case CONTEXT_CWD: change_directory(payload, n); break;
    case CONTEXT_FORKED: be_a_copy(payload, n); break;
    case CONTEXT_INSPECT: inspect(channel, payload, n); break;
    case CONTEXT_INPUT_REPLY: break; /* a shell context never asks: standard input is /dev/null */
    default: protocol_error("unknown frame type");
    }
}

/* Add a part to the message under way; true when it is whole. */
static bool join(const struct frame *f) {
    if (joined.open && (f->type != joined.type || f->channel != joined.channel))
        protocol_error("another frame in the middle of a long one");
    if (!joined.open) joined.len = 0;
    if (f->length > CONTEXT_JSON_MAX - joined.len) protocol_error("joined payload too long");
    joined.data = xrealloc(joined.data, joined.len + f->length + 1);
    memcpy(joined.data + joined.len, f->payload, f->length);
    joined.len += f->length;
    joined.type = f->type;
    joined.channel = f->channel;
    joined.open = f->flags & FRAME_MORE;
    return !joined.open;
}

static void handle_packet(size_t n) {
    struct frame f;
    size_t at = 0;
    int got;
    while ((got = frame_next(packet, n, &at, &f)) == 1) {
        if (f.type < CONTEXT_EXECUTE || f.type > CONTEXT_INSPECT ||
            (f.flags & ~(FRAME_MORE | FRAME_EOF | FRAME_REPLAY | FRAME_SVG)))
            protocol_error("unknown frame type or flags");
        if (f.type == CONTEXT_FORKED) joined.open = false; /* the rest went to the original; the daemon sends it again to this copy */
        if (!joined.open && !(f.flags & FRAME_MORE)) {
            handle(f.type, f.channel, f.payload, f.length);
        } else if (join(&f)) {
            handle(joined.type, joined.channel, joined.data, joined.len);
            if (joined.len > WIRE_PACKET_MAX) { /* rare: do not keep the memory */
                xfree(joined.data);
                joined.data = NULL;
            }
        }
    }
    if (got < 0) protocol_error("malformed packet");
}

/* Does the packet hold an EXECUTE, or a part of one? */
static bool holds_execution(size_t n) {
    struct frame f;
    size_t at = 0;
    while (frame_next(packet, n, &at, &f) == 1)
        if (f.type == CONTEXT_EXECUTE) return true;
    return joined.open && joined.type == CONTEXT_EXECUTE;
}

static _Noreturn void serve(void) {
    struct pollfd p = {.fd = CONTEXT_FD, .events = POLLIN};
    for (;;) {
        if (poll(&p, 1, -1) < 0) continue; /* EINTR: a child of an earlier execution ended */
        interrupts_arm();
        ssize_t n = recv(CONTEXT_FD, packet, sizeof packet, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) _exit(0);
        if (n > WIRE_PACKET_MAX) protocol_error("packet too long");
        if (!holds_execution((size_t)n)) interrupts_forget();
        handle_packet((size_t)n);
        if (!joined.open) interrupts_idle();
    }
}

static int cella_serve_builtin(WORD_LIST *arguments) {
    (void)arguments;
    const char *direct = getenv("CELLA_KERNEL_DIRECT");
    bool copied = !direct || strcmp(direct, "1") != 0;
    unbind_variable("CELLA_KERNEL_DIRECT");
    interrupts_idle();
    variables_start(); /* here, so that its pages are shared */
    if (copied)
        wait_to_be_copied();
    else
        fcntl(CONTEXT_FD, F_SETFD, FD_CLOEXEC);
    wake_up();
    static const char *const woken[] = {"HOSTNAME", "UID", "EUID", "PPID"};
    for (size_t i = 0; i < sizeof woken / sizeof *woken; i++) variables_refresh(woken[i]);
    interrupts_start();
    interrupts_idle(); /* first of all: the copy has a process id of its own */
    if (copied) change_directory((const uint8_t *)"/workspace", sizeof "/workspace");
    send_ready();
    serve();
}

static char *const documentation[] = {"Serve the context stream; never returns.", NULL};

__attribute__((visibility("default"))) struct builtin cella_serve_struct = {
    "cella_serve", cella_serve_builtin, BUILTIN_ENABLED, documentation, "cella_serve", 0};
