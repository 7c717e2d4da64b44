/* cella logs */
#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/lines.h"
#include "cli/output.h"

#include <json-c/json.h>

struct logs {
    const char *stream, *cell;
    bool raw, follow, as_json;
    struct cell_output out;
};

static bool on_line(void *arg, const char *event, struct json_object *line) {
    (void)event;
    struct logs *logs = arg;
    struct buf text = {0};
    if (!json_text(line, "line", NULL)) return true; /* a sign of life */
    if (logs->as_json)
        output_json(line);
    else
        buf_printf(&text, "%s\n", json_text(line, "line", ""));
    bool goes_on = !text.len || cell_output(&logs->out, STDOUT_FILENO, text.data, text.len);
    buf_free(&text);
    return goes_on && !fflush(stdout);
}

static bool on_bytes(void *arg, const char *bytes, size_t n) { return lines_feed(arg, bytes, n); }

static int follow(struct client *c, struct logs *logs, const char *path, struct err *e) {
    struct lines lines = {.on_event = on_line, .arg = logs};
    struct call call = {.method = "GET", .path = path, .accept = "application/x-ndjson", .write = on_bytes, .arg = &lines};
    logs->as_json = c->cli->json;
    logs->out.raw = logs->raw;
    int result = client_call(c, &call, e);
    if (lines.broken) result = err_set(e, ERR_INTERNAL, "the daemon's stream of lines is damaged");
    call_free(&call);
    lines_free(&lines);
    return result;
}

static int work(struct client *c, void *arg, struct err *e) {
    struct logs *logs = arg;
    struct buf path = {0};
    path_cell(&path, logs->cell, "/logs");
    path_query(&path, "stream", logs->stream);
    if (logs->follow) {
        path_query(&path, "follow", "1");
        int followed = follow(c, logs, path.data, e);
        buf_free(&path);
        return followed;
    }
    struct call call = {.method = "GET", .path = path.data, .accept = "text/plain, application/json"};
    int result = client_call(c, &call, e);
    if (result == 0 && c->cli->json) {
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "stream", json_object_new_string(logs->stream));
        json_object_object_add(object, "text",
                               json_object_new_string_len(call.text.data ? call.text.data : "", (int)call.text.len));
        output_json(object);
        json_object_put(object);
    } else if (result == 0 && call.text.len) {
        struct cell_output out = {.raw = logs->raw};
        (void)cell_output(&out, STDOUT_FILENO, call.text.data, call.text.len);
    }
    call_free(&call);
    buf_free(&path);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct logs logs = {.stream = "both"};
    static struct words words;
    const struct option options[] = {
        {"stream", 's', OPTION_TEXT, &logs.stream, "NAME", "stdout, stderr or both (default)"},
        {"follow", 'f', OPTION_FLAG, &logs.follow, NULL, "go on with every later line, until the cell ends"},
        {"raw", 0, OPTION_FLAG, &logs.raw, NULL, "let control sequences through to the terminal"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 1}, argc, argv, &words,
                        &code))
        return code;
    logs.cell = words.word[0];
    return client_with(cli, work, &logs);
}

const struct command command_logs = {
    "logs",
    "Cells",
    "Show what a cell's programs printed last",
    "logs [options] CELL",
    "The daemon keeps the last 256 KiB that executions and processes of a cell printed.\n\n"
    "Examples:\n"
    "  cella logs sbx_0123…\n"
    "  cella logs -s stderr sbx_0123…\n"
    "  cella logs -f sbx_0123…\n",
    run};
