/* cella freeze */
#include <json-c/json.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

static int work(struct client *c, void *arg, struct err *e) {
    const char *cell = *(const char *const *)arg;
    struct json_object *answer = NULL;
    struct buf path = {0};
    path_cell(&path, cell, "/hibernate");
    int result = client_json(c, "POST", path.data, NULL, &answer, e);
    buf_free(&path);
    if (result == 0 && c->cli->json)
        output_json(answer);
    else if (result == 0)
        printf("%s\n", json_text(answer, "space_id", cell));
    json_object_put(answer);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct words words;
    int code;
    if (!arguments_take(cli, command, NULL, (struct arguments_form){.least = 1, .most = 1}, argc, argv, &words, &code))
        return code;
    return client_with(cli, work, &words.word[0]);
}

const struct command command_freeze = {
    "freeze",
    "Snapshots and Spaces",
    "Put a cell away on the disk; its memory is free again",
    "freeze CELL",
    "The cell keeps its id, its objects, its open files and its place in what it ran, also over a reboot. The next "
    "request to\n"
    "it wakes it. Prints the id of its Space, or of the cell when it has none. A cell made with --persistent freezes "
    "by "
    "itself\n"
    "when it was idle long enough.\n\n"
    "Examples:\n"
    "  cella freeze sbx_0123…\n"
    "  cella resume sbx_0123…                       or simply:\n"
    "  cella run --cell sbx_0123… -c 'len(df)'      the variables are there\n",
    run};
