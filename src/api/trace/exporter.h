/* exporter.h: finished spans on their way to a collector, OTLP/HTTP as JSON.
 *
 * Loop thread in front, one small thread behind, a bounded queue between: whoever ends a span never waits. What finds
 * the queue full is dropped and counted; a batch that the collector does not take is tried again a few times, then it
 * counts as failed. */
#pragma once
#include <stdint.h>

#include "base/err.h"

#define EXPORT_QUEUE_MAX 4096 /* spans that wait; a span is about 1 KiB */
#define EXPORT_BATCH_MAX 512
#define EXPORT_EVERY_MS 1000 /* a span waits no longer than this for others */

struct exporter;
struct exporter_numbers {
    uint64_t sent, dropped, failed;
};

/* endpoint: http(s)://host[:port][/path], spans go to its /v1/traces. headers: "name=value,name=value" for the
 * collector, or NULL. invalid_request. */
struct exporter *exporter_open(const char *endpoint, const char *headers, struct err *);
/* Sends what waits, for at most two seconds. */
void exporter_close(struct exporter *);
/* span: one OTLP span as JSON (malloc'ed, taken over). */
void exporter_put(struct exporter *, char *span);
struct exporter_numbers exporter_count(struct exporter *);
