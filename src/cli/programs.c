#include "cli/programs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int own_directory(char out[PROGRAM_PATH], struct err *e) {
    ssize_t n = readlink("/proc/self/exe", out, PROGRAM_PATH - 1);
    if (n <= 0) return err_sys(e, errno, "cannot read /proc/self/exe");
    out[n] = 0;
    *strrchr(out, '/') = 0;
    return 0;
}

int program_find(const char *name, char out[PROGRAM_PATH], struct err *e) {
    char here[PROGRAM_PATH];
    if (own_directory(here, e) < 0) return -1;
    if (snprintf(out, PROGRAM_PATH, "%s/%s", here, name) >= PROGRAM_PATH)
        return err_set(e, ERR_INTERNAL, "path too long");
    if (access(out, X_OK) == 0) return 0;
    return err_hint(e, ERR_UNAVAILABLE,
                    "build or install all of Cella: `make`, then build/bin/cella, or `make install`", "%s is missing",
                    out);
}

int program_directory(const char *name, char out[PROGRAM_PATH], struct err *e) {
    static const char *const places[] = {"..", "../lib/cella", "../libexec/cella"};
    char here[PROGRAM_PATH], joined[PROGRAM_PATH + 64];
    if (own_directory(here, e) < 0) return -1;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct stat st;
        if (snprintf(joined, sizeof joined, "%s/%s/%s", here, places[i], name) < PROGRAM_PATH &&
            stat(joined, &st) == 0 && S_ISDIR(st.st_mode) && realpath(joined, out))
            return 0;
    }
    return err_hint(e, ERR_UNAVAILABLE,
                    "build or install all of Cella: `make`, then build/bin/cella, or `make install`",
                    "the directory \"%s\" is not beside %s", name, here);
}
