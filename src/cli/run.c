/* cella run */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/arguments.h"
#include "cli/cell_options.h"
#include "cli/run_show.h"
#include "cli/transfer.h"

#define CODE_MAX (8u << 20) /* bytes of a program; the API takes no more */

struct run {
    struct cell_options cell;
    const char *file, *code, *language, *keep_cell, *context;
    struct words uploads;
    double timeout;
    bool keep, timing, raw;
    const char *figures;
    /* while it runs */
    struct buf text;
    char id[64], boot_mode[16];
    int64_t started_us, ready_us;
};

static int read_code(struct run *r, struct err *e) {
    if (r->code) {
        buf_str(&r->text, r->code);
        return 0;
    }
    bool from_stdin = strcmp(r->file, "-") == 0;
    cleanup_close int fd = from_stdin ? dup(STDIN_FILENO) : open(r->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_sys(e, errno, "cannot open %s", r->file);
    char piece[65536];
    for (ssize_t n; (n = read(fd, piece, sizeof piece)) != 0;) {
        if (n < 0 && interrupted()) return err_set(e, CLI_INTERRUPTED, "interrupted");
        if (n < 0) return err_sys(e, errno, "cannot read %s", r->file);
        if (r->text.len + (size_t)n > CODE_MAX)
            return err_set(e, ERR_TOO_LARGE, "%s is larger than %u MiB", r->file, CODE_MAX >> 20);
        buf_append(&r->text, piece, (size_t)n);
    }
    buf_str(&r->text, "");
    if (memchr(r->text.data, 0, r->text.len))
        return err_set(e, CLI_USAGE, "%s is not a program text: it contains NUL bytes", r->file);
    return 0;
}

/* By the file's ending, else by its first line, else Python. */
static const char *language_of(const char *file, const char *code) {
    static const struct {
        const char *ending, *language;
    } table[] = {
        {".py", "python"}, {".sh", "shell"}, {".bash", "shell"}, {".js", "javascript"}, {".mjs", "javascript"}};
    const char *dot = file ? strrchr(file, '.') : NULL;
    for (size_t i = 0; dot && i < sizeof table / sizeof *table; i++)
        if (strcmp(dot, table[i].ending) == 0) return table[i].language;
    if (strncmp(code, "#!", 2) != 0) return "python";
    char line[128];
    (void)snprintf(line, sizeof line, "%.*s", (int)strcspn(code, "\n"), code);
    if (strstr(line, "node")) return "javascript";
    return strstr(line, "sh") && !strstr(line, "python") ? "shell" : "python";
}

static int make_cell(struct run *r, struct client *c, struct err *e) {
    if (r->keep_cell) {
        (void)snprintf(r->id, sizeof r->id, "%s", r->keep_cell);
        return 0;
    }
    struct json_object *body = cell_options_json(&r->cell, e), *cell = NULL;
    if (!body) return -1;
    int result = client_json(c, "POST", "/v1/sandboxes", body, &cell, e);
    json_object_put(body);
    (void)snprintf(r->id, sizeof r->id, "%s", json_text(cell, "id", ""));
    (void)snprintf(r->boot_mode, sizeof r->boot_mode, "%s", json_text(cell, "boot_mode", ""));
    json_object_put(cell);
    return result == 0 && !r->id[0] ? err_set(e, ERR_INTERNAL, "the daemon's answer names no cell") : result;
}

static struct json_object *execute_body(const struct run *r, bool stream) {
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "code", json_object_new_string_len(r->text.data, (int)r->text.len));
    const char *language = r->language ? r->language : language_of(r->file, r->text.data);
    if (r->context)
        json_object_object_add(body, "context_id", json_object_new_string(r->context));
    else
        json_object_object_add(body, "language", json_object_new_string(language));
    if (r->timeout > 0) json_object_object_add(body, "timeout_seconds", json_object_new_double(r->timeout));
    if (stream) json_object_object_add(body, "stream", json_object_new_boolean(true));
    return body;
}

static bool on_stream(void *arg, const char *bytes, size_t n) { return lines_feed(arg, bytes, n); }

/* What the stream's end means for the caller: this side's own problem first, then the transport's, then a missing end.
 */
static int stream_result(const struct run_show *show, const struct lines *lines, int result, struct err *e) {
    if (show->problem.code) {
        *e = show->problem;
        return -1;
    }
    if (lines->broken) return err_set(e, ERR_INTERNAL, "the daemon's event stream is damaged");
    if (show->ended) return 0;
    if (result == 0) return err_set(e, ERR_LOST, "the stream ended before the execution did; its outcome is not known");
    return -1;
}

static int run_streamed(struct run *r, struct client *c, struct run_show *show, struct err *e) {
    struct lines lines = {.on_event = run_show_event, .arg = show};
    struct buf path = {0};
    path_cell(&path, r->id, "/execute");
    struct json_object *body = execute_body(r, true);
    struct call call = {.method = "POST",
                        .path = path.data,
                        .body = body,
                        .accept = "application/x-ndjson",
                        .write = on_stream,
                        .arg = &lines};
    int result = stream_result(show, &lines, client_call(c, &call, e), e);
    call_free(&call);
    json_object_put(body);
    buf_free(&path);
    lines_free(&lines);
    return result;
}

static int run_whole(struct run *r, struct client *c, struct run_show *show, struct err *e) {
    struct buf path = {0};
    path_cell(&path, r->id, "/execute");
    struct json_object *body = execute_body(r, false), *execution = NULL;
    int result = client_json(c, "POST", path.data, body, &execution, e);
    if (result == 0) {
        run_show_end(show, execution);
        output_json(execution);
        result = run_show_results(show, execution, e);
    }
    json_object_put(execution);
    json_object_put(body);
    buf_free(&path);
    return result;
}

