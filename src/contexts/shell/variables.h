/* variables.h: what the user's code changed among the shell's variables and functions (CONTEXT_INSPECT). */
#pragma once
#include "contexts/shell/json.h"

#include <stdbool.h>
#include <stddef.h>

/* Remember how everything is now: this is not the user's. */
void variables_start(void);
/* The same for one variable that the context itself set since. */
void variables_refresh(const char *name);

/* Answer {"names", "value_bytes"} (n bytes): append the JSON of a VARIABLES frame. Without names those that differ from the start. False when the
 * question is malformed. Runs no code of the user's, so there is nothing to interrupt. */
bool variables_tell(const char *question, size_t n, struct text *out);
