/* exec_input.h: a command in a cell that reads this program's stdin while it runs, over a WebSocket. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "cli/output.h"

struct cli;
struct err;
struct json_object;

struct exec_input {
    const struct cli *cli;
    const char *cell;
    struct json_object *body; /* as for POST …/exec */
    struct cell_output *out;
    /* how it ended */
    int exit_code, signal; /* -1, 0: none */
    char exit_word[16];
    bool replaced; /* output that was no UTF-8 */
};
int exec_input_run(struct exec_input *, struct err *);

/* How many of the n bytes are whole UTF-8 characters, counted from the start; *wrong: what follows is no beginning of
 * one. JSON carries text only. */
size_t utf8_whole(const char *bytes, size_t n, bool *wrong);
