/* cella logs */
#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

#include <json-c/json.h>

struct logs {
    const char *stream, *cell;
    bool raw;
};

static int work(struct client *c, void *arg, struct err *e) {
    const struct logs *logs = arg;
    struct buf path = {0};
    path_cell(&path, logs->cell, "/logs");
    path_query(&path, "stream", logs->stream);
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
    "  cella logs -s stderr sbx_0123…\n",
    run};
