/* cella tree */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/tree.h"

const struct tree_lines tree_lines_utf8 = {"\xe2\x94\x9c\xe2\x94\x80 ", "\xe2\x94\x94\xe2\x94\x80 ", "\xe2\x94\x82  ",
                                           "   "};
const struct tree_lines tree_lines_ascii = {"|- ", "`- ", "|  ", "   "};

/* A cell's own memory. A frozen or ended one has none, and asking a frozen one would wake it. */
static int64_t memory_of(struct client *c, struct json_object *node) {
    const char *state = json_text(node, "state", "");
    if (strcmp(state, "running") != 0 && strcmp(state, "paused") != 0) return -1;
    struct buf path = {0};
    struct json_object *stats = NULL;
    struct err e; /* it may have ended since: then it has no memory either */
    path_cell(&path, json_text(node, "id", ""), "/stats");
    int64_t bytes =
        client_json(c, "GET", path.data, NULL, &stats, &e) == 0 ? json_whole(stats, "memory_bytes", -1) : -1;
    json_object_put(stats);
    buf_free(&path);
    return bytes;
}

static void add_row(struct tree_show *t, struct json_object *node, const char *lines) {
    const char *id = json_text(node, "id", "-");
    char text[16];
    struct buf name = {0}, labels = {0};
    buf_printf(&name, "%s%s%s", lines, id, t->asked && strcmp(id, t->asked) == 0 ? " *" : "");
    table_add(&t->table, name.data);
    table_add(&t->table, json_text(node, "state", NULL));
    table_add(&t->table, age_text(text, json_text(node, "created_at", NULL), (int64_t)time(NULL)));
    if (t->memory_of) {
        int64_t bytes = t->memory_of(t->client, node);
        table_add(&t->table, bytes < 0 ? NULL : size_text(text, bytes));
        if (bytes > 0) t->memory_bytes += bytes;
    }
    output_labels(node, &labels);
    table_add(&t->table, labels.data);
    table_add(&t->table, json_text(node, "reason", NULL));
    buf_free(&name);
    buf_free(&labels);
}

/* `lead` is what stands in front of the node's children, and is left as it was. */
static void add_node(struct tree_show *t, struct json_object *node, struct buf *lead, const char *corner) {
    struct buf line = {0};
    if (lead->len) buf_append(&line, lead->data, lead->len);
    buf_str(&line, corner ? corner : "");
    add_row(t, node, line.data);
    buf_free(&line);
    struct json_object *children = json_object_object_get(node, "children");
    size_t n = json_object_is_type(children, json_type_array) ? json_object_array_length(children) : 0,
           before = lead->len;
    if (corner) buf_str(lead, strcmp(corner, t->lines->last) == 0 ? t->lines->under_last : t->lines->under);
    for (size_t i = 0; i < n; i++)
        add_node(t, json_object_array_get_idx(children, i), lead, i + 1 < n ? t->lines->child : t->lines->last);
    if (lead->data) lead->data[lead->len = before] = 0;
}

void tree_fill(struct tree_show *t, struct json_object *root) {
    static const char *const plain[] = {"CELL", "STATE", "AGE", "METADATA", "NOTE"};
    static const char *const with_memory[] = {"CELL", "STATE", "AGE", "MEMORY", "METADATA", "NOTE"};
    struct buf lead = {0};
    table_open(&t->table, t->memory_of ? 6 : 5, t->memory_of ? with_memory : plain);
    add_node(t, root, &lead, NULL);
    buf_free(&lead);
}

struct tree_call {
    const char *cell;
    bool memory, ascii;
};

static int work(struct client *c, void *arg, struct err *e) {
    const struct tree_call *call = arg;
    struct json_object *answer = NULL;
    struct buf path = {0};
    path_cell(&path, call->cell, "/tree");
    int result = client_json(c, "GET", path.data, NULL, &answer, e);
    buf_free(&path);
    struct json_object *root = json_object_object_get(answer, "tree");
    if (result == 0 && !json_object_is_type(root, json_type_object))
        result = err_set(e, ERR_INTERNAL, "the daemon's answer holds no tree");
    if (result == 0 && c->cli->json) {
        output_json(answer);
    } else if (result == 0) {
        struct tree_show t = {.lines = !call->ascii && output_utf8() ? &tree_lines_utf8 : &tree_lines_ascii,
                              .asked = call->cell,
                              .memory_of = call->memory ? memory_of : NULL,
                              .client = c};
        tree_fill(&t, root);
        table_print(&t.table);
        char text[16];
        if (call->memory) printf("together %s\n", size_text(text, t.memory_bytes));
    }
    json_object_put(answer);
    return result;
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct tree_call call;
    static struct words words;
    const struct option options[] = {
        {"memory", 'm', OPTION_FLAG, &call.memory, NULL, "with the memory of each cell, asked for one by one"},
        {"ascii", 0, OPTION_FLAG, &call.ascii, NULL, "draw with ASCII, also when the locale is UTF-8"},
        {0}};
    int code;
    if (!arguments_take(cli, command, options, (struct arguments_form){.least = 1, .most = 1}, argc, argv, &words,
                        &code))
        return code;
    call.cell = words.word[0];
    return client_with(cli, work, &call);
}

const struct command command_tree = {
    "tree",
    "Branches",
    "Draw a cell's family: parent, siblings, children",
    "tree [-m] [--ascii] CELL",
    "The cell asked for is marked with *. Cells that ended stay in the picture, with the reason.\n"
    "Memory (-m) is what is charged to each cell: pages that a branch shares with its parent count once, with the one "
    "that\n"
    "made them. Frozen cells have none, and looking does not wake them.\n\n"
    "Examples:\n"
    "  cella tree sbx_0123…\n"
    "  cella tree -m sbx_0123…        with memory\n"
    "  cella -o json tree sbx_0123…   for a program\n",
    run};
