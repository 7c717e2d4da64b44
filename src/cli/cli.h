/* cli.h: what every command of `cella` shares: exit codes, the table of commands, and the settings of one call.
 *
 * A command is one file with one function. It parses its own words with arguments.h, talks to the daemon with client.h
 * and returns an exit code; only main.c ends the program. Everything is single-threaded. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* What a shell script can rely on (`cella help exit-codes`). `exec` and `run` pass on the program's own code. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_CODE_FAILED = 1, /* the code in the cell raised an error, or doctor found something missing */
    EXIT_USAGE = 2,
    EXIT_UNREACHABLE = 3, /* no daemon answers */
    EXIT_NOT_FOUND = 4,
    EXIT_REFUSED = 5, /* limit, permission, conflict, full disk */
    EXIT_TIMEOUT = 124,
    EXIT_CELLA = 125, /* Cella itself failed */
    EXIT_INTERRUPTED = 130,
    EXIT_KILLED = 137, /* out of memory, or killed */
};

/* Machine words that only the CLI uses, next to those of base/err.h. */
#define CLI_UNREACHABLE "unreachable"
#define CLI_INTERRUPTED "interrupted"
#define CLI_USAGE "usage"

struct cli {
    bool json;       /* -o json */
    const char *url; /* without a slash at the end */
    const char *key; /* NULL: none */
};

struct command {
    const char *name;
    const char *group;   /* heading in `cella help` */
    const char *summary; /* one line */
    const char *usage;   /* "exec [options] CELL -- COMMAND [ARGUMENT...]", without "cella" */
    const char *teach;   /* paragraphs and examples under the options in help */
    int (*run)(struct cli *, const struct command *, int argc,
               char **argv); /* argv[0] is the first word after the name */
};
extern const struct command *const commands[]; /* ends with NULL */
const struct command *command_find(const char *name);

/* Print "cella: text" and "hint: …" on stderr; return the exit code that belongs to e->code. */
int cli_fail(const struct err *e);
int exit_code_of(const char *code);
/* The exit code for an Execution's or process's "exit" word; `code` is its exit_code when it has one, else -1. */
int exit_code_of_outcome(const char *exit_word, int code);

/* SIGINT was received since interrupt_watch(); a client call in flight then ends with CLI_INTERRUPTED. */
void interrupt_watch(void);
bool interrupted(void);
void interrupt_clear(void);

extern const struct command command_up, command_down, command_doctor, command_run, command_exec, command_ps,
    command_create, command_rm, command_logs, command_cp, command_template, command_key, command_version, command_help,
    command_fork, command_tree, command_diff, command_merge, command_promote, command_snapshot, command_snapshots,
    command_freeze, command_resume, command_spaces, command_mcp;
