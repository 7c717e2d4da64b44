/* main.c: `cella`: finds the command, runs it, ends the program with its code. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/output.h"

#define URL_DEFAULT "http://127.0.0.1:7070"

const struct command *const commands[] = {
    &command_run,      &command_exec,    &command_create,   &command_ps,        &command_rm,
    &command_cp,       &command_logs,    &command_fork,     &command_tree,      &command_diff,
    &command_merge,    &command_promote, &command_snapshot, &command_snapshots, &command_freeze,
    &command_resume,   &command_spaces,  &command_up,       &command_down,      &command_doctor,
    &command_template, &command_mcp,     &command_key,     &command_version,  &command_help,      NULL};

const struct command *command_find(const char *name) {
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int unknown(const char *name) {
    struct err e;
    (void)err_hint(&e, CLI_USAGE, "`cella help` lists the commands", "unknown command \"%.60s\"", name);
    return cli_fail(&e);
}

/* Options in front of the command (`cella -o json ps`) belong to it. */
static int dispatch(struct cli *cli, int argc, char **argv) {
    int at = 1;
    while (at < argc && argv[at][0] == '-') {
        if (strcmp(argv[at], "--version") == 0) return command_version.run(cli, &command_version, 0, NULL);
        if (strcmp(argv[at], "-h") == 0 || strcmp(argv[at], "--help") == 0)
            return command_help.run(cli, &command_help, 0, NULL);
        bool has_value = strcmp(argv[at], "-o") == 0 || strcmp(argv[at], "--output") == 0 ||
                         strcmp(argv[at], "--url") == 0 || strcmp(argv[at], "--key") == 0;
        at += has_value ? 2 : 1;
    }
    if (at >= argc) return command_help.run(cli, &command_help, 0, NULL);
    const struct command *command = command_find(argv[at]);
    if (!command) return unknown(argv[at]);
    for (int i = at; i > 1; i--) argv[i] = argv[i - 1]; /* the options move behind the command's name */
    return command->run(cli, command, argc - 2, argv + 2);
}

static char *without_slash(const char *url) {
    char *copy = strdup(url);
    if (!copy) abort();
    size_t n = strlen(copy);
    while (n > 0 && copy[n - 1] == '/') copy[--n] = 0;
    return copy;
}

int main(int argc, char **argv) {
    const char *url = getenv("CELLA_URL"), *key = getenv("CELLA_API_KEY");
    char *plain = without_slash(url && *url ? url : URL_DEFAULT);
    struct cli cli = {.url = plain, .key = key && *key ? key : NULL};
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN);
    int code = dispatch(&cli, argc, argv);
    free(plain);
    if ((fflush(stdout) != 0 || output_failed()) && code == EXIT_OK) {
        fprintf(stderr, "cella: the output could not be written\n");
        code = EXIT_CELLA;
    }
    return code;
}
