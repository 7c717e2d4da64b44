/* tools.h: the tools that models see, and what each needs. */
#pragma once
#include <json-c/json.h>

struct call;

enum tool_place {
    PLACE_NONE,     /* no sandbox */
    PLACE_ANY,      /* the one that is named, else the session's own, else a new one */
    PLACE_EXISTING, /* the same, but none is made for it */
};

struct tool {
    const char *name, *title, *description;
    const char *properties; /* of the input's schema, a JSON object; "sandbox" is added to those with a place */
    const char *required;   /* a JSON list */
    enum tool_place place;
    unsigned hints;
    void (*run)(struct call *);
    const char *span; /* how its calls are called in a trace */
};
#define HINT_READS 1u      /* changes nothing */
#define HINT_DESTROYS 2u   /* may undo or remove what is there */
#define HINT_IDEMPOTENT 4u /* again is the same as once */

const struct tool *tool_find(const char *name);
/* The list for tools/list; new reference. */
struct json_object *tools_list(void);

/* tool_code.c */
void tool_run_code(struct call *);
void tool_run_shell(struct call *);
/* tool_files.c */
void tool_read_file(struct call *);
void tool_write_file(struct call *);
void tool_list_files(struct call *);
/* tool_branches.c */
void tool_fork(struct call *);
void tool_merge(struct call *);
void tool_snapshot(struct call *);
/* tool_sandboxes.c */
void tool_create(struct call *);
void tool_list(struct call *);
void tool_delete(struct call *);
