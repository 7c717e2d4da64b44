/* cella snapshots [rm ID...] */
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

struct snapshots {
    const char *cell, *name;
    bool quiet, force;
    struct words words;
};

static void print_table(struct json_object *list) {
    static const char *const heading[] = {"ID", "NAME", "CELL", "TEMPLATE", "AGE", "SIZE", "MEMORY", "DISK"};
    struct table t;
    table_open(&t, sizeof heading / sizeof *heading, heading);
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *one = json_object_array_get_idx(list, i);
        char text[16];
        table_add(&t, json_text(one, "id", NULL));
        table_add(&t, json_text(one, "name", NULL));
        table_addf(&t, "%.12s", json_text(one, "sandbox_id", "-"));
        table_add(&t, json_text(one, "template", NULL));
        table_add(&t, age_text(text, json_text(one, "created_at", NULL), (int64_t)time(NULL)));
        table_add(&t, size_text(text, json_whole(one, "size_bytes", 0)));
        table_add(&t, size_text(text, json_whole(one, "memory_bytes", 0)));
        table_add(&t, size_text(text, json_whole(one, "disk_bytes", 0)));
    }
    table_print(&t);
}

static int list(struct client *c, const struct snapshots *s, struct err *e) {
    struct buf path = {0};
    buf_str(&path, "/v1/snapshots");
    if (s->cell) path_query(&path, "sandbox_id", s->cell);
    if (s->name) path_query(&path, "name", s->name);
    int result = listing_show(c, &(struct listing){path.data, "snapshots", "id", s->quiet, print_table}, e);
    buf_free(&path);
    return result;
}

static int work(struct client *c, void *arg, struct err *e) {
    const struct snapshots *s = arg;
    if (s->words.count == 0) return list(c, s, e);
    if (strcmp(s->words.word[0], "rm") != 0)
        return err_hint(e, CLI_USAGE, "cella snapshots, or cella snapshots rm ID", "unknown: cella snapshots %.40s",
                        s->words.word[0]);
    if (s->words.count == 1) return err_hint(e, CLI_USAGE, "`cella snapshots` lists them", "which snapshot?");
    return remove_each(c, "/v1/snapshots", &s->words, 1, s->force);
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct snapshots s;
    const struct option options[] = {
        {"cell", 'c', OPTION_TEXT, &s.cell, "CELL", "only those of this cell"},
        {"name", 'n', OPTION_TEXT, &s.name, "NAME", "only those with this name"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, NULL, "only the ids, one a line"},
        {"force", 'f', OPTION_FLAG, &s.force, NULL, "rm: one that is not there is no failure"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.most = WORDS_MAX}, argc, argv, &s.words, &code))
        return code;
    return client_with(cli, work, &s);
}

const struct command command_snapshots = {
    "snapshots",
    "Snapshots and Spaces",
    "List and delete snapshots",
    "snapshots [options] | snapshots rm ID...",
    "SIZE is what a snapshot takes on the disk: MEMORY (pages that differ from the template's) and DISK (its files). A "
    "cell\n"
    "that was started from a snapshot does not need it any more.\n\n"
    "Examples:\n"
    "  cella snapshots\n"
    "  cella snapshots rm snap_0123…\n"
    "  cella snapshots rm $(cella snapshots -q --cell sbx_0123…)\n",
    run};
