/* fault.h: points at which a test makes a program die or fail, so that every step of a long operation is interrupted once (tests/crash).
 *
 * Only in a build with -Dfaults=true; otherwise a point is nothing. The environment says what happens: CELLA_FAULT=NAME:ACTION[,NAME:ACTION…]
 *   kill     SIGKILL to this process, on the spot
 *   error    fault_error() returns -1 with an error of its own
 *   nospace  the same with the error of a full disk
 * Each entry acts once, at the first passage. An entry of another name costs one comparison. */
#pragma once
#include "base/err.h"

#ifdef CELLA_FAULTS
void fault_point(const char *name);
int fault_error(const char *name, struct err *);
#else
static inline void fault_point(const char *name) { (void)name; }
static inline int fault_error(const char *name, struct err *e) {
    (void)name, (void)e;
    return 0;
}
#endif
