/* machine_group.h: in a machine, the processes of the cell as one group of the machine's kernel, and what limits them: memory and number of processes
 * (a cgroup), space on the disk (blocks of the file system that are held back). The guest itself stays outside. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/machine_proto.h"

/* In the first root: make the groups below the cgroup file system mounted at `cgroup`, and remember the disk mounted at `disk` (a device called `name`). */
int group_open(const char *cgroup, const char *disk, const char *name, struct err *e);
/* Put a process into the cell's group, out of any special treatment by the out-of-memory killer. */
int group_add(pid_t pid, struct err *e);
/* The same for the warm interpreter, which is no process of the cell: nobody is killed for its memory but itself, last. */
int group_add_zygote(pid_t pid, struct err *e);
int group_limit(const struct machine_limits *limits, struct err *e);
int group_freeze(bool on, struct err *e);
/* True once no process of the group runs. */
bool group_frozen(void);
void group_stats(uint64_t *memory_bytes, uint32_t *pids, uint64_t *oom_kills);
/* Size of the cell's disk for who asks inside; `blocks` of `block_bytes` is what the file system says. */
uint64_t group_disk_bytes(uint64_t blocks, uint64_t block_bytes);
