/* machine_context.h: the contexts of a machine: started here, with the descriptors that contexts have everywhere (wire/context_proto.h); the other ends of these
 * belong to the relays (machine_relay.h). Slots 0 … KEEPER_SLOTS - 1. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/keeper_proto.h"

/* fate and code: as in MACHINE_CONTEXT_EXIT. */
int contexts_open(void (*exited)(unsigned slot, uint32_t fate, int code), struct err *e);
/* Start one in an empty slot that has a connection. gated: it waits before it takes entropy, and `done` comes when it stands there; else when its process is
 * there. done: once, not from inside this call; pid 0: *e. -1 and sys_errno: EAGAIN no connection, EEXIST the slot is taken, EINVAL. */
int context_start(unsigned slot, uint32_t language, bool gated, void (*done)(void *arg, pid_t pid, const struct err *e), void *arg, struct err *e);
int context_signal(unsigned slot, int signo, struct err *e);
uint32_t contexts_alive(void); /* bit mask */
/* This machine is a copy: what nobody read yet went to the original, entropy is taken anew, gates open. Before they run. */
void contexts_forked(void);
void contexts_limit_files(uint32_t open_files);
bool contexts_quiet(void);
