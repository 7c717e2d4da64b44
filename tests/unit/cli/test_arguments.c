/* The words of a command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/arguments.h"

/* commands of other files refer to these two of main.c */
const struct command *const commands[] = {NULL};
const struct command *command_find(const char *name) {
    (void)name;
    return NULL;
}

static const struct command command = {"try", "Other", "Try", "try [options] A B", NULL, NULL};
static const char *text;
static bool flag, other;
static int64_t whole;
static double seconds;
static struct words list, words;
static struct cli cli;
static struct err e;

static const struct option options[] = {{"text", 't', OPTION_TEXT, &text, "TEXT", ""},
                                        {"flag", 'f', OPTION_FLAG, &flag, NULL, ""},
                                        {"other", 'g', OPTION_FLAG, &other, NULL, ""},
                                        {"whole", 0, OPTION_WHOLE, &whole, "N", ""},
                                        {"seconds", 0, OPTION_SECONDS, &seconds, "N", ""},
                                        {"list", 'l', OPTION_LIST, &list, "X", ""},
                                        {0}};

static int start(void **state) {
    (void)state;
    text = NULL;
    flag = other = false;
    whole = -1;
    seconds = -1;
    list.count = words.count = 0;
    cli = (struct cli){.url = "u"};
    return 0;
}

static enum arguments_result parse(struct arguments_form form, const char *const *argv) {
    int argc = 0;
    while (argv[argc]) argc++;
    return arguments_parse(&cli, &command, options, form, argc, (char **)argv, &words, &e);
}
#define PARSE(form, ...) parse(form, (const char *const[]){__VA_ARGS__, NULL})
#define ANY ((struct arguments_form){.most = 9})
#define CELL_COMMAND ((struct arguments_form){.least = 1, .rest_from = 2})

static void options_in_every_spelling(void **state) {
    (void)state;
    assert_int_equal(PARSE(ANY, "one", "--text=x", "-fg", "two", "--whole", "7", "--seconds", "1.5", "-l", "a", "-lb"),
                     ARGUMENTS_OK);
    assert_string_equal(text, "x");
    assert_true(flag && other);
    assert_int_equal(whole, 7);
    assert_true(seconds > 1.49 && seconds < 1.51);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.word[1], "b");
    assert_int_equal(words.count, 2);
    assert_string_equal(words.word[1], "two");
}

static void dashes_end_the_options(void **state) {
    (void)state;
    assert_int_equal(PARSE(ANY, "--", "-f", "--", "-"), ARGUMENTS_OK);
    assert_false(flag);
    assert_int_equal(words.count, 3);
    assert_string_equal(words.word[1], "--");
    assert_int_equal(PARSE(ANY, "-"), ARGUMENTS_OK); /* stdin, no option */
    assert_string_equal(words.word[0], "-");
}

static void a_program_keeps_its_options(void **state) {
    (void)state;
    assert_int_equal(PARSE(CELL_COMMAND, "-f", "cell", "-t", "x", "ls", "-l", "--flag", "--", "y"), ARGUMENTS_OK);
    assert_int_equal(words.count, 6); /* cell ls -l --flag -- y */
    assert_string_equal(words.word[2], "-l");
    assert_string_equal(words.word[4], "--");
    assert_string_equal(text, "x");
    assert_int_equal(list.count, 0);
    start(NULL);
    assert_int_equal(PARSE(CELL_COMMAND, "cell", "--", "-odd-program", "-f"), ARGUMENTS_OK);
    assert_string_equal(words.word[1], "-odd-program");
    assert_false(flag);
}

static void common_options(void **state) {
    (void)state;
    assert_int_equal(PARSE(ANY, "-o", "json", "--url", "http://x", "--key=k"), ARGUMENTS_OK);
    assert_true(cli.json);
    assert_string_equal(cli.url, "http://x");
    assert_string_equal(cli.key, "k");
    assert_int_equal(PARSE(ANY, "-o", "table"), ARGUMENTS_OK);
    assert_false(cli.json);
}

static void wrong_words_are_said(void **state) {
    (void)state;
    assert_int_equal(PARSE(ANY, "--nothing"), ARGUMENTS_WRONG);
    assert_non_null(strstr(e.text, "--nothing"));
    assert_string_equal(e.code, CLI_USAGE);
    assert_int_equal(exit_code_of(e.code), EXIT_USAGE);
    assert_int_equal(PARSE(ANY, "--text"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "--flag=1"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "-fx"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "--whole", "-3"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "--whole", "3x"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "--whole", "99999999999999999999"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "--seconds", "nan"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "--seconds", ""), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(ANY, "-o", "xml"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(((struct arguments_form){.least = 2, .most = 2}), "a"), ARGUMENTS_WRONG);
    assert_int_equal(PARSE(((struct arguments_form){.least = 1, .most = 1}), "a", "b"), ARGUMENTS_WRONG);
    assert_non_null(strstr(e.text, "\"b\""));
}

static void too_many_words(void **state) {
    (void)state;
    static char *argv[WORDS_MAX + 1];
    static char word[] = "w";
    for (size_t i = 0; i < WORDS_MAX + 1; i++) argv[i] = word;
    assert_int_equal(arguments_parse(&cli, &command, options, CELL_COMMAND, WORDS_MAX, argv, &words, &e), ARGUMENTS_OK);
    assert_int_equal(arguments_parse(&cli, &command, options, CELL_COMMAND, WORDS_MAX + 1, argv, &words, &e),
                     ARGUMENTS_WRONG);
}

static void exit_codes_mean_something(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(CLI_UNREACHABLE), 3);
    assert_int_equal(exit_code_of(ERR_NOT_FOUND), 4);
    assert_int_equal(exit_code_of(ERR_GONE), 4);
    assert_int_equal(exit_code_of(ERR_LIMIT), 5);
    assert_int_equal(exit_code_of(ERR_NO_SPACE), 5);
    assert_int_equal(exit_code_of(ERR_LOST), 125);
    assert_int_equal(exit_code_of("a word of next year"), 125);
    assert_int_equal(exit_code_of(NULL), 125);
    assert_int_equal(exit_code_of_outcome("ok", -1), 0);
    assert_int_equal(exit_code_of_outcome("ok", 3), 3);
    assert_int_equal(exit_code_of_outcome("error", -1), 1);
    assert_int_equal(exit_code_of_outcome("error", 7), 7);
    assert_int_equal(exit_code_of_outcome("timeout", 9), 124);
    assert_int_equal(exit_code_of_outcome("oom", -1), 137);
    assert_int_equal(exit_code_of_outcome("killed", 143), 143);
    assert_int_equal(exit_code_of_outcome("lost", 0), 125); /* never an invented 0 */
    assert_int_equal(exit_code_of_outcome("", 0), 125);
    assert_int_equal(exit_code_of_outcome(NULL, 0), 125);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(options_in_every_spelling, start),
                                       cmocka_unit_test_setup(dashes_end_the_options, start),
                                       cmocka_unit_test_setup(a_program_keeps_its_options, start),
                                       cmocka_unit_test_setup(common_options, start),
                                       cmocka_unit_test_setup(wrong_words_are_said, start),
                                       cmocka_unit_test_setup(too_many_words, start),
                                       cmocka_unit_test(exit_codes_mean_something)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
