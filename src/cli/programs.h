/* programs.h: where the other parts of Cella are: beside this program in a build tree, or where `make install` put
 * them.
 *
 *   build/bin/cella      → build/bin/cellad, build/contexts, build/templates
 *   PREFIX/bin/cella     → PREFIX/bin/cellad, PREFIX/lib/cella/contexts, PREFIX/libexec/cella/templates
 *
 * Paths are absolute, in `out` (PROGRAM_PATH bytes). -1 with *e when the part is not there. */
#pragma once
#include "base/err.h"

#define PROGRAM_PATH 4096

int program_find(const char *name, char out[PROGRAM_PATH], struct err *);
int program_directory(const char *name, char out[PROGRAM_PATH], struct err *); /* "contexts" or "templates" */
