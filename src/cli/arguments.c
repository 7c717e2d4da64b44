#include "cli/arguments.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct common {
    const char *output;
    bool help;
};

static const char *const see_help = "`cella help COMMAND` shows the options and examples";

static int wrong(struct err *e, const char *before, const char *what, const char *after) {
    return err_hint(e, CLI_USAGE, see_help, "%s%.100s%s", before, what, after);
}

static int store_number(const struct option *o, const char *text, struct err *e) {
    char *end = NULL;
    errno = 0;
    if (o->kind == OPTION_WHOLE) {
        long long n = strtoll(text, &end, 10);
        if (errno || end == text || *end || n < 0) return wrong(e, "--", o->name, " needs a whole number");
        *(int64_t *)o->to = n;
        return 0;
    }
    double seconds = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(seconds) || seconds < 0)
        return wrong(e, "--", o->name, " needs a number of seconds");
    *(double *)o->to = seconds;
    return 0;
}

static int store(const struct option *o, const char *text, struct err *e) {
    struct words *list = o->to;
    switch (o->kind) {
    case OPTION_FLAG: *(bool *)o->to = true; return 0;
    case OPTION_TEXT: *(const char **)o->to = text; return 0;
    case OPTION_LIST:
        if (list->count == WORDS_MAX) return wrong(e, "--", o->name, " is given too often");
        list->word[list->count++] = text;
        return 0;
    case OPTION_WHOLE:
    case OPTION_SECONDS: return store_number(o, text, e);
    }
    return 0;
}

static const struct option *by_name(const struct option *options, const char *name, size_t length) {
    for (const struct option *o = options; o && o->name; o++)
        if (strlen(o->name) == length && memcmp(o->name, name, length) == 0) return o;
    return NULL;
}

static const struct option *by_letter(const struct option *options, char letter) {
    for (const struct option *o = options; o && o->name; o++)
        if (o->letter == letter) return o;
    return NULL;
}

/* "--name", "--name=value" or "--name value". Advances *i over a value of its own. */
static int take_long(const struct option *own, const struct option *common, int argc, char **argv, int *i,
                     struct err *e) {
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    const struct option *o = by_name(own, name, length);
    if (!o) o = by_name(common, name, length);
    if (!o) return wrong(e, "unknown option ", argv[*i], "");
    if (o->kind == OPTION_FLAG) return equals ? wrong(e, "--", o->name, " takes no value") : store(o, NULL, e);
    if (equals) return store(o, equals + 1, e);
    if (*i + 1 >= argc) return wrong(e, "--", o->name, " needs a value");
    return store(o, argv[++*i], e);
}

/* "-a", "-ab", "-o value" or "-ovalue". */
static int take_short(const struct option *own, const struct option *common, int argc, char **argv, int *i,
                      struct err *e) {
    for (const char *p = argv[*i] + 1; *p; p++) {
        const struct option *o = by_letter(own, *p);
        if (!o) o = by_letter(common, *p);
        if (!o) return wrong(e, "unknown option ", argv[*i], "");
        if (o->kind == OPTION_FLAG) {
            if (store(o, NULL, e) < 0) return -1;
            continue;
        }
        if (p[1]) return store(o, p + 1, e);
        if (*i + 1 >= argc) return wrong(e, "--", o->name, " needs a value");
        return store(o, argv[++*i], e);
    }
    return 0;
}

static int keep_word(struct words *words, const char *word, struct err *e) {
    if (words->count == WORDS_MAX) return wrong(e, "too many words after \"", words->word[0], "\"");
    words->word[words->count++] = word;
    return 0;
}

static int parse_all(const struct option *own, const struct option *common, struct arguments_form form, int argc,
                     char **argv, struct words *words, struct err *e) {
    bool options_over = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        bool is_option = !options_over && word[0] == '-' && word[1];
        if (!options_over && strcmp(word, "--") == 0) {
            options_over = true;
        } else if (!is_option) {
            if (keep_word(words, word, e) < 0) return -1;
            /* The first word of the program ends the options: what follows is the program's own. */
            if (form.rest_from && words->count == form.rest_from) options_over = true;
        } else if ((word[1] == '-' ? take_long : take_short)(own, common, argc, argv, &i, e) < 0) {
            return -1;
        }
    }
    return 0;
}

static int check_words(const struct command *command, struct arguments_form form, const struct words *words,
                       struct err *e) {
    if (words->count < form.least)
        return err_hint(e, CLI_USAGE, see_help, "something is missing: cella %s", command->usage);
    if (!form.rest_from && words->count > form.most)
        return err_hint(e, CLI_USAGE, see_help, "one word too many (\"%.100s\"): cella %s", words->word[form.most],
                        command->usage);
    return 0;
}

enum arguments_result arguments_parse(struct cli *cli, const struct command *command, const struct option *options,
                                      struct arguments_form form, int argc, char **argv, struct words *words,
                                      struct err *e) {
    struct common common = {0};
    const struct option shared[] = {{"output", 'o', OPTION_TEXT, &common.output, "FORMAT", ""},
                                    {"url", 0, OPTION_TEXT, &cli->url, "URL", ""},
                                    {"key", 0, OPTION_TEXT, &cli->key, "KEY", ""},
                                    {"help", 'h', OPTION_FLAG, &common.help, NULL, ""},
                                    {0}};
    words->count = 0;
    int result = parse_all(options, shared, form, argc, argv, words, e);
    if (common.help) {
        arguments_help(command, options);
        return ARGUMENTS_HELP;
    }
    if (result < 0) return ARGUMENTS_WRONG;
    if (common.output) {
        if (strcmp(common.output, "json") != 0 && strcmp(common.output, "table") != 0) {
            (void)err_hint(e, CLI_USAGE, "-o takes json or table", "unknown output format \"%.40s\"", common.output);
            return ARGUMENTS_WRONG;
        }
        cli->json = strcmp(common.output, "json") == 0;
    }
    return check_words(command, form, words, e) < 0 ? ARGUMENTS_WRONG : ARGUMENTS_OK;
}

bool arguments_take(struct cli *cli, const struct command *command, const struct option *options,
                    struct arguments_form form, int argc, char **argv, struct words *words, int *exit_code) {
    struct err e;
    switch (arguments_parse(cli, command, options, form, argc, argv, words, &e)) {
    case ARGUMENTS_OK: return true;
    case ARGUMENTS_HELP: *exit_code = EXIT_OK; return false;
    case ARGUMENTS_WRONG: break;
    }
    *exit_code = cli_fail(&e);
    return false;
}

void arguments_help(const struct command *command, const struct option *options) {
    printf("%s.\n\nUsage: cella %s\n", command->summary, command->usage);
    if (options && options->name) printf("\nOptions:\n");
    for (const struct option *o = options; o && o->name; o++) {
        char left[64];
        char letter[5] = "    ";
        if (o->letter) (void)snprintf(letter, sizeof letter, "-%c, ", o->letter);
        (void)snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-30s %s\n", left, o->help);
    }
    printf("%s  -o, --output json              JSON instead of a table\n",
           options && options->name ? "" : "\nOptions:\n");
    if (command->teach) printf("\n%s", command->teach);
}
