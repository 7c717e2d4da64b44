/* process.h: processes of a cell, started by cella-guest. Conventions as in world.h.
 *
 * process_run is what `POST …/exec` needs; process_start is the streaming form under SSE, WebSocket and PTY. A background
 * process keeps the last 256 KiB of each stream for later attach; its record stays until the cell goes (last 100). */
#pragma once
#include "cell/cell.h"

struct process; /* owned by the domain; valid until PROCESS_END was delivered or process_detach was called */

enum process_event {
    PROCESS_START, /* json {"id":"proc_…","pid":n} */
    PROCESS_STDOUT, PROCESS_STDERR, /* bytes; a PTY has only STDOUT */
    PROCESS_STDIN_DRAINED, /* process_stdin took less than everything before: there is room again */
    PROCESS_END, /* json {"exit_code":n|null,"signal":n|null,"duration_ms","exit":"ok|error|timeout|oom|killed|lost","truncated"?} ; could not start: err set */
};
typedef void (*process_cb)(void *arg, struct process *, enum process_event, struct json_object *json, const void *bytes, size_t length, struct err *);

/* body {cmd: string | [strings], env, cwd, stdin: bool or string, timeout_seconds, user:"user|root", pty:{rows,cols}, background}. NULL when refused. */
struct process *process_start(struct cell *, struct json_object *body, process_cb, void *arg, struct err *);
/* Whole answer {id, pid, stdout, stderr, exit_code, signal, duration_ms, exit, truncated|null}; with background:true it comes at once: {id, pid, background:true}. */
void process_run(struct cell *, struct json_object *body, cell_json_cb, void *arg);
/* The same for what Cella itself has to do in a cell: no command of the accounts (use.h). */
void process_run_ours(struct cell *, struct json_object *body, cell_json_cb, void *arg);
/* Bytes taken (may be fewer; then PROCESS_STDIN_DRAINED comes). */
size_t process_stdin(struct process *, const void *bytes, size_t n);
void process_stdin_close(struct process *);
int process_signal(struct process *, int signo, struct err *);
int process_resize(struct process *, int rows, int cols, struct err *);
void process_pause(struct process *, bool paused);       /* back-pressure: what is under way (at most 256 KiB) still comes, then the process waits in write */
void process_detach(struct process *, bool kill_it);     /* no more callbacks */
const char *process_id(const struct process *);
/* Every process in the cell as the kernel sees it, those Cella started with their id: {"processes":[…]}. */
void process_list(struct cell *, cell_json_cb, void *arg);
/* By "proc_…" id or by pid. */
struct process *process_attach(struct cell *, const char *id_or_pid, process_cb, void *arg, struct err *);
void process_signal_by_id(struct cell *, const char *id_or_pid, int signo, cell_done_cb, void *arg);
struct json_object *process_get(struct cell *, const char *id_or_pid, struct err *); /* record with kept output */
