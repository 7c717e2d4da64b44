/* pty.h: pseudo terminals. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* A new terminal of that size. *master is non-blocking; both are close-on-exec and the caller's. The slave's node
 * belongs to uid 1000 (or 0), so that programs can open it by name. */
int pty_open(bool as_root, uint16_t rows, uint16_t cols, int *master, int *slave, struct err *e);
int pty_resize(int master, uint16_t rows, uint16_t cols);
