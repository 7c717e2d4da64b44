/* cella ps */
#include <json-c/json.h>
#include <stdio.h>
#include <time.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/cell_options.h"
#include "cli/client.h"
#include "cli/listing.h"
#include "cli/output.h"

/* Does any cell have this text? A column that nobody needs is left out. */
static bool any_has(struct json_object *cells, const char *key) {
    for (size_t i = 0; i < json_object_array_length(cells); i++)
        if (*json_text(json_object_array_get_idx(cells, i), key, "")) return true;
    return false;
}

static void open_table(struct table *t, bool parents, bool spaces) {
    const char *heading[TABLE_COLUMNS] = {"ID", "TEMPLATE", "STATUS", "AGE", "ENDS IN", "CPUS", "MEMORY", "DRIVER"};
    size_t n = 8;
    if (parents) heading[n++] = "PARENT";
    if (spaces) heading[n++] = "SPACE";
    heading[n++] = "METADATA";
    table_open(t, n, heading);
}

static void print_table(struct json_object *cells) {
    bool parents = any_has(cells, "parent_id"), spaces = any_has(cells, "space_id");
    struct table t;
    open_table(&t, parents, spaces);
    for (size_t i = 0; i < json_object_array_length(cells); i++) {
        struct json_object *cell = json_object_array_get_idx(cells, i), *cpu = json_object_object_get(cell, "cpu");
        char text[16];
        struct buf metadata = {0};
        table_add(&t, json_text(cell, "id", NULL));
        table_add(&t, json_text(cell, "template", NULL));
        table_add(&t, json_text(cell, "status", NULL));
        table_add(&t, age_text(text, json_text(cell, "created_at", NULL), (int64_t)time(NULL)));
        int64_t remaining = json_whole(cell, "remaining_seconds", -1);
        if (remaining >= 0)
            table_addf(&t, "%lld s", (long long)remaining);
        else
            table_add(&t, NULL);
        table_add(&t, cpu ? json_object_get_string(cpu) : NULL);
        int64_t memory = json_whole(cell, "memory_mb", -1);
        table_add(&t, memory < 0 ? NULL : size_text(text, memory * 1000000));
        table_add(&t, json_text(cell, "driver", NULL));
        if (parents) table_addf(&t, "%.12s", json_text(cell, "parent_id", ""));
        if (spaces) table_addf(&t, "%.14s", json_text(cell, "space_id", ""));
        output_labels(cell, &metadata);
        table_add(&t, metadata.data);
        buf_free(&metadata);
    }
    table_print(&t);
}

struct ps {
    bool quiet;
    struct words metadata;
};

static int list(struct client *c, void *arg, struct err *e) {
    const struct ps *ps = arg;
    struct json_object *pairs = pairs_json(&ps->metadata, "--metadata", e); /* only to check them */
    if (!pairs) return -1;
    json_object_put(pairs);
    struct buf path = {0};
    buf_str(&path, "/v1/sandboxes");
    for (size_t i = 0; i < ps->metadata.count; i++) path_query(&path, "metadata", ps->metadata.word[i]);
    int result = listing_show(c, &(struct listing){path.data, "cells", "id", ps->quiet, print_table}, e);
    buf_free(&path);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct ps ps;
    static struct words words;
    const struct option options[] = {
        {"quiet", 'q', OPTION_FLAG, &ps.quiet, NULL, "only the ids, one a line"},
        {"metadata", 'm', OPTION_LIST, &ps.metadata, "KEY=VALUE", "only cells with this label; may be repeated"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){0}, argc, argv, &words, &code)) return code;
    return client_with(cli, list, &ps);
}

const struct command command_ps = {
    "ps",
    "Cells",
    "List the cells that are alive or frozen",
    "ps [-q] [-m KEY=VALUE]...",
    "A frozen cell is \"hibernated\". For a cell in a Space, ENDS IN is the time until it "
    "freezes.\n\n"
    "Examples:\n"
    "  cella ps                      every cell, oldest first\n"
    "  cella ps -m team=data -q      ids of the cells with that label\n"
    "  cella rm $(cella ps -q)       end them all\n",
    run};
