/* cella rm */
#include <json-c/json.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/remove.h"

struct rm {
    bool force, all;
    struct words cells;
};

static int work(struct client *c, void *arg, struct err *e) {
    struct rm *rm = arg;
    struct json_object *cells = NULL;
    if (rm->all) {
        if (client_json(c, "GET", "/v1/sandboxes", NULL, &cells, e) < 0) return -1;
        for (size_t i = 0; i < json_object_array_length(cells) && rm->cells.count < WORDS_MAX; i++)
            rm->cells.word[rm->cells.count++] = json_text(json_object_array_get_idx(cells, i), "id", "");
    }
    int code = remove_each(c, "/v1/sandboxes", &rm->cells, 0, rm->force);
    json_object_put(cells);
    return code;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct rm rm;
    const struct option options[] = {
        {"force", 'f', OPTION_FLAG, &rm.force, NULL, "a cell that is not there is no failure"},
        {"all", 'a', OPTION_FLAG, &rm.all, NULL, "every cell, frozen ones too"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.most = WORDS_MAX}, argc, argv, &rm.cells,
                        &code))
        return code;
    if (rm.cells.count > 0 && rm.all) {
        struct err e;
        (void)err_set(&e, CLI_USAGE, "--all names every cell already: give either --all or cells");
        return cli_fail(&e);
    }
    if (rm.cells.count == 0 && !rm.all) {
        struct err e;
        (void)err_hint(&e, CLI_USAGE, "`cella ps` lists the cells; --all ends every one", "which cell?");
        return cli_fail(&e);
    }
    return client_with(cli, work, &rm);
}

const struct command command_rm = {
    "rm",
    "Cells",
    "End cells; everything in them is gone",
    "rm [-f] CELL... | rm --all",
    "Prints the id of each cell that was ended. A frozen cell and its Space are gone too; `cella freeze` keeps a "
    "cell.\n"
    "Its branches and its snapshots stay.\n\n"
    "Examples:\n"
    "  cella rm sbx_0123…             one cell\n"
    "  cella rm $(cella ps -q -m job=42)\n",
    run};