static int upload_all(const struct run *r, struct client *c, struct err *e) {
    for (size_t i = 0; i < r->uploads.count; i++) {
        const char *file = r->uploads.word[i], *slash = strrchr(file, '/');
        if (transfer_up(c, file, r->id, slash ? slash + 1 : file, e) < 0) return -1;
    }
    return 0;
}

static void print_timing(const struct run *r, const struct run_show *show) {
    int64_t now = monotonic_us();
    if (!r->keep_cell)
        fprintf(stderr, "cell ready after %.1f ms (%s)", (double)(r->ready_us - r->started_us) / 1e3, r->boot_mode);
    if (show->first_output_us)
        fprintf(stderr, "%sfirst output after %.1f ms", r->keep_cell ? "" : ", ",
                (double)(show->first_output_us - r->started_us) / 1e3);
    fprintf(stderr, ", all done after %.1f ms\n", (double)(now - r->started_us) / 1e3);
}

/* The cell was made for this one call: it goes also after Ctrl-C and after an error. */
static void end_cell(const struct run *r, struct client *c) {
    if (r->keep_cell || !r->id[0]) return;
    if (r->keep) {
        fprintf(stderr, "kept: %s\n", r->id);
        return;
    }
    struct err e;
    struct buf path = {0};
    path_cell(&path, r->id, "");
    interrupt_clear();
    if (client_json(c, "DELETE", path.data, NULL, NULL, &e) < 0 && exit_code_of(e.code) != EXIT_NOT_FOUND)
        fprintf(stderr, "cella: the cell %s was not ended: %s\n", r->id, e.text);
    buf_free(&path);
}

static const char *explain(const char *word) {
    static const char *const table[][2] = {{"timeout", "the time limit was reached; the context keeps its state"},
                                           {"oom", "the cell ran out of memory"},
                                           {"killed", "the execution was killed"},
                                           {"interrupted", "interrupted"},
                                           {"lost", "the execution was lost; its outcome is not known"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i][0], word) == 0) return table[i][1];
    return NULL;
}

static int work(struct client *c, void *arg, struct err *e) {
    struct run *r = arg;
    if (read_code(r, e) < 0) return -1;
    r->started_us = monotonic_us();
    if (make_cell(r, c, e) < 0) return -1;
    r->ready_us = monotonic_us();
    struct run_show show = {.cli = c->cli,
                            .cell = r->id,
                            .figures.directory = r->figures,
                            .out.raw = r->raw,
                            .at_line_start = true,
                            .exit_code = -1,
                            .stdin_taken = r->file && strcmp(r->file, "-") == 0};
    int result = upload_all(r, c, e);
    if (result == 0) result = c->cli->json ? run_whole(r, c, &show, e) : run_streamed(r, c, &show, e);
    if (r->timing && result == 0) print_timing(r, &show);
    end_cell(r, c);
    if (result < 0) return -1;
    if (explain(show.exit_word)) fprintf(stderr, "cella: %s\n", explain(show.exit_word));
    return exit_code_of_outcome(show.exit_word, show.exit_code);
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct run r = {.cell = CELL_OPTIONS_INIT};
    static struct words words;
    const struct option options[] = {
        {"code", 'c', OPTION_TEXT, &r.code, "CODE", "run this text instead of a file"},
        {"language", 'l', OPTION_TEXT, &r.language, "NAME", "python, shell (default: by the file's ending)"},
        {"cell", 0, OPTION_TEXT, &r.keep_cell, "ID", "run in this cell, with what earlier runs left in its memory"},
        {"context", 0, OPTION_TEXT, &r.context, "ID", "the context of that cell to run in"},
        {"keep", 0, OPTION_FLAG, &r.keep, NULL, "do not end the new cell; its id is printed on stderr"},
        {"upload", 'u', OPTION_LIST, &r.uploads, "FILE",
         "copy this file into the cell's working directory first; may be repeated"},
        {"save-figures", 0, OPTION_TEXT, &r.figures, "DIR", "write figures as DIR/figure-1.png, …"},
        {"timeout", 0, OPTION_SECONDS, &r.timeout, "SECONDS", "interrupt the code after this time"},
        {"timing", 0, OPTION_FLAG, &r.timing, NULL, "say on stderr how long everything took"},
        {"raw", 0, OPTION_FLAG, &r.raw, NULL, "let control sequences through to the terminal"},
        CELL_OPTION_ROWS(r.cell),
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.most = 1}, argc, argv, &words, &code))
        return code;
    r.file = words.count ? words.word[0] : NULL;
    if (!r.file == !r.code) {
        struct err e;
        (void)err_hint(&e, CLI_USAGE, "cella run FILE, cella run - (stdin), or cella run -c CODE",
                       "give one program: a file, - or -c");
        return cli_fail(&e);
    }
    interrupt_watch();
    code = client_with(cli, work, &r);
    buf_free(&r.text);
    return code;
}

const struct command command_run = {
    "run",
    "Running code",
    "Run a program in a cell",
    "run [options] FILE|-",
    "Makes a cell, runs the program in its Python (or shell) context, shows what it prints as it comes, the value of "
    "the\n"
    "last expression and tracebacks, and ends the cell. The exit code is 0 when the code succeeded, 1 when it raised, "
    "the\n"
    "program's own after sys.exit(), 124 after the time limit, 137 when it was killed (`cella help exit-codes`).\n\n"
    "Examples:\n"
    "  cella run analysis.py                              in a cell of its own\n"
    "  cella run -u sales.csv --save-figures out plot.py  with data in, figures out\n"
    "  echo 'import sys; sys.version' | cella run -       from stdin\n"
    "  id=$(cella create); cella run --cell $id -c 'x = 41'; cella run --cell $id -c 'x + 1'   state stays\n",
    run};
