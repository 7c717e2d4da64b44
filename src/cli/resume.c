/* cella resume */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"

static int post(struct client *c, const char *collection, const char *id, const char *verb, struct json_object **answer,
                struct err *e) {
    struct buf path = {0};
    buf_str(&path, collection);
    path_segment(&path, id);
    buf_str(&path, verb);
    int result = client_json(c, "POST", path.data, NULL, answer, e);
    buf_free(&path);
    return result;
}

/* A frozen cell wakes; one that was paused (its memory stayed) goes on. */
static int resume_cell(struct client *c, const char *id, struct json_object **answer, struct err *e) {
    struct json_object *cell = NULL;
    struct buf path = {0};
    path_cell(&path, id, "");
    int result = client_json(c, "GET", path.data, NULL, &cell, e);
    buf_free(&path);
    bool paused = strcmp(json_text(cell, "status", ""), "paused") == 0;
    json_object_put(cell);
    return result < 0 ? -1 : post(c, "/v1/sandboxes/", id, paused ? "/resume" : "/wake", answer, e);
}

static int work(struct client *c, void *arg, struct err *e) {
    const char *id = *(const char *const *)arg;
    bool space = strncmp(id, "space_", 6) == 0;
    struct json_object *answer = NULL;
    int result = space ? post(c, "/v1/spaces/", id, "/resume", &answer, e) : resume_cell(c, id, &answer, e);
    if (result == 0 && c->cli->json)
        output_json(answer);
    else if (result == 0)
        printf("%s\n", json_text(answer, "id", json_text(answer, "sandbox_id", id)));
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

const struct command command_resume = {
    "resume",
    "Snapshots and Spaces",
    "Bring a frozen cell back to life",
    "resume CELL|SPACE",
    "The cell goes on with the same objects. Any other request to it does this by itself; `resume` is for a Space of "
    "which you\n"
    "kept only the id, and to have the cell warm before it is needed. A cell that runs is left alone. Prints the "
    "cell's "
    "id.\n\n"
    "Examples:\n"
    "  cella spaces                                    what was put away\n"
    "  cell=$(cella resume space_0123…)\n"
    "  cella run --cell $cell -c 'df.describe()'\n",
    run};
