/* child.h: from fork to exec. The guest prepares everything in a child_spec, forks, and the child runs child_run(),
 * which never returns: it becomes the program, or it says on status_fd why it could not.
 *
 * System-call filter and Landlock rules are not made here: the keeper puts the guest itself under them before its first
 * instruction, and every child inherits them. */
#pragma once
#include <stdbool.h>
#include <sys/resource.h>

#include "base/err.h"

struct child_spec {
    bool as_root, pty;
    int in_fd, out_fd, err_fd; /* become 0, 1, 2 */
    int status_fd;             /* write end of a pipe: closed by a successful exec */
    char **argv, **envp;       /* argv NULL: `cmd` by a shell */
    const char *cmd, *cwd;     /* cwd NULL: home if it is there, else / */
    const char *path;          /* PATH that argv[0] is searched in */
};

/* What status_fd carries when there was no exec: one write. */
struct child_failure {
    char code[24]; /* a word of base/err.h */
    char text[400];
};

/* RLIMIT_NOFILE the guest itself was started with: children get it back (the guest raises its own). */
void child_set_nofile(const struct rlimit *limit);
/* In a machine: children go into the group of the cell, whose cgroup.procs this is, and may be killed when memory is short, which the guest may not. */
void child_set_group(int procs_fd);
/* In a freshly forked child. */
int child_enter_group(struct err *e);
_Noreturn void child_run(const struct child_spec *spec);
