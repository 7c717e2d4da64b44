/* cella diff */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/diff_show.h"
#include "cli/output.h"

struct diff {
    const char *cell, *against, *context, *colour;
    bool template, text, variables, stat;
};

static int ask(struct client *c, const struct diff *d, struct json_object **answer, struct err *e) {
    struct buf path = {0};
    path_cell(&path, d->cell, "/diff");
    if (d->against) path_query(&path, "against", d->against);
    if (d->text) path_query(&path, "text", "true");
    if (d->variables) path_query(&path, "variables", "true");
    if (d->context) path_query(&path, "context_id", d->context);
    int result = client_json(c, "GET", path.data, NULL, answer, e);
    buf_free(&path);
    return result;
}

static int work(struct client *c, void *arg, struct err *e) {
    const struct diff *d = arg;
    struct json_object *answer = NULL;
    if (ask(c, d, &answer, e) < 0) return -1;
    if (c->cli->json) {
        output_json(answer);
    } else {
        bool colours = d->colour ? strcmp(d->colour, "always") == 0 : output_colours();
        struct diff_show show = {.colours = colours, .utf8 = output_utf8()};
        struct cell_output out = {0};
        struct buf text = {0};
        if (d->stat)
            diff_render_sums(answer, &text);
        else
            diff_render(&show, answer, &text);
        (void)cell_output(&out, STDOUT_FILENO, text.data, text.len);
        buf_free(&text);
    }
    json_object_put(answer);
    return EXIT_OK;
}

static int check(const struct diff *d, struct err *e) {
    if (d->template && d->against) return err_set(e, CLI_USAGE, "give either another cell or --template, not both");
    bool known = !d->colour || strcmp(d->colour, "always") == 0 || strcmp(d->colour, "never") == 0;
    return known ? 0 : err_set(e, CLI_USAGE, "--color takes always or never, not \"%.40s\"", d->colour);
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct diff d;
    static struct words words;
    const struct option options[] = {
        {"template", 0, OPTION_FLAG, &d.template, NULL, "against the template (default: the parent, if it has one)"},
        {"text", 0, OPTION_FLAG, &d.text, NULL, "with the lines that differ in text files"},
        {"variables", 0, OPTION_FLAG, &d.variables, NULL, "with the variables that differ"},
        {"context", 0, OPTION_TEXT, &d.context, "ID", "variables of this context (default: default)"},
        {"stat", 0, OPTION_FLAG, &d.stat, NULL, "only the sums"},
        {"color", 0, OPTION_TEXT, &d.colour, "WHEN", "always or never (default: on a terminal)"},
        {0}};
    int code;
    struct err e;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 2}, argc, argv, &words,
                        &code))
        return code;
    d.cell = words.word[0];
    d.against = words.count > 1 ? words.word[1] : NULL;
    if (check(&d, &e) < 0) return cli_fail(&e);
    if (d.template) d.against = "template";
    return client_with(cli, work, &d);
}

const struct command command_diff = {"diff",
                                     "Branches",
                                     "Show how a cell differs from its parent or from another one",
                                     "diff [options] CELL [OTHER]",
                                     "Files: A added, M changed, D removed. Variables: + added, ~ changed, - removed, "
                                     "? unknown. Read it as what happened "
                                     "in\n"
                                     "CELL since it was like OTHER. Variables are compared by type and value where "
                                     "that is quick and certain; the rest is "
                                     "named\n"
                                     "as unknown.\n\n"
                                     "Examples:\n"
                                     "  cella diff sbx_4567…                         what a branch did since its fork\n"
                                     "  cella diff --text --variables sbx_4567…      line by line, with variables\n"
                                     "  cella diff sbx_4567… sbx_89ab…               two siblings\n"
                                     "  cella diff --template --stat sbx_0123…       how far from the start\n",
                                     run};
