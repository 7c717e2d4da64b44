/* cella create */
#include <json-c/json.h>
#include <stdio.h>

#include "cli/arguments.h"
#include "cli/cell_options.h"
#include "cli/client.h"
#include "cli/output.h"

static int create(struct client *c, void *arg, struct err *e) {
    struct json_object *body = cell_options_json(arg, e), *cell = NULL;
    if (!body) return -1;
    int result = client_json(c, "POST", "/v1/sandboxes", body, &cell, e);
    json_object_put(body);
    const char *id = json_text(cell, "id", NULL);
    if (result == 0 && !id) result = err_set(e, ERR_INTERNAL, "the daemon's answer names no cell");
    if (result == 0 && c->cli->json)
        output_json(cell);
    else if (result == 0)
        printf("%s\n", id);
    json_object_put(cell);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct cell_options o = CELL_OPTIONS_INIT;
    static struct words words;
    const struct option options[] = {CELL_OPTION_ROWS(o), CELL_OPTION_ROWS_KEPT(o), {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.most = 1}, argc, argv, &words, &code))
        return code;
    if (words.count) o.template = words.word[0];
    return client_with(cli, create, &o);
}

const struct command command_create = {
    "create",
    "Cells",
    "Make a cell and print its id",
    "create [options] [TEMPLATE]",
    "The cell is a copy of the template's warm interpreter: a Python context is "
    "ready in it. It lives until `cella rm`,\n"
    "until its --ttl is over, or until it was --idle for too long.\n\n"
    "With --persistent it belongs to a Space: when its time is over it is frozen "
    "and its memory is free again; the next\n"
    "request to it, or `cella resume`, brings back the same live objects. `cella rm` "
    "ends it for good.\n\n"
    "Examples:\n"
    "  cella create                                 the default template\n"
    "  cella create python --ttl 3600 -m job=42     ends after an hour, labelled\n"
    "  id=$(cella create --memory 512 --cpus 0.5)   for a script\n"
    "  cella create --persistent --idle 600         frozen after ten idle minutes\n"
    "  cella create --from-snapshot loaded          a copy of a snapshot\n"
    "  cella create --driver microvm                a virtual machine with a kernel of its own\n",
    run};
