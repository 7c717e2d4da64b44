/* cella help */
#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/cli.h"
#include "cli/help_topics.h"

static void overview(void) {
    static const char *const groups[] = {"Running code",         "Cells",     "Branches",
                                         "Snapshots and Spaces", "Operation", "Other"};
    printf("Cella runs code that nobody reviewed, in cells: isolated copies of a warm Python.\n\nUsage: cella COMMAND "
           "[options]\n");
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        printf("\n%s\n", groups[g]);
        for (size_t i = 0; commands[i]; i++)
            if (strcmp(commands[i]->group, groups[g]) == 0)
                printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\nTopics (cella help TOPIC)\n");
    for (const struct help_topic *t = help_topics; t->name; t++) printf("  %-10s %s\n", t->name, t->summary);
    printf("\nFirst steps:\n"
           "  sudo cella template build python      once, about a minute\n"
           "  sudo cella up -d\n"
           "  cella run -c 'import pandas as pd; pd.DataFrame({\"x\": [1, 2]})'\n\n"
           "Every command knows -o json, --url URL, --key KEY and --help. `cella help COMMAND` has examples.\n");
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct words words;
    int code;
    if (!arguments_take(cli, command, NULL, (struct arguments_form){.most = 1}, argc, argv, &words, &code)) return code;
    if (words.count == 0) {
        overview();
        return EXIT_OK;
    }
    for (const struct help_topic *t = help_topics; t->name; t++)
        if (strcmp(t->name, words.word[0]) == 0) {
            printf("%s", t->text);
            return EXIT_OK;
        }
    const struct command *about = command_find(words.word[0]);
    if (!about) {
        struct err e;
        (void)err_hint(&e, CLI_USAGE, "`cella help` lists commands and topics", "there is no help on \"%.60s\"",
                       words.word[0]);
        return cli_fail(&e);
    }
    char flag[] = "--help", *ask[] = {flag};
    return about == command ? (arguments_help(command, NULL), EXIT_OK) : about->run(cli, about, 1, ask);
}

const struct command command_help = {"help",
                                     "Other",
                                     "Explain a command or a topic",
                                     "help [COMMAND|TOPIC]",
                                     "Examples:\n  cella help run\n  cella help exit-codes\n",
                                     run};
