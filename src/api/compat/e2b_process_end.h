/* e2b_process_end.h: how a process ended, in the words of E2B's clients. Pure functions. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>

#include "base/err.h"

/* end: of PROCESS_END (cell/process.h), without an error. Returns the fields of an end event {exitCode, exited, status, error?}; NULL with *e
 * when nobody knows how it ended (its sandbox is gone), or when `timed` and its time was over. New reference. */
struct json_object *e2b_process_end(struct json_object *end, bool timed, struct err *);
