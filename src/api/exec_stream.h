/* exec_stream.h: a process whose output is an event stream (…/exec/stream, …/processes/{pid}/attach).
 *
 * Events: start {"id","pid"} · stdout {"chunk"} · stderr {"chunk"} · exit {"exit_code","signal","duration_ms","exit"} ·
 * error {"error","code"}; as server-sent events also behind an exit without a code. As NDJSON each object has "type" too. The client's hang-up ends the process
 * (attach: only the watching). */
#pragma once
#include "api/events_out.h"
#include "api/request.h"

void exec_stream_start(struct request *, enum event_format);
void exec_stream_attach(struct request *, enum event_format, const char *id_or_pid);
