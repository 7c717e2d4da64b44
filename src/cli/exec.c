/* cella exec */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/cell_options.h"
#include "cli/client.h"
#include "cli/exec_input.h"
#include "cli/lines.h"
#include "cli/output.h"
#include "cli/pty.h"

#define STDIN_MAX (4u << 20) /* bytes of stdin in one JSON request (-o json); otherwise it is streamed */

struct exec {
    bool interactive, terminal, background, raw;
    const char *cwd, *user;
    struct words env, words;
    double timeout;
    /* what the stream said */
    struct cell_output out;
    bool ended, replaced;
    int exit_code, signal;
    char exit_word[16];
    struct err problem;
    char hint[256];
};

static int read_stdin(struct buf *text, struct err *e) {
    char piece[65536];
    for (ssize_t n; (n = read(STDIN_FILENO, piece, sizeof piece)) != 0;) {
        if (n < 0 && interrupted()) return err_set(e, CLI_INTERRUPTED, "interrupted");
        if (n < 0) return err_sys(e, errno, "cannot read stdin");
        if (text->len + (size_t)n > STDIN_MAX)
            return err_hint(e, ERR_TOO_LARGE, "leave -o json out, or `cella cp - CELL:PATH` first",
                            "stdin holds more than %u MiB", STDIN_MAX >> 20);
        buf_append(text, piece, (size_t)n);
    }
    buf_str(text, "");
    return 0;
}

/* One word is a line for the shell; several are a program and its arguments, passed on as they are. */
static struct json_object *command_json(const struct words *words) {
    if (words->count == 2) return json_object_new_string(words->word[1]);
    struct json_object *list = json_object_new_array();
    for (size_t i = 1; i < words->count; i++) json_object_array_add(list, json_object_new_string(words->word[i]));
    return list;
}

static struct json_object *body_of(const struct exec *x, bool with_stdin, struct err *e) {
    struct json_object *env = pairs_json(&x->env, "--env", e);
    if (!env) return NULL;
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "cmd", command_json(&x->words));
    json_object_object_add(body, "env", env);
    if (x->cwd) json_object_object_add(body, "cwd", json_object_new_string(x->cwd));
    if (x->user) json_object_object_add(body, "user", json_object_new_string(x->user));
    if (x->timeout > 0) json_object_object_add(body, "timeout_seconds", json_object_new_double(x->timeout));
    if (x->background) json_object_object_add(body, "background", json_object_new_boolean(true));
    if (!with_stdin) return body;
    struct buf text = {0};
    if (read_stdin(&text, e) < 0) {
        json_object_put(body);
        body = NULL;
    } else {
        json_object_object_add(body, "stdin", json_object_new_string_len(text.data, (int)text.len));
    }
    buf_free(&text);
    return body;
}

/* Events are JSON: bytes that are no UTF-8 come as U+FFFD. Said once, at the end, so that nobody takes it for the file.
 */
static void show_chunk(struct exec *x, struct json_object *event, int stream) {
    struct json_object *chunk = json_object_object_get(event, "chunk");
    if (!json_object_is_type(chunk, json_type_string)) return;
    const char *text = json_object_get_string(chunk);
    size_t n = (size_t)json_object_get_string_len(chunk);
    if (memmem(text, n, "\xef\xbf\xbd", 3)) x->replaced = true;
    if (!cell_output(&x->out, stream, text, n)) (void)err_set(&x->problem, ERR_INTERNAL, "cannot write the output");
}

static void take_end(struct exec *x, struct json_object *end) {
    x->ended = true;
    x->exit_code = (int)json_whole(end, "exit_code", -1);
    x->signal = (int)json_whole(end, "signal", 0);
    (void)snprintf(x->exit_word, sizeof x->exit_word, "%s", json_text(end, "exit", "ok"));
    output_truncated(json_object_object_get(end, "truncated"));
}

static bool on_event(void *arg, const char *event, struct json_object *data) {
    struct exec *x = arg;
    if (strcmp(event, "stdout") == 0) {
        show_chunk(x, data, STDOUT_FILENO);
    } else if (strcmp(event, "stderr") == 0) {
        show_chunk(x, data, STDERR_FILENO);
    } else if (strcmp(event, "exit") == 0) {
        take_end(x, data);
    } else if (strcmp(event, "error") == 0 && !x->ended) { /* behind the end it only says the same again */
        const char *hint = json_text(data, "hint", NULL);
        (void)snprintf(x->hint, sizeof x->hint, "%s", hint ? hint : "");
        (void)err_hint(&x->problem, ERR_INTERNAL, x->hint, "%s", json_text(data, "error", "the process failed"));
        if (strcmp(json_text(data, "code", ""), ERR_NOT_FOUND) == 0) x->problem.code = ERR_NOT_FOUND;
    }
    return x->problem.code == NULL;
}

static bool on_stream(void *arg, const char *bytes, size_t n) { return lines_feed(arg, bytes, n); }

static int streamed(struct client *c, struct exec *x, struct json_object *body, struct err *e) {
    struct lines lines = {.sse = true, .on_event = on_event, .arg = x};
    struct buf path = {0};
    path_cell(&path, x->words.word[0], "/exec/stream");
    struct call call = {.method = "POST",
                        .path = path.data,
                        .body = body,
                        .accept = "text/event-stream",
                        .write = on_stream,
                        .arg = &lines};
    int result = client_call(c, &call, e);
    if (x->problem.code) {
        *e = x->problem;
        result = -1;
    } else if (lines.broken) {
        result = err_set(e, ERR_INTERNAL, "the daemon's event stream is damaged");
    } else if (x->ended) {
        result = 0;
    } else if (result == 0) {
        result = err_set(e, ERR_LOST, "the stream ended before the process did; its outcome is not known");
    }
    call_free(&call);
    buf_free(&path);
    lines_free(&lines);
    return result;
}

