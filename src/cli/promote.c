/* cella promote */
#include <json-c/json.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

struct promote {
    const char *cell, *tree_id;
    bool cleanup;
};

/* Siblings that could not be deleted, each with its reason. */
static int say_failures(struct json_object *answer) {
    struct json_object *failures = json_object_object_get(answer, "failures");
    if (!json_object_is_type(failures, json_type_object) || !json_object_object_length(failures)) return EXIT_OK;
    (void)fflush(stdout);
    json_object_object_foreach(failures, id, why) {
        const char *text = json_text(why, "error", NULL);
        fprintf(stderr, "cella: %s stays: %s\n", id, text ? text : json_object_get_string(why));
    }
    return EXIT_REFUSED;
}

static int work(struct client *c, void *arg, struct err *e) {
    const struct promote *p = arg;
    struct json_object *body = json_object_new_object(), *answer = NULL;
    json_object_object_add(body, "cleanup_siblings", json_object_new_boolean(p->cleanup));
    if (p->tree_id) json_object_object_add(body, "tree_id", json_object_new_string(p->tree_id));
    struct buf path = {0};
    path_cell(&path, p->cell, "/promote");
    int result = client_json(c, "POST", path.data, body, &answer, e);
    buf_free(&path);
    json_object_put(body);
    if (result < 0) return -1;
    struct json_object *deleted = json_object_object_get(answer, "deleted");
    if (c->cli->json)
        output_json(answer);
    else
        for (size_t i = 0; json_object_is_type(deleted, json_type_array) && i < json_object_array_length(deleted); i++)
            printf("%s\n", json_object_get_string(json_object_array_get_idx(deleted, i)));
    int code = say_failures(answer);
    json_object_put(answer);
    return code;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct promote p;
    static struct words words;
    const struct option options[] = {
        {"cleanup", 0, OPTION_FLAG, &p.cleanup, NULL, "end its siblings"},
        {"tree", 0, OPTION_TEXT, &p.tree_id, "ID", "of this try (default: the one the cell was forked in)"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 1}, argc, argv, &words,
                        &code))
        return code;
    p.cell = words.word[0];
    return client_with(cli, work, &p);
}

const struct command command_promote = {
    "promote",
    "Branches",
    "Name the winner among the children of `fork --tree`",
    "promote [--cleanup] CELL",
    "The winner keeps its own id and goes on; the parent is not touched (`cella merge` would put the winner in its "
    "place).\n"
    "With --cleanup the winner's siblings end; their ids are printed.\n\n"
    "Examples:\n"
    "  cella fork sbx_0123… -n 4 --tree      four siblings\n"
    "  cella promote --cleanup sbx_4567…     this one stays, three end\n",
    run};
