/* landlock_policy.h: the second opinion on the file system of a cell.
 *
 * Ordinary permissions already keep the cell's users out of what is not theirs; Landlock also binds the cell's root: below
 * /proc and /sys nothing can be written, no device node can be made anywhere, nothing is executed from /proc. */
#pragma once
#include "base/err.h"

/* ABI of the running kernel, 0 when it has no Landlock. */
int landlock_policy_abi(void);
/* Build the rule set for the root this process sees. Returns a descriptor (the caller owns it), -1 with *e. Whoever
 * calls landlock_restrict_self on it is bound by it; it can be passed to another process. */
int landlock_policy_build(struct err *);
/* Let a directory outside that root be read, with everything below it: for a descriptor that only the guest gets. */
int landlock_policy_show(int ruleset, int directory, struct err *);
/* Bind the calling thread to the rule set. no_new_privs must be set. */
int landlock_policy_enter(int ruleset_fd, struct err *);
