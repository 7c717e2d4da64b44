#include "cli/pty.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/output.h"
#include "cli/websocket.h"

struct session {
    struct websocket *socket;
    bool ended, no_input;
    int exit_code;
    char problem[256];
};

static volatile sig_atomic_t window_changed;
static void on_window_change(int signo) {
    (void)signo;
    window_changed = 1;
}

static void window_size(struct winsize *size) {
    *size = (struct winsize){0};
    (void)ioctl(STDIN_FILENO, TIOCGWINSZ, size);
    if (!size->ws_row) size->ws_row = 24; /* a terminal that does not know its size says 0 */
    if (!size->ws_col) size->ws_col = 80;
}

/* One word for the shell of the cell. */
static void quoted(struct buf *line, const char *word) {
    buf_str(line, " '");
    for (; *word; word++)
        if (*word == '\'')
            buf_str(line, "'\\''");
        else
            buf_append(line, word, 1);
    buf_str(line, "'");
}

/* The terminal's command is a line for the shell; variables go in front of it. */
static void command_line(const struct pty_call *call, struct buf *line) {
    bool has_env = json_object_object_length(call->env) > 0;
    if (!call->command && !has_env) return; /* the daemon's own choice: a login shell */
    buf_str(line, json_object_is_type(call->command, json_type_string) && !has_env ? "" : "exec env");
    json_object_object_foreach(call->env, name, value) {
        struct buf pair = {0};
        buf_printf(&pair, "%s=%s", name, json_object_get_string(value));
        quoted(line, pair.data);
        buf_free(&pair);
    }
    if (!call->command) buf_str(line, " /bin/bash -l");
    if (json_object_is_type(call->command, json_type_string)) {
        if (has_env) buf_str(line, " /bin/sh -c");
        has_env ? quoted(line, json_object_get_string(call->command))
                : buf_str(line, json_object_get_string(call->command));
    }
    for (size_t i = 0;
         json_object_is_type(call->command, json_type_array) && i < json_object_array_length(call->command); i++)
        quoted(line, json_object_get_string(json_object_array_get_idx(call->command, i)));
}

static void path_of(const struct pty_call *call, struct buf *path) {
    struct winsize size;
    char number[16];
    window_size(&size);
    path_cell(path, call->cell, "/exec/pty");
    (void)snprintf(number, sizeof number, "%u", size.ws_row);
    path_query(path, "rows", number);
    (void)snprintf(number, sizeof number, "%u", size.ws_col);
    path_query(path, "cols", number);
    if (call->cwd) path_query(path, "cwd", call->cwd);
    if (call->user) path_query(path, "user", call->user);
    struct buf line = {0};
    command_line(call, &line);
    if (line.len) path_query(path, "cmd", line.data);
    buf_free(&line);
}

static void on_message(void *arg, bool text, const char *bytes, size_t n) {
    struct session *s = arg;
    if (!text) {
        (void)output_write(STDOUT_FILENO, bytes, n);
        return;
    }
    struct buf copy = {0};
    buf_append(&copy, bytes, n);
    struct json_object *message = json_tokener_parse(copy.data);
    buf_free(&copy);
    const char *error = json_text(message, "error", NULL);
    struct json_object *exit_code = NULL;
    if (json_object_is_type(message, json_type_object) && json_object_object_get_ex(message, "exit", &exit_code)) {
        s->ended = true;
        int64_t signo = json_whole(message, "signal", 0);
        s->exit_code = json_object_is_type(exit_code, json_type_int) ? json_object_get_int(exit_code)
                       : signo > 0                                   ? 128 + (int)signo
                                                                     : EXIT_KILLED;
    } else if (error) {
        (void)snprintf(s->problem, sizeof s->problem, "%s", error);
    }
    json_object_put(message);
}

static int send_size(struct session *s, struct err *e) {
    struct winsize size;
    char text[96];
    window_size(&size);
    window_changed = 0;
    int n = snprintf(text, sizeof text, "{\"resize\":{\"rows\":%u,\"cols\":%u}}", size.ws_row, size.ws_col);
    return websocket_send(s->socket, true, text, (size_t)n, e);
}

static int send_keys(struct session *s, struct err *e) {
    char keys[4096];
    ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
    if (n < 0 && errno == EINTR) return 0;
    if (n > 0) return websocket_send(s->socket, false, keys, (size_t)n, e);
    s->no_input = true;
    return websocket_send(s->socket, false, "\x04", 1, e); /* end of file, as the terminal says it */
}

static int loop(struct session *s, struct err *e) {
    for (;;) {
        struct pollfd fds[2] = {{.fd = websocket_fd(s->socket), .events = POLLIN},
                                {.fd = s->no_input ? -1 : STDIN_FILENO, .events = POLLIN}};
        if (websocket_wants_write(s->socket)) fds[0].events |= POLLOUT;
        if (poll(fds, 2, -1) < 0 && errno != EINTR) return err_sys(e, errno, "poll");
        if (window_changed && send_size(s, e) < 0) return -1;
        if ((fds[1].revents & (POLLIN | POLLHUP)) && send_keys(s, e) < 0) return -1;
        int closed = websocket_turn(s->socket, on_message, s, e);
        if (s->ended) return 0;
        if (s->problem[0]) return err_set(e, ERR_INTERNAL, "%s", s->problem);
        if (closed < 0) return -1;
        if (closed) return err_set(e, ERR_LOST, "the connection ended before the process did");
    }
}

int pty_run(const struct cli *cli, const struct pty_call *call, int *exit_code, struct err *e) {
    struct buf path = {0};
    path_of(call, &path);
    struct session s = {.socket = websocket_open(cli, path.data, e)};
    buf_free(&path);
    if (!s.socket) return -1;
    struct termios before, raw;
    bool is_terminal = tcgetattr(STDIN_FILENO, &before) == 0;
    if (is_terminal) {
        raw = before;
        cfmakeraw(&raw);
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    struct sigaction action = {.sa_handler = on_window_change};
    sigaction(SIGWINCH, &action, NULL);
    int result = loop(&s, e);
    if (is_terminal) (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    websocket_close(s.socket);
    *exit_code = s.exit_code;
    return result;
}
