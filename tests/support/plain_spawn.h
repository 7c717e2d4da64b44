/* plain_spawn.h: start a child process for the plain driver. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct plain_child {
    const char *const *argv;
    const char *const *env;
    const char *home; /* the cell's directory; seen as /workspace where namespaces are possible */
    int fds[4];       /* descriptors of this process … */
    int target[4];    /* … and what they become in the child; -1 ends the list */
    pid_t join; /* 0: the first process of a cell: as root it gets a pid namespace, and a mount namespace whose root is
                   the host's plus /workspace. Else: enter the namespaces of that process and become uid 1000. */
};

/* Pid of the child, or -1. Comes back when the child has exec'ed; an exec that fails shows as exit status 127. */
pid_t plain_spawn(const struct plain_child *, struct err *);
/* Where the cell's directory is seen inside: /workspace, or `home` itself without root. */
const char *plain_workspace(const char *home);
/* rm -rf, following nothing. */
void plain_remove_tree(const char *path);
