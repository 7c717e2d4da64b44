/* cella rm */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

struct rm {
    bool force, all;
    struct words cells;
};

static int remove_one(struct client *c, const char *id, struct err *e) {
    struct buf path = {0};
    path_cell(&path, id, "");
    int result = client_json(c, "DELETE", path.data, NULL, NULL, e);
    buf_free(&path);
    return result;
}

/* Every cell is tried; the exit code is that of the first failure. */
static int remove_all(struct client *c, const struct rm *rm, struct json_object *removed) {
    int code = EXIT_OK;
    for (size_t i = 0; i < rm->cells.count && !interrupted(); i++) {
        struct err e;
        if (remove_one(c, rm->cells.word[i], &e) == 0) {
            json_object_array_add(removed, json_object_new_string(rm->cells.word[i]));
            if (!c->cli->json) printf("%s\n", rm->cells.word[i]);
        } else if (!rm->force || exit_code_of(e.code) != EXIT_NOT_FOUND) {
            int failed = cli_fail(&e);
            if (code == EXIT_OK) code = failed;
            if (strcmp(e.code, CLI_UNREACHABLE) == 0) break;
        }
    }
    return code;
}

static int work(struct client *c, void *arg, struct err *e) {
    struct rm *rm = arg;
    struct json_object *cells = NULL, *removed = json_object_new_array();
    if (rm->all) {
        if (client_json(c, "GET", "/v1/sandboxes", NULL, &cells, e) < 0) {
            json_object_put(removed);
            return -1;
        }
        for (size_t i = 0; i < json_object_array_length(cells) && rm->cells.count < WORDS_MAX; i++)
            rm->cells.word[rm->cells.count++] = json_text(json_object_array_get_idx(cells, i), "id", "");
    }
    int code = remove_all(c, rm, removed);
    if (c->cli->json) {
        struct json_object *answer = json_object_new_object();
        json_object_object_add(answer, "deleted", json_object_get(removed));
        output_json(answer);
        json_object_put(answer);
    }
    json_object_put(removed);
    json_object_put(cells);
    return code;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct rm rm;
    const struct option options[] = {
        {"force", 'f', OPTION_FLAG, &rm.force, NULL, "a cell that is not there is no failure"},
        {"all", 'a', OPTION_FLAG, &rm.all, NULL, "every cell"},
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

const struct command command_rm = {"rm",
                                   "Cells",
                                   "End cells; everything in them is gone",
                                   "rm [-f] CELL... | rm --all",
                                   "Prints the id of each cell that was ended.\n\n"
                                   "Examples:\n"
                                   "  cella rm sbx_0123…             one cell\n"
                                   "  cella rm $(cella ps -q -m job=42)\n",
                                   run};
