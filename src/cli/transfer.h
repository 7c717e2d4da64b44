/* transfer.h: files and directories between this machine and a cell, streamed. Directories travel as tar, made and
 * unpacked by libarchive; nothing that comes out of a cell can be unpacked outside the target directory. */
#pragma once
#include "base/err.h"
#include "cli/client.h"

/* A regular file (or "-": stdin) into the cell. `path` is absolute or relative to the cell's working directory. */
int transfer_up(struct client *, const char *file, const char *cell, const char *path, struct err *);
/* A file out of the cell into `file` ("-": stdout). It appears under its name only when it came whole. */
int transfer_down(struct client *, const char *cell, const char *path, const char *file, struct err *);
/* A directory's content into the cell's directory `path`, made when missing. */
int transfer_tree_up(struct client *, const char *directory, const char *cell, const char *path, struct err *);
/* A cell's directory's content into the local `directory`, made when missing. */
int transfer_tree_down(struct client *, const char *cell, const char *path, const char *directory, struct err *);
