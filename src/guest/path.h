/* path.h: from a path of a request to descriptors. Resolution follows symlinks (the path is the user's own to choose,
 * and the file identity is the user's) but never a magic link of /proc; what must not follow says so.
 *
 * Descriptors are close-on-exec and the caller's. Errors name the path as the caller gave it. */
#pragma once
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* A directory and a name in it: where an entry is or will be. */
struct place {
    int dir; /* O_PATH; -1: none */
    char name[NAME_MAX + 1];
};

/* openat2 with RESOLVE_NO_MAGICLINKS and O_CLOEXEC | O_NOCTTY | O_NONBLOCK. `resolve`: more RESOLVE_ flags. -1 and
 * errno. */
int path_open_raw(int dir, const char *path, int flags, mode_t mode, uint64_t resolve);
/* The same from the root, filling *e. */
int path_open(const char *path, int flags, struct err *e);
/* An absolute path below another root, which it cannot leave; a symlink on the way is an error. -1 and errno. */
int path_open_exact(int root, const char *path, int flags);
/* Open what an O_PATH descriptor stands for: no path is looked at again. -1 and errno. */
int path_reopen(int fd, int flags);
/* Split path into its parent directory (opened; made with mode 0755 when `parents`) and its last name. */
int place_open(const char *path, bool parents, struct place *p, struct err *e);
/* While p is a symlink, go where it points (which need not exist). */
int place_follow(struct place *p, struct err *e);
void place_close(struct place *p);
/* mkdir -p below `base` (AT_FDCWD for absolute paths); returns an O_PATH descriptor. The last directory gets last_mode,
 * others 0755. *made: the last was made by this call. `resolve` as above. -1 and errno. */
int path_make_dirs(int base, const char *path, mode_t last_mode, uint64_t resolve, bool *made);
/* The path as it is shown: absolute, without double slashes and dots; with ".." in it, the real one. malloc'ed. */
char *path_shown(const char *path);
/* The real absolute path of a descriptor, "" when it has none. malloc'ed. */
char *path_of_fd(int fd);
