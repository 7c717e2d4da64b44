/* cgroup.h: limits, freezing and killing, on cgroup v2, v1 or both (hybrid).
 *
 * Below the keeper's own group of each hierarchy stands one group per instance ("cella-" + hash of the state directory), below it one per
 * cell. In v2 a cell's group has two leaves: `run` (everything of the cell: frozen as one) and `sentinel` (the stopped copies
 * that keep memory alive: never frozen, because a frozen task cannot run an injected call). Memory, cpu and pids are
 * taken from v2 where its controllers can be enabled, else from v1. The cpu limit holds for `run` only: an injected call must not
 * wait for its turn among the cell's own tasks, because the keeper waits for it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

enum cgroup_place { CGROUP_RUN, CGROUP_SENTINEL };

/* Find the hierarchies, remove what an earlier keeper of the same state left behind (its processes are killed), make the instance's
 * groups. Returns the KEEPER_HAS_* bits. */
int cgroup_open(const char *state_dir, uint32_t *features, struct err *);
/* Remove the instance's groups again. */
void cgroup_close(void);

/* name: the cell's id, or "zygotes". */
int cgroup_make(const char *name, const struct keeper_limits *, struct err *);
int cgroup_limit(const char *name, const struct keeper_limits *, struct err *);
/* Put pid (0: the caller) into the group, in every hierarchy that is used. */
int cgroup_enter(const char *name, enum cgroup_place, pid_t, struct err *);
/* The leaf and what differs between the leaves: for a task that was born in the other one. */
int cgroup_enter_leaf(const char *name, enum cgroup_place, pid_t, struct err *);
int cgroup_freeze(const char *name, bool on, struct err *);
/* The same without waiting until every task stands. For machines, which are paused besides: kernels before 6.13 put a kernel thread into their group, and
 * one of those never stands. */
int cgroup_freeze_begin(const char *name, bool on, struct err *);
/* SIGKILL to every process of the group. */
void cgroup_kill(const char *name);
/* Remove the empty group; 0, or -1 while it is still busy. */
int cgroup_remove(const char *name);
/* Processes of the `run` leaf, host pids; how many were written. */
int cgroup_processes(const char *name, pid_t *out, int max);
int cgroup_stats(const char *name, struct keeper_stats *, struct err *);
uint64_t cgroup_oom_kills(const char *name);
/* How much more memory its tasks can have under this limit, when the kernel has given up all file pages; UINT64_MAX where nothing is limited. */
uint64_t cgroup_room(const char *name, uint64_t limit);
/* Bytes that the group wrote to files and the disk does not have yet. */
uint64_t cgroup_dirty(const char *name);
