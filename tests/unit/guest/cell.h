/* cell.h: a cell's surroundings for the tests: root, mounts, identity. */
#pragma once
#include <stddef.h>
#include <sys/types.h>

/* An empty directory for the root; path into out. */
void cell_root_make(char *out, size_t size);
void cell_root_remove(const char *root);
/* In the parent: give the child's new user namespace its 65,536 ids. */
void cell_map_ids(pid_t pid);
/* In the cloned child, when the ids are mapped: mounts, pivot_root, uid 65533 with the guest's capabilities,
 * Landlock, system-call filter. Ends the process when a step fails. */
void cell_enter(const char *root);
