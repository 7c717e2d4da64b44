#include "cli/exec_input.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/websocket.h"

#define COMMAND_ID 1 /* the only command on this connection */

/* Bytes of the character that c begins, 0 when it begins none; the range of its second byte (RFC 3629, section 4). */
static size_t character(unsigned char c, unsigned char *low, unsigned char *high) {
    *low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    *high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    return c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

size_t utf8_whole(const char *bytes, size_t n, bool *wrong) {
    const unsigned char *p = (const unsigned char *)bytes;
    size_t done = 0;
    *wrong = false;
    while (done < n) {
        unsigned char low, high;
        size_t length = character(p[done], &low, &high);
        for (size_t k = 1; k < length; k++) {
            if (done + k == n) return done; /* cut: the rest comes later */
            if (p[done + k] < low || p[done + k] > high) length = 0;
            low = 0x80;
            high = 0xbf;
        }
        if (length == 0) {
            *wrong = true;
            return done;
        }
        done += length;
    }
    return done;
}

struct session {
    struct exec_input *x;
    struct websocket *socket;
    struct buf part; /* the beginning of a character that was cut */
    bool input_over, ended, unwritable;
    struct err *problem;
    bool failed;
};

static int send_json(struct session *s, struct json_object *taken, struct err *e) {
    const char *text = json_object_to_json_string_ext(taken, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    int result = websocket_send(s->socket, true, text, strlen(text), e);
    json_object_put(taken);
    return result;
}

static struct json_object *message_new(void) {
    struct json_object *m = json_object_new_object();
    json_object_object_add(m, "id", json_object_new_int(COMMAND_ID));
    return m;
}

static int send_start(struct session *s, struct err *e) {
    struct json_object *m = message_new();
    json_object_object_foreach(s->x->body, key, value) json_object_object_add(m, key, json_object_get(value));
    json_object_object_add(m, "stdin", json_object_new_boolean(true));
    return send_json(s, m, e);
}

static int send_text(struct session *s, const char *text, size_t n, struct err *e) {
    struct json_object *m = message_new();
    json_object_object_add(m, "stdin", json_object_new_string_len(text, (int)n));
    return send_json(s, m, e);
}

static int not_text(struct err *e) {
    return err_hint(e, ERR_INVALID, "copy it into the cell with `cella cp - CELL:PATH` and read it there",
                    "stdin is not UTF-8 text");
}

static int send_input(struct session *s, struct err *e) {
    char piece[32768];
    ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
    if (n < 0) return errno == EINTR ? 0 : err_sys(e, errno, "cannot read stdin");
    bool wrong = false;
    buf_append(&s->part, piece, (size_t)n);
    size_t whole = utf8_whole(s->part.data, s->part.len, &wrong);
    if (wrong || (n == 0 && whole < s->part.len)) return not_text(e);
    if (whole > 0 && send_text(s, s->part.data, whole, e) < 0) return -1;
    buf_consume(&s->part, whole);
    if (n > 0) return 0;
    s->input_over = true;
    struct json_object *m = message_new();
    json_object_object_add(m, "stdin_eof", json_object_new_boolean(true));
    return send_json(s, m, e);
}

static void take_exit(struct session *s, struct json_object *message, struct json_object *exit_code) {
    s->ended = true;
    s->x->exit_code = json_object_is_type(exit_code, json_type_int) ? json_object_get_int(exit_code) : -1;
    s->x->signal = (int)json_whole(message, "signal", 0);
    (void)snprintf(s->x->exit_word, sizeof s->x->exit_word, "%s", json_text(message, "status", ""));
    output_truncated(json_object_object_get(message, "truncated"));
}

static void on_message(void *arg, bool is_text, const char *bytes, size_t n) {
    struct session *s = arg;
    struct buf copy = {0};
    buf_append(&copy, bytes, n);
    struct json_object *message = is_text ? json_tokener_parse(copy.data) : NULL, *value = NULL;
    buf_free(&copy);
    const char *stream = json_text(message, "stream", NULL), *error = json_text(message, "error", NULL);
    if (stream && json_object_object_get_ex(message, "data", &value)) {
        const char *text = json_object_get_string(value);
        size_t length = (size_t)json_object_get_string_len(value);
        if (memmem(text, length, "\xef\xbf\xbd", 3)) s->x->replaced = true;
        if (!cell_output(s->x->out, strcmp(stream, "stderr") == 0 ? STDERR_FILENO : STDOUT_FILENO, text, length))
            s->unwritable = true;
    } else if (error && !s->ended) { /* after the end: input that crossed it on the way */
        s->failed = true;
        bool missing = strcmp(json_text(message, "code", ""), ERR_NOT_FOUND) == 0;
        (void)err_set(s->problem, missing ? ERR_NOT_FOUND : ERR_INTERNAL, "%s", error);
    } else if (json_object_is_type(message, json_type_object) && json_object_object_get_ex(message, "exit", &value)) {
        take_exit(s, message, value);
    }
    json_object_put(message);
}

static int loop(struct session *s, struct err *e) {
    while (!s->ended) {
        /* Input waits while earlier input has not left: a slow program costs no memory here. */
        bool full = websocket_wants_write(s->socket);
        struct pollfd fds[2] = {{.fd = websocket_fd(s->socket), .events = (short)(POLLIN | (full ? POLLOUT : 0))},
                                {.fd = s->input_over || full ? -1 : STDIN_FILENO, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR) return err_sys(e, errno, "poll");
        if (interrupted()) return err_set(e, CLI_INTERRUPTED, "interrupted");
        if (fds[1].revents && send_input(s, e) < 0) return -1;
        int closed = websocket_turn(s->socket, on_message, s, e);
        if (s->failed) return -1; /* *e was filled by on_message */
        if (s->unwritable) return err_set(e, ERR_INTERNAL, "cannot write the output");
        if (s->ended) return 0;
        if (closed < 0) return -1;
        if (closed)
            return err_set(e, ERR_LOST, "the connection ended before the process did; its outcome is not known");
    }
    return 0;
}

int exec_input_run(struct exec_input *x, struct err *e) {
    struct buf path = {0};
    path_cell(&path, x->cell, "/exec/ws");
    struct session s = {.x = x, .problem = e, .socket = websocket_open(x->cli, path.data, e)};
    buf_free(&path);
    if (!s.socket) return -1;
    int result = send_start(&s, e);
    if (result == 0) result = loop(&s, e);
    websocket_close(s.socket);
    buf_free(&s.part);
    return result;
}
