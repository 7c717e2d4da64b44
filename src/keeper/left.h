/* left.h: what a copy of a cell leaves behind beside descriptors: processes that are no contexts, timers of POSIX. */
#pragma once
#include "keeper/cell.h"
#include "keeper/notes.h"

/* Processes of the cell but its guest and its contexts. */
void left_processes(const struct cell *, struct notes *);
/* timer_create(2) of one context. */
void left_timers(pid_t context, struct notes *);
