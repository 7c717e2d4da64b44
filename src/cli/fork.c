/* cella fork */
#include <json-c/json.h>
#include <stdio.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/cell_options.h"
#include "cli/client.h"
#include "cli/output.h"

struct fork {
    const char *cell;
    int64_t count;
    double ttl, idle;
    struct words metadata;
    bool tree, quiet;
};

static struct json_object *body_of(const struct fork *f, struct err *e) {
    struct json_object *metadata = pairs_json(&f->metadata, "--metadata", e);
    if (!metadata) return NULL;
    struct json_object *body = json_object_new_object();
    if (f->count >= 0) json_object_object_add(body, "count", json_object_new_int64(f->count));
    if (json_object_object_length(metadata)) json_object_object_add(body, "metadata", json_object_get(metadata));
    json_object_put(metadata);
    if (f->ttl >= 0) json_object_object_add(body, "ttl_seconds", json_object_new_double(f->ttl));
    if (f->idle >= 0) json_object_object_add(body, "idle_timeout_seconds", json_object_new_double(f->idle));
    return body;
}

/* One child an entry: its id (fork), or an object with one (fork-tree). */
static void print_children(struct json_object *answer) {
    struct json_object *children = json_object_object_get(answer, "children");
    for (size_t i = 0; json_object_is_type(children, json_type_array) && i < json_object_array_length(children); i++) {
        struct json_object *child = json_object_array_get_idx(children, i);
        printf("%s\n", json_object_is_type(child, json_type_string) ? json_object_get_string(child)
                                                                    : json_text(child, "id", "-"));
    }
}

/* Children that could not be made: each with its reason; the exit code is that of the first. */
static int say_errors(struct json_object *answer) {
    struct json_object *list = json_object_object_get(answer, "errors");
    int code = EXIT_OK;
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i);
        (void)fflush(stdout);
        fprintf(stderr, "cella: child %lld could not be made: %s\n", (long long)json_whole(one, "index", (int64_t)i),
                json_text(one, "error", json_text(one, "err", "no reason was given")));
        const char *hint = json_text(one, "hint", NULL);
        if (hint) fprintf(stderr, "hint: %s\n", hint);
        if (code == EXIT_OK) code = exit_code_of(json_text(one, "code", ""));
    }
    return code;
}

static int work(struct client *c, void *arg, struct err *e) {
    const struct fork *f = arg;
    struct json_object *body = body_of(f, e), *answer = NULL;
    if (!body) return -1;
    struct buf path = {0};
    path_cell(&path, f->cell, f->tree ? "/fork-tree" : "/fork");
    int result = client_json(c, "POST", path.data, body, &answer, e);
    buf_free(&path);
    json_object_put(body);
    if (result < 0) return -1;
    if (c->cli->json)
        output_json(answer);
    else
        print_children(answer);
    if (!c->cli->json && !f->quiet) output_not_carried(answer);
    int code = say_errors(answer);
    json_object_put(answer);
    return code;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct fork f = {.count = -1, .ttl = -1, .idle = -1};
    static struct words words;
    const struct option options[] = {
        {"count", 'n', OPTION_WHOLE, &f.count, "N", "children, 1 to 100 (default: 1; with --tree 2)"},
        {"metadata", 'm', OPTION_LIST, &f.metadata, "KEY=VALUE", "label of the children, over the parent's"},
        {"ttl", 0, OPTION_SECONDS, &f.ttl, "SECONDS", "end them after this time (default: the parent's)"},
        {"idle", 0, OPTION_SECONDS, &f.idle, "SECONDS", "their idle timeout (default: the parent's)"},
        {"tree", 0, OPTION_FLAG, &f.tree, NULL, "label them as siblings of one try, for `cella promote`"},
        {"quiet", 'q', OPTION_FLAG, &f.quiet, NULL, "do not say what was not carried"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 1}, argc, argv, &words,
                        &code))
        return code;
    f.cell = words.word[0];
    return client_with(cli, work, &f);
}

const struct command command_fork = {
    "fork",
    "Branches",
    "Copy a live cell: variables, files, what runs",
    "fork [options] CELL",
    "Each child starts as the cell is at this instant, with everything in memory, and is on its own from then on. The "
    "cell\n"
    "itself goes on; it stands still for some milliseconds only. Memory and files are shared until somebody writes.\n"
    "Prints the children's ids. What cannot be copied (connections, processes that are no context) is named on "
    "stderr.\n\n"
    "Examples:\n"
    "  cella fork sbx_0123…                    one child\n"
    "  cella fork sbx_0123… -n 8 -m try=ridge  eight, labelled\n"
    "  cella fork sbx_0123… -n 4 --tree        four siblings; keep the best with `cella promote --cleanup BEST`\n"
    "  cella tree sbx_0123…                    the family\n",
    run};
