/* identity.h: who a forked child of the guest becomes. Both functions are for a freshly forked child, cannot be undone,
 * and fill *e and return -1 when any step did not happen: the child must then go no further. */
#pragma once
#include <stdbool.h>

#include "base/err.h"

#define IDENTITY_USER_ID 1000
#define IDENTITY_HOME "/workspace"

/* Home and default directory: /workspace, or /root. */
const char *identity_home(bool as_root);

/* For a process of exec: uid and gid 1000 (or 0) in all four places, no group, no capability in any set, securebits
 * locked, no_new_privs. (Emptying the bounding set and locking securebits takes CAP_SETPCAP, which the keeper leaves to
 * the guest. A guest without it leaves both as they are: with no_new_privs and an empty permitted set no exec gains
 * anything from them.) */
int identity_become(bool as_root, struct err *e);

/* From here on, in a machine: identity_become(true) is root of the machine's own kernel, with every capability, and nobody has no_new_privs or
 * fewer capabilities to gain: what sudo, apt and mount do is between the cell and its kernel. */
void identity_machine(void);
bool identity_in_machine(void);

/* For a worker of the guest (worker.h): its real ids stay the guest's own, so that no process of the cell can signal or
 * trace it; only what decides about files is the user's: fsuid and fsgid 1000 and no capability, or 0 with
 * CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER. `keep_switch` leaves CAP_SETUID/CAP_SETGID for identity_switch(). */
int identity_file_access(bool as_root, bool keep_switch, struct err *e);
/* Change fsuid and fsgid once more (0 or 1000). */
int identity_switch(bool as_root, struct err *e);
