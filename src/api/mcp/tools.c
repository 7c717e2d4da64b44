#include "api/mcp/tools.h"

#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"

#define SECONDS                                                                                                        \
    "{\"type\":\"number\",\"exclusiveMinimum\":0,\"description\":\"Interrupt it after this many seconds; what it did " \
    "so far stays.\"}"

/* clang-format off */
static const struct tool tools[] = {
    {"run_code", "Run code",
     "Runs code in the sandbox and returns what it prints, the value of its last expression, and figures as images. Variables, imports and "
     "files stay for the next call. Python with numpy, pandas, matplotlib and scipy.",
     "{\"code\":{\"type\":\"string\",\"description\":\"The program text.\"},"
     "\"language\":{\"type\":\"string\",\"enum\":[\"python\",\"shell\"],\"default\":\"python\"},"
     "\"timeout_seconds\":" SECONDS "}",
     "[\"code\"]", PLACE_ANY, HINT_DESTROYS, tool_run_code, "cella.execute"},
    {"run_shell", "Run a shell command",
     "Runs bash commands in the sandbox and returns what they print. The working directory, variables and functions stay for the next call.",
     "{\"command\":{\"type\":\"string\",\"description\":\"One or more lines of bash.\"},\"timeout_seconds\":" SECONDS "}",
     "[\"command\"]", PLACE_ANY, HINT_DESTROYS, tool_run_shell, "cella.execute"},
    {"read_file", "Read a file",
     "Reads a file of the sandbox: text as text, pictures as images, anything else as base64.",
     "{\"path\":{\"type\":\"string\",\"description\":\"Absolute, or relative to /workspace.\"},"
     "\"offset\":{\"type\":\"integer\",\"minimum\":0,\"default\":0,\"description\":\"First byte.\"},"
     "\"max_bytes\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":6291456,\"default\":1048576}}",
     "[\"path\"]", PLACE_ANY, HINT_READS | HINT_IDEMPOTENT, tool_read_file, "cella.files.read"},
    {"write_file", "Write a file",
     "Writes a file of the sandbox, whole or not at all. Missing directories are made.",
     "{\"path\":{\"type\":\"string\",\"description\":\"Absolute, or relative to /workspace.\"},"
     "\"content\":{\"type\":\"string\"},"
     "\"encoding\":{\"type\":\"string\",\"enum\":[\"text\",\"base64\"],\"default\":\"text\"},"
     "\"append\":{\"type\":\"boolean\",\"default\":false,\"description\":\"Put it behind what the file has.\"}}",
     "[\"path\",\"content\"]", PLACE_ANY, HINT_DESTROYS, tool_write_file, "cella.files.write"},
    {"list_files", "List files", "Lists a directory of the sandbox.",
     "{\"path\":{\"type\":\"string\",\"default\":\"/workspace\"},\"depth\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":16,\"default\":1}}",
     "[]", PLACE_ANY, HINT_READS | HINT_IDEMPOTENT, tool_list_files, "cella.files.list"},
    {"fork", "Fork the sandbox",
     "Copies the living sandbox: each child has the same memory, variables and files and goes its own way from here. Use the ids of the "
     "children as `sandbox` of the other tools, to try several things from one state.",
     "{\"count\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":16,\"default\":1,\"description\":\"How many children.\"}}", "[]", PLACE_ANY, 0,
     tool_fork, "cella.fork"},
    {"merge", "Merge a fork",
     "The sandbox becomes what the winner is: it keeps its id and takes the winner's memory, variables and files; the winner's own id is gone "
     "afterwards. The winner must come from the same fork.",
     "{\"winner\":{\"type\":\"string\",\"description\":\"Id of the child that was right.\"}}", "[\"winner\"]", PLACE_EXISTING, HINT_DESTROYS,
     tool_merge, "cella.merge"},
    {"snapshot", "Take a snapshot",
     "Writes the sandbox as it is now to the disk, memory included. create_sandbox with from_snapshot starts from it, any time later.",
     "{\"name\":{\"type\":\"string\",\"description\":\"A name to find it by.\"}}", "[]", PLACE_EXISTING, 0, tool_snapshot, "cella.snapshot"},
    {"create_sandbox", "Create a sandbox", "Makes another sandbox, fresh or from a snapshot, and returns its id.",
     "{\"template\":{\"type\":\"string\",\"description\":\"What is installed in it; the default has Python with the usual libraries.\"},"
     "\"from_snapshot\":{\"type\":\"string\",\"description\":\"Id or name of a snapshot.\"}}",
     "[]", PLACE_NONE, 0, tool_create, "cella.create"},
    {"list_sandboxes", "List sandboxes", "Lists the sandboxes of this session: its own, its forks and others that were made in it.", "{}", "[]",
     PLACE_NONE, HINT_READS | HINT_IDEMPOTENT, tool_list, "cella.list"},
    {"delete_sandbox", "Delete a sandbox", "Ends a sandbox; everything in it is lost.", "{}", "[\"sandbox\"]", PLACE_EXISTING, HINT_DESTROYS,
     tool_delete, "cella.delete"},
};
/* clang-format on */
#define TOOLS (sizeof tools / sizeof *tools)

const struct tool *tool_find(const char *name) {
    for (size_t i = 0; i < TOOLS; i++)
        if (strcmp(tools[i].name, name) == 0) return &tools[i];
    return NULL;
}

/* The table is ours: a text that is no JSON is a mistake of this file, seen by the first test. */
static struct json_object *parsed(const char *text) {
    struct json_object *o = json_tokener_parse(text);
    if (!o) abort();
    return o;
}

static struct json_object *schema(const struct tool *t) {
    struct json_object *o = json_object_new_object(), *properties = parsed(t->properties),
                       *required = parsed(t->required);
    json_set_text(o, "type", "object");
    if (t->place != PLACE_NONE)
        json_set(
            properties, "sandbox",
            parsed(
                "{\"type\":\"string\",\"description\":\"Id of the sandbox (sbx_…), when it is not the session's own: "
                "a child of fork, for example.\"}"));
    json_set(o, "properties", properties);
    json_set(o, "required", required);
    return o;
}

static struct json_object *annotations(const struct tool *t) {
    struct json_object *o = json_object_new_object();
    json_set_text(o, "title", t->title);
    json_set_flag(o, "readOnlyHint", t->hints & HINT_READS);
    json_set_flag(o, "destructiveHint", (t->hints & HINT_DESTROYS) != 0);
    json_set_flag(o, "idempotentHint", (t->hints & HINT_IDEMPOTENT) != 0);
    json_set_flag(o, "openWorldHint", false); /* a sandbox is a world of its own */
    return o;
}

struct json_object *tools_list(void) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < TOOLS; i++) {
        struct json_object *o = json_object_new_object();
        json_set_text(o, "name", tools[i].name);
        json_set_text(o, "title", tools[i].title);
        json_set_text(o, "description", tools[i].description);
        json_set(o, "inputSchema", schema(&tools[i]));
        json_set(o, "annotations", annotations(&tools[i]));
        json_object_array_add(list, o);
    }
    return list;
}
