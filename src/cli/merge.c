/* cella merge */
#include <json-c/json.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

static int work(struct client *c, void *arg, struct err *e) {
    const struct words *words = arg;
    const char *parent = words->word[0], *child = words->word[1];
    struct buf path = {0};
    path_cell(&path, parent, "/merge_into/");
    path_segment(&path, child);
    int result = client_json(c, "POST", path.data, NULL, NULL, e);
    buf_free(&path);
    if (result == 0 && c->cli->json) {
        struct json_object *answer = json_object_new_object();
        json_object_object_add(answer, "id", json_object_new_string(parent));
        json_object_object_add(answer, "merged", json_object_new_string(child));
        output_json(answer);
        json_object_put(answer);
    } else if (result == 0) {
        printf("%s\n", parent);
    }
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct words words;
    int code;
    if (!arguments_take(cli, command, NULL, (struct arguments_form){.least = 2, .most = 2}, argc, argv, &words, &code))
        return code;
    return client_with(cli, work, &words);
}

const struct command command_merge = {
    "merge",
    "Branches",
    "Let a branch take its parent's place",
    "merge PARENT CHILD",
    "From now on the parent's id names what the child was: its variables, files, and what runs in it. The child's own "
    "id is\n"
    "gone, and so is what the parent was. Siblings stay. The parent keeps its labels, time limits and Space. Nothing "
    "is "
    "mixed:\n"
    "`cella diff CHILD PARENT` shows beforehand what will be different. Prints the parent's id.\n\n"
    "Examples:\n"
    "  child=$(cella fork sbx_0123…); cella run --cell $child risky.py && cella merge sbx_0123… $child\n",
    run};
