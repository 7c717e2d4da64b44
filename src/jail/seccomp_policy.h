/* seccomp_policy.h: which system calls a cell may make.
 *
 * One allow-list for everything that runs in a cell: contexts, processes and cella-guest. It is compiled to a BPF
 * program once, by the keeper at start-up, and loaded before the first instruction of anything that reads a cell's bytes.
 * What is not listed answers ENOSYS (so that C libraries fall back); what is known and refused answers EPERM. */
#pragma once
#include <linux/filter.h>

#include "base/err.h"

/* Compile the policy. The caller owns out->filter (free()). */
int seccomp_policy_build(struct sock_fprog *out, struct err *);
