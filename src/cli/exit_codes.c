#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

int exit_code_of(const char *code) {
    static const struct {
        const char *word;
        enum exit_code exit;
    } table[] = {
        {CLI_USAGE, EXIT_USAGE},
        {CLI_UNREACHABLE, EXIT_UNREACHABLE},
        {CLI_INTERRUPTED, EXIT_INTERRUPTED},
        {ERR_INVALID, EXIT_USAGE},
        {ERR_METHOD, EXIT_CELLA},
        {ERR_NOT_FOUND, EXIT_NOT_FOUND},
        {ERR_GONE, EXIT_NOT_FOUND},
        {ERR_UNAUTHORIZED, EXIT_REFUSED},
        {ERR_FORBIDDEN, EXIT_REFUSED},
        {ERR_PERMISSION, EXIT_REFUSED},
        {ERR_CONFLICT, EXIT_REFUSED},
        {ERR_EXISTS, EXIT_REFUSED},
        {ERR_IMAGE, EXIT_REFUSED},
        {ERR_DRIVER, EXIT_REFUSED},
        {ERR_TEMPLATE, EXIT_REFUSED},
        {ERR_TOO_LARGE, EXIT_REFUSED},
        {ERR_IS_DIRECTORY, EXIT_REFUSED},
        {ERR_NOT_DIRECTORY, EXIT_REFUSED},
        {ERR_UNSUPPORTED, EXIT_REFUSED},
        {ERR_LIMIT, EXIT_REFUSED},
        {ERR_NO_SPACE, EXIT_REFUSED},
        {ERR_TIMEOUT_REQUEST, EXIT_TIMEOUT},
    };
    for (size_t i = 0; code && i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].word, code) == 0) return (int)table[i].exit;
    return EXIT_CELLA; /* unavailable, lost, internal, and words of a newer daemon */
}

int exit_code_of_outcome(const char *word, int code) {
    if (!word) return EXIT_CELLA;
    if (strcmp(word, "ok") == 0) return code > 0 ? code : EXIT_OK;
    if (strcmp(word, "error") == 0) return code > 0 ? code : EXIT_CODE_FAILED;
    if (strcmp(word, "timeout") == 0) return EXIT_TIMEOUT;
    if (strcmp(word, "interrupted") == 0) return EXIT_INTERRUPTED;
    if (strcmp(word, "oom") == 0) return EXIT_KILLED;
    if (strcmp(word, "killed") == 0) return code > 0 ? code : EXIT_KILLED;
    return EXIT_CELLA; /* lost */
}

int cli_fail(const struct err *e) {
    (void)fflush(stdout);
    fprintf(stderr, "cella: %s\n", e->text);
    if (e->hint && *e->hint) fprintf(stderr, "hint: %s\n", e->hint);
    return exit_code_of(e->code);
}

static volatile sig_atomic_t interrupt_seen;

static void on_interrupt(int signo) {
    (void)signo;
    interrupt_seen = 1;
}

void interrupt_watch(void) {
    struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: blocking calls end with EINTR */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool interrupted(void) { return interrupt_seen != 0; }
void interrupt_clear(void) { interrupt_seen = 0; }
