/* fs_copy.h: move across file systems, the copying half. */
#pragma once
#include <stdbool.h>
#include <sys/stat.h>

#include "guest/path.h"
#include "guest/work.h"

/* Copy the file, symlink or tree at `from` (st: its own) to `to`: under a hidden name first, renamed when complete,
 * removed when not. Contents, modes, times, and owners where the identity may set them. Other kinds of files are
 * refused. */
int copy_place(struct work *w, const struct place *from, const struct stat *st, const struct place *to, bool overwrite,
               struct err *e);
/* fs_change.c; w NULL: do not ask whether the result is still wanted. */
int remove_tree(struct work *w, const struct place *p, const char *path, struct err *e);
