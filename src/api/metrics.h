/* metrics.h: what the API floor counts itself, and the text of /metrics. Loop thread only. */
#pragma once
#include <stdint.h>

#include "api/router.h"
#include "base/buf.h"

struct api;
struct api_metrics;
struct json_object;

struct api_metrics *metrics_open(void);
void metrics_close(struct api_metrics *);
/* One request is over: its route (NULL: none fit), status and time from its first line to its end. */
void metrics_request(struct api_metrics *, const struct route *, unsigned status, int64_t us);
/* One execution ended with this word ("ok", "timeout", …) after this time in the context. */
void metrics_execution(struct api_metrics *, const char *exit, int64_t ms);
/* Prometheus text format 0.0.4. */
void metrics_text(struct api *, struct buf *out);
/* {"requests":n,"executions":{"ok":n,…},…}: what /v1/usage adds to the domain's counters. New reference. */
struct json_object *metrics_usage(struct api_metrics *);
