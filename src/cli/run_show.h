/* run_show.h: shows an execution while it runs: text as it comes, results as text, figures as files, input asked here.
 */
#pragma once
#include "cli/client.h"
#include "cli/figures.h"
#include "cli/lines.h"
#include "cli/output.h"

struct run_show {
    const struct cli *cli;
    const char *cell;
    bool stdin_taken; /* the code came from stdin: input() gets its end */
    struct figures figures;
    struct cell_output out;
    /* What the stream said: */
    char execution_id[64];
    bool ended, at_line_start;
    char exit_word[16];
    int exit_code;           /* of SystemExit or a shell, -1: none */
    int64_t first_output_us; /* monotonic; 0: none yet */
    struct err problem;      /* of this side (a file could not be written); code NULL: none */
};
/* Handler for lines.h. */
bool run_show_event(void *arg, const char *event, struct json_object *);
/* Take exit word and code from an Execution (or the end event of a stream). */
void run_show_end(struct run_show *, struct json_object *execution);
/* Figures of a whole Execution, as -o json prints it. */
int run_show_results(struct run_show *, struct json_object *execution, struct err *);
