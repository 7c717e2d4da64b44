/* cella_shell.h: the shell context. bash itself runs the code; this module, loaded with `enable -f`, is the loop
 * around it: fork point, context stream (wire/context_proto.h), interrupts, outcome.
 *
 * Everything runs in bash's own thread; a second one only exists for signals (run.c). bash leaves running code by a longjmp to `top_level` (exit, set -e, an unbound
 * variable under set -u, an interrupt); run_code() is where all of these land, so the shell and its state go on.
 *
 *   exit N           ends the execution with status "exit"; an EXIT trap runs, once; cwd, variables, functions stay
 *   exec program     replaces the shell, as in any shell: the stream ends with it and the daemon sees the context end
 *   exec >file       is state like any other: later executions print there too
 *
 * Exit codes of the process: 0 the stream ended, 1 could not start, 3 the peer broke the protocol, 4 no random bytes for a copy. */
#pragma once
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* How an execution ended. */
enum outcome { OUTCOME_OK, OUTCOME_ERROR, OUTCOME_INTERRUPTED, OUTCOME_EXIT };

/* ---- run.c: code of the user ---- */

/* Run code (n bytes, copied) in this shell; *exit_code gets 0..255. Does not return in a child process that comes
 * back from the code: that ends there. */
enum outcome run_code(const char *code, size_t n, int *exit_code);

/* Once, in the process that will serve: start the thread that SIGINT reaches when bash has it blocked. */
void interrupts_start(void);
/* In the handler of a copy's first signal: when the programs of the running execution were not copied with the shell, it ends. */
void children_check(void);
/* Install the SIGINT handler of an idle context; again after every execution. */
void interrupts_idle(void);
/* A packet arrived that may hold an execution: from now on an interrupt counts for it. */
void interrupts_arm(void);
/* It holds none: forget an interrupt that came while nothing ran, unless another packet waits already. */
void interrupts_forget(void);

/* ---- wake.c: what is different in every copy ---- */

/* Write 'Z' to descriptor 1 and stand in pause() until copied; returns in the copy only. */
void wait_to_be_copied(void);
/* Make the state that bash keeps about its process true again: pids, users, seeds, time, host name, process group. */
void wake_up(void);
/* This process is a copy of a shell that lived (CONTEXT_FORKED): new entropy, unless the signal before its first instruction brought it, and the name of
 * its new host where $HOSTNAME still is the old one's. */
void forked(const char *host_name);

/* ---- environ.c: SETENV and TEMPENV ---- */

/* Apply "NAME=VALUE NUL" entries to the exported variables. Temporary ones are put back by environ_restore(). False
 * when the payload is malformed (then nothing was applied). */
bool environ_apply(const uint8_t *entries, size_t n, bool temporary);
void environ_restore(void);
