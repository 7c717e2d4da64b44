/* shared.h: memory that a context shares (MAP_SHARED). A copy-on-write copy of the context would still share it: two cells, one memory. So at the
 * capture, in the copy, every piece becomes private with the contents of that instant, and in the new context it becomes shared again, with nobody
 * but what that cell makes itself; a mapping of a file of the cell's layer is made anew on the child's own file. The stub stays what it is. */
#pragma once
#include "keeper/image.h"
#include "keeper/reopen.h"

struct copy_budget;

/* While the context stands, after descriptors_copy(): its copy (a stopped sentinel) shares no memory with it any more, but files to be mapped
 * anew. -1 with *e: the copy must not be used. */
int shared_copy(struct image *, pid_t leader, pid_t copy, struct copy_budget *, struct err *);
/* Memory of the copy's own, at `want` (0: anywhere), with what `bytes` of the file from `offset` on hold. *address tells where. */
int shared_take(const struct image *, pid_t copy, int fd, uint64_t offset, uint64_t bytes, uint64_t want, uint64_t *address, struct err *);
/* In the new context: what [at, at + bytes) of its memory holds goes to the start of the file at fd, but for pages that are not there; drop: each piece is
 * given back at once, so that it is never there twice. As reopen_run(). */
int shared_fill(struct reopen *, int fd, uint64_t at, uint64_t bytes, bool drop, struct err *);
/* In the new context, after descriptors_open(). -1 with *e when a mapping of another cell's file could not be replaced, or the task failed. */
int shared_open(struct reopen *, struct err *);
