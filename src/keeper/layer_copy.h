/* layer_copy.h: a layer copied file by file, for file systems without snapshots. Names, modes, owners, times, extended attributes (what overlayfs
 * wrote among them), links, holes; whiteouts and pipes; sockets are left out. Inode numbers differ from the original's.
 *
 * The layer's bytes are a cell's: nothing is followed, nothing but regular files and directories is opened, and the whole is bounded in
 * files, bytes, depth and time; beyond that the copy fails with ERR_TOO_LARGE. */
#pragma once
#include "base/err.h"

/* Of directory `from` into the empty directory `to`. A child of the caller does the work; this waits for it. */
int layer_copy(int from, int to, struct err *);
