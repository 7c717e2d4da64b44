/* e2b_process.h: processes that E2B's clients started, for as long as they run. Shared by e2b_process*.c; loop thread only.
 *
 * A record holds a view of its own on the process, so that input, signals and the terminal's size do not depend on a client that watches it:
 * a client that hangs up leaves the process running, as at E2B. It ends by itself, by a signal, at the Connect-Timeout-Ms of its Start, or
 * with the sandbox. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/compat/e2b_rpc.h"
#include "cell/process.h"

struct e2b_input;

struct e2b_process {
    struct e2b_process *next;
    const struct cell *cell; /* for comparing only: it outlives its processes */
    char id[48]; /* "proc_…" */
    int64_t pid; /* 0: not started yet */
    char *tag;   /* or NULL */
    struct json_object *config; /* {cmd, args, envs, cwd} as it was asked for */
    struct process *view;
    bool pty, stdin_open;
    struct e2b_input *first, **last; /* input the process has not taken yet (e2b_process_input.c) */
    size_t waiting;                  /* bytes of it */
};

/* All of them, newest first. */
extern struct e2b_process *e2b_processes;
/* By a selector {"pid"} or {"tag"} in message.process, among those of the request's sandbox. NULL with *e. */
struct e2b_process *e2b_process_of(struct request *, struct json_object *message, struct err *);
struct e2b_process *e2b_process_by_id(const char *id);
/* The process takes input again; and: it ended, so whoever waits hears that its input was not read. */
void e2b_input_more(struct e2b_process *);
void e2b_input_drop(struct e2b_process *);
