/* arguments.h: the words of a command line: long and short options mixed with positional words, `--` ends the options.
 *
 *   bool all = false; const char *template = "default"; struct words env = {0};
 *   const struct option options[] = {
 *       {"all", 'a', OPTION_FLAG, &all, NULL, "also the ones that ended"},
 *       {"template", 't', OPTION_TEXT, &template, "NAME", "template to start from"},
 *       {"env", 'e', OPTION_LIST, &env, "NAME=VALUE", "environment variable; may be repeated"},
 *       {0}};
 *
 * -o/--output, --url, --key and -h/--help are known to every command and go into struct cli. Strings point into argv
 * and are not copied. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/cli.h"

#define WORDS_MAX 512

struct words {
    const char *word[WORDS_MAX];
    size_t count;
};

struct option {
    const char *name;
    char letter; /* 0: none */
    enum option_kind { OPTION_FLAG, OPTION_TEXT, OPTION_LIST, OPTION_WHOLE, OPTION_SECONDS } kind;
    void *to; /* bool, const char *, struct words, int64_t, double */
    const char *value;
    const char *help;
};

enum arguments_result { ARGUMENTS_OK, ARGUMENTS_HELP, ARGUMENTS_WRONG };

/* What the positional words may be. */
struct arguments_form {
    size_t least, most;
    size_t rest_from; /* 0: never; n: the n-th word names a program, and everything after it is the program's, options
                         included */
};

/* Fill the options and `words`. HELP: help was printed on stdout. WRONG: *e says what, with a hint. `--` is dropped. */
enum arguments_result arguments_parse(struct cli *, const struct command *, const struct option *options,
                                      struct arguments_form, int argc, char **argv, struct words *, struct err *e);
/* arguments_parse and what every command does with its result: true when the command shall go on; else *exit_code is
 * set. */
bool arguments_take(struct cli *, const struct command *, const struct option *options, struct arguments_form, int argc,
                    char **argv, struct words *, int *exit_code);
/* Usage, options and teaching text of one command, on stdout. options may be NULL. */
void arguments_help(const struct command *, const struct option *options);
