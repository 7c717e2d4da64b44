/* layer.h: what an overlay's upper directory means (Documentation/filesystems/overlayfs.rst of the kernel), looked at
 * from below:
 *
 *   a character device 0/0                              the name is not there, whatever the lower directory has
 * (whiteout) directory with user.overlay.opaque = "y"            nothing of the lower directory shows through the same
 * with "x", in it empty files with           whiteouts where no device can be made user.overlay.whiteout
 *
 * Cells are mounted with userxattr, which switches redirects and metadata-only copies off: a name above is the same
 * name below, and a file above is whole. */
#pragma once
#include <stdbool.h>
#include <sys/stat.h>

#include "base/err.h"

enum layer_opaque { LAYER_CLEAR, LAYER_OPAQUE, LAYER_XATTR_WHITEOUTS };

enum layer_opaque layer_opaque(int dir);
/* `kind` is that of the directory that holds the name. */
bool layer_is_whiteout(int dir, const char *name, const struct stat *, enum layer_opaque kind);
/* Temporary files of Cella itself (fs_temp.h). */
bool layer_is_own(const char *name);

struct layer_names {
    struct layer_name {
        char *name;
        bool at[2]; /* in the first, in the second directory */
    } * list;       /* sorted by strcmp */
    size_t n, cap;
};
/* Add the names of a directory (side 0 or 1); call layer_names_sort when both are in. -1 with sys_errno. */
int layer_names_read(struct layer_names *, int dir, int side, struct err *);
/* Sort, and make one of two entries with the same name. */
void layer_names_sort(struct layer_names *);
void layer_names_free(struct layer_names *);

/* Do two entries hold the same? Of the same type: bytes of a file, target of a link, number of a device; directories
 * always do. 1, 0, -1. */
int layer_same(const int dir[2], const char *name, const struct stat st[2], struct err *);
