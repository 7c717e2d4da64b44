/* execution.h: one run of code in a context. Conventions as in world.h.
 *
 * Executions of one context run one after the other in the order of their start; a cell's shell context is made on
 * first use. The caller that started an execution hears its events; it may stop listening (execution_detach) while the
 * code runs on, or interrupt it. */
#pragma once
#include "cell/cell.h"

struct execution; /* owned by the domain; valid in callbacks and until END was delivered or execution_detach was called */

enum execution_event {
    EXECUTION_START,         /* it left the queue and was handed to the context; data: {"execution_id", "context_id"} */
    EXECUTION_STDOUT,        /* bytes/length: raw output, may cut a UTF-8 character */
    EXECUTION_STDERR,
    EXECUTION_DISPLAY,       /* json: {"data":{mime:…},"metadata":{}} */
    EXECUTION_RESULT,        /* the same */
    EXECUTION_ERROR,         /* json: {"name","value","traceback"} */
    EXECUTION_INPUT_REQUEST, /* json: {"prompt","password"}; answer with execution_input */
    EXECUTION_END,           /* json: the Execution (below); last event, always comes once */
};
/* json is borrowed; bytes valid during the call. */
typedef void (*execution_cb)(void *arg, struct execution *, enum execution_event, struct json_object *json, const void *bytes, size_t length);

/* body {code, language:"python|py|bash|shell|sh", context_id, timeout_seconds, env:{}, svg:bool}. NULL with *err when refused (nothing ran).
 * stop_on_input: true when nobody can answer input(): it gets EOF. collect: gather stdout/stderr/results for the END Execution
 * (bounded by output_bytes_max; streaming callers pass false and END carries only the summary). */
struct execution *execution_start(struct cell *, struct json_object *body, bool collect, bool stop_on_input, execution_cb, void *arg, struct err *);
const char *execution_id(const struct execution *);
/* One that runs or waits, whoever started it (the last daemon, or a fork); NULL. Borrowed, good until the loop turns. */
struct execution *execution_find(struct cell *, const char *id);
int execution_interrupt(struct execution *, struct err *);
int execution_input(struct execution *, const char *line_or_null_for_eof, struct err *);
/* Flow control for a slow client: while paused, the execution's output is not read (the code blocks in write).
 * A timeout or interrupt ends the pause: the end of the code must be seen. What comes then is bounded by output_bytes_max. */
void execution_pause(struct execution *, bool paused);
/* The client went away: no more callbacks. interrupt: also SIGINT what runs. */
void execution_detach(struct execution *, bool interrupt);
/* Execution = {id, context_id, language, results:[{"data":…,"metadata":…,"is_main_result":bool, and the mime types text/html/png/svg/… flattened for
 * convenience}], stdout, stderr, text, png, error|null, execution_count, duration_ms, started_at, truncated:{stdout:{dropped_bytes},stderr:{…}}|null,
 * exit_code|null (SystemExit or shell), exit:"ok|error|timeout|interrupted|oom|killed|lost", context_restarted:bool, remaining_seconds|null}.
 * Finished ones are kept (last 100 of a cell, bounded memory). not_found otherwise; running: {"status":"running"}. */
struct json_object *execution_get(struct cell *, const char *execution_id, struct err *);
struct json_object *execution_list(struct cell *);
