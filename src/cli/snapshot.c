/* cella snapshot */
#include <json-c/json.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

struct snapshot {
    const char *cell, *name;
};

static int work(struct client *c, void *arg, struct err *e) {
    const struct snapshot *s = arg;
    struct json_object *body = json_object_new_object(), *answer = NULL;
    if (s->name) json_object_object_add(body, "name", json_object_new_string(s->name));
    struct buf path = {0};
    path_cell(&path, s->cell, "/snapshots");
    int result = client_json(c, "POST", path.data, body, &answer, e);
    buf_free(&path);
    json_object_put(body);
    const char *id = json_text(answer, "id", NULL);
    if (result == 0 && !id) result = err_set(e, ERR_INTERNAL, "the daemon's answer names no snapshot");
    if (result == 0 && c->cli->json)
        output_json(answer);
    else if (result == 0)
        printf("%s\n", id);
    if (result == 0 && !c->cli->json) output_not_carried(answer);
    json_object_put(answer);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct snapshot s;
    static struct words words;
    const struct option options[] = {{"name", 'n', OPTION_TEXT, &s.name, "NAME", "to call it by"}, {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 1}, argc, argv, &words,
                        &code))
        return code;
    s.cell = words.word[0];
    return client_with(cli, work, &s);
}

const struct command command_snapshot = {
    "snapshot",
    "Snapshots and Spaces",
    "Put a copy of a live cell on the disk",
    "snapshot [--name NAME] CELL",
    "Everything is in it: variables, files, what runs. The cell stands still while its pages are collected, then goes "
    "on. Any\n"
    "number of cells can start from a snapshot, also after a reboot. Prints its id.\n\n"
    "Examples:\n"
    "  cella snapshot sbx_0123… --name loaded\n"
    "  cella create --from-snapshot loaded\n"
    "  cella snapshots                        what there is\n",
    run};