static int whole(struct client *c, struct exec *x, struct json_object *body, struct err *e) {
    struct buf path = {0};
    struct json_object *answer = NULL;
    path_cell(&path, x->words.word[0], "/exec");
    int result = client_json(c, "POST", path.data, body, &answer, e);
    buf_free(&path);
    if (result == 0 && !x->background) take_end(x, answer);
    if (result == 0 && (c->cli->json || !x->background))
        output_json(answer);
    else if (result == 0)
        printf("%s\n", json_text(answer, "id", "-"));
    json_object_put(answer);
    return result;
}

static int exit_of(const struct exec *x) {
    if (x->background) return EXIT_OK;
    if (x->replaced)
        fprintf(stderr, "cella: bytes of the output that are not UTF-8 were replaced; `cella cp` copies binary files "
                        "as they are\n");
    if (x->signal > 0 && (strcmp(x->exit_word, "error") == 0 || strcmp(x->exit_word, "killed") == 0))
        return 128 + x->signal;
    if (strcmp(x->exit_word, "timeout") == 0)
        fprintf(stderr, "cella: the time limit was reached; the process was ended\n");
    if (strcmp(x->exit_word, "oom") == 0) fprintf(stderr, "cella: the cell ran out of memory\n");
    return exit_code_of_outcome(x->exit_word, x->exit_code);
}

static int with_input(const struct cli *cli, struct exec *x, struct json_object *body, struct err *e) {
    struct exec_input input = {.cli = cli, .cell = x->words.word[0], .body = body, .out = &x->out, .exit_code = -1};
    if (exec_input_run(&input, e) < 0) return -1;
    x->exit_code = input.exit_code;
    x->signal = input.signal;
    x->replaced = input.replaced;
    memcpy(x->exit_word, input.exit_word, sizeof x->exit_word);
    return 0;
}

static int work(struct client *c, void *arg, struct err *e) {
    struct exec *x = arg;
    bool at_once = c->cli->json || x->background;
    struct json_object *body = body_of(x, x->interactive && at_once, e);
    if (!body) return -1;
    int result = at_once          ? whole(c, x, body, e)
                 : x->interactive ? with_input(c->cli, x, body, e)
                                  : streamed(c, x, body, e);
    json_object_put(body);
    return result < 0 ? -1 : exit_of(x);
}

static int on_terminal(const struct cli *cli, struct exec *x) {
    struct err e;
    struct pty_call call = {.cell = x->words.word[0], .cwd = x->cwd, .user = x->user};
    struct json_object *env = pairs_json(&x->env, "--env", &e),
                       *command = x->words.count > 1 ? command_json(&x->words) : NULL;
    if (!env) return cli_fail(&e);
    call.env = env;
    call.command = command;
    int code = 0;
    if (pty_run(cli, &call, &code, &e) < 0) code = cli_fail(&e);
    json_object_put(env);
    json_object_put(command);
    return code;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct exec x;
    const struct option options[] = {
        {"interactive", 'i', OPTION_FLAG, &x.interactive, NULL, "pass stdin on while it comes (text)"},
        {"tty", 't', OPTION_FLAG, &x.terminal, NULL, "a terminal: keys, colours, window size; without COMMAND a shell"},
        {"background", 'd', OPTION_FLAG, &x.background, NULL, "start it and print its process id"},
        {"env", 'e', OPTION_LIST, &x.env, "NAME=VALUE", "environment variable; may be repeated"},
        {"cwd", 'w', OPTION_TEXT, &x.cwd, "DIR", "working directory (default: /workspace)"},
        {"user", 'u', OPTION_TEXT, &x.user, "NAME", "user or root, as the cell has them"},
        {"timeout", 0, OPTION_SECONDS, &x.timeout, "SECONDS", "end the process after this time"},
        {"raw", 0, OPTION_FLAG, &x.raw, NULL, "let control sequences through to the terminal"},
        {0}};
    int code;
    struct err e;
    struct arguments_form form = {.least = 1, .rest_from = 2};
    if (!arguments_take(cli, command, options, form, argc, argv, &x.words, &code)) return code;
    if (x.words.count < 2 && !x.terminal) {
        (void)err_hint(&e, CLI_USAGE, "cella exec CELL -- ls -l, or -t for a shell", "which command?");
        return cli_fail(&e);
    }
    if (x.background && (x.terminal || x.interactive)) {
        (void)err_set(&e, CLI_USAGE, "--background goes with neither -t nor -i");
        return cli_fail(&e);
    }
    x.out.raw = x.raw;
    if (x.terminal && isatty(STDIN_FILENO)) return on_terminal(cli, &x);
    if (x.terminal) {
        (void)err_hint(&e, CLI_USAGE, "leave -t out", "-t needs a terminal on stdin");
        return cli_fail(&e);
    }
    interrupt_watch();
    return client_with(cli, work, &x);
}

const struct command command_exec = {
    "exec",
    "Running code",
    "Run a command in a cell",
    "exec [options] CELL [--] COMMAND [ARGUMENT...]",
    "The command's output comes as it is written, stdout and stderr apart, and its exit code becomes that of `cella "
    "exec`.\n"
    "One word is a line for the shell, several words are a program and its arguments.\n\n"
    "Examples:\n"
    "  cella exec sbx_0123… -- ls -l /workspace\n"
    "  cella exec sbx_0123… 'du -sh * | sort -h'     through the shell\n"
    "  cella exec -i sbx_0123… -- wc -l < data.csv   with stdin\n"
    "  cella exec -t sbx_0123…                       a shell on a terminal\n",
    run};
