/* filters.h: which system calls the VMM's threads may make. Built once at start, before anything of a guest is read; applied by each thread. What
 * is not listed kills the process, so a VMM that a guest has taken over ends with its first surprise. */
#pragma once
#include "base/err.h"

enum filter { FILTER_LOOP, FILTER_VCPU, FILTERS };

int filters_build(struct err *);
/* For the calling thread (the loop's: before it has started another). Threads and forks made later inherit it, and a vCPU adds its own. */
int filters_apply(enum filter, struct err *);
