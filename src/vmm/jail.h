/* jail.h: how little a VMM is: no file system, no network, no privilege, a user of its own. Called once in main, before a byte of anybody is
 * read, and while the process is still root; filters.h takes away the system calls that are left over. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* Empty root, namespaces of its own, uid and gid for good. children_change_user: keep the two capabilities that let a fork become another
 * user (jail_become); meant for the VMM of a template, which no tenant has reached. */
int jail_enter(uid_t uid, gid_t gid, bool children_change_user, struct err *);
bool jail_may_change_user(void);
/* In a fork with one thread: be this user and lose the capabilities. */
int jail_become(uid_t uid, gid_t gid, struct err *);
