/* cella spaces [rm ID...] */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/listing.h"
#include "cli/output.h"
#include "cli/remove.h"

struct spaces {
    bool quiet, force;
    struct words words;
};

static void print_table(struct json_object *list) {
    static const char *const heading[] = {"SPACE", "CELL", "STATE", "TEMPLATE", "AGE", "FROZEN", "SIZE", "METADATA"};
    struct table t;
    table_open(&t, sizeof heading / sizeof *heading, heading);
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i);
        struct buf labels = {0};
        char text[16];
        int64_t now = (int64_t)time(NULL);
        table_add(&t, json_text(one, "space_id", NULL));
        table_addf(&t, "%.12s", json_text(one, "sandbox_id", "-"));
        table_add(&t, json_text(one, "state", NULL));
        table_add(&t, json_text(one, "template", NULL));
        table_add(&t, age_text(text, json_text(one, "created_at", NULL), now));
        table_add(&t, age_text(text, json_text(one, "frozen_at", NULL), now));
        table_add(&t, size_text(text, json_whole(one, "size_bytes", 0)));
        output_labels(one, &labels);
        table_add(&t, labels.data);
        buf_free(&labels);
    }
    table_print(&t);
}

static int work(struct client *c, void *arg, struct err *e) {
    const struct spaces *s = arg;
    if (s->words.count == 0) return listing_show(c, &(struct listing){"/v1/spaces", "Spaces", "space_id", s->quiet, print_table}, e);
    if (strcmp(s->words.word[0], "rm") != 0)
        return err_hint(e, CLI_USAGE, "cella spaces, or cella spaces rm ID", "unknown: cella spaces %.40s",
                        s->words.word[0]);
    if (s->words.count == 1) return err_hint(e, CLI_USAGE, "`cella spaces` lists them", "which Space?");
    return remove_each(c, "/v1/spaces", &s->words, 1, s->force);
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct spaces s;
    const struct option options[] = {
        {"quiet", 'q', OPTION_FLAG, &s.quiet, NULL, "only the ids, one a line"},
        {"force", 'f', OPTION_FLAG, &s.force, NULL, "rm: one that is not there is no failure"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.most = WORDS_MAX}, argc, argv, &s.words, &code))
        return code;
    return client_with(cli, work, &s);
}

const struct command command_spaces = {
    "spaces",
    "Snapshots and Spaces",
    "List and delete Spaces, live and frozen",
    "spaces [options] | spaces rm ID...",
    "A Space is where a persistent cell lives: sometimes in memory (live), sometimes on the disk only (frozen). `rm` "
    "ends the\n"
    "cell and deletes what is on the disk.\n\n"
    "Examples:\n"
    "  cella create --persistent --idle 600\n"
    "  cella spaces                      with the size each one takes on the disk\n"
    "  cella resume space_0123…\n"
    "  cella spaces rm space_0123…\n",
    run};
