#include "base/fault.h"

#ifdef CELLA_FAULTS
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum action { NONE, KILL, ERROR, NOSPACE };

/* Take the entry of this name out of the list; what it asks for. */
static enum action take(const char *name) {
    static char list[512];
    static bool read;
    const size_t n = strlen(name);
    if (!read) {
        const char *said = getenv("CELLA_FAULT");
        (void)snprintf(list, sizeof list, ",%s,", said ? said : "");
        read = true;
    }
    for (char *at = list; (at = strchr(at, ',')); at++) {
        if (strncmp(at + 1, name, n) != 0 || at[1 + n] != ':') continue;
        const char *word = at + 2 + n;
        enum action a = !strncmp(word, "kill,", 5) ? KILL : !strncmp(word, "nospace,", 8) ? NOSPACE : !strncmp(word, "error,", 6) ? ERROR : NONE;
        memset(at + 1, '-', n);
        return a;
    }
    return NONE;
}

void fault_point(const char *name) {
    if (take(name) == KILL) kill(getpid(), SIGKILL);
}

int fault_error(const char *name, struct err *e) {
    switch (take(name)) {
    case KILL: kill(getpid(), SIGKILL); return 0;
    case ERROR: return err_set(e, ERR_INTERNAL, "a test asked for this failure (%s)", name);
    case NOSPACE: return err_sys(e, ENOSPC, "a test asked for this failure (%s)", name);
    case NONE: break;
    }
    return 0;
}
#else
typedef int fault_is_off; /* a translation unit is not empty */
#endif
