/* span.h: one traced operation, from its beginning to its export. Loop thread only. A NULL span takes every call and
 * does nothing, so that callers need not ask whether tracing is on. What a program or a command says (code, output,
 * paths) never gets into a span: hashes and sizes do. */
#pragma once
#include <stddef.h>

#include "api/trace/exporter.h"
#include "api/trace/traceparent.h"

struct json_object;
struct span;

/* parent NULL: the root of a new trace. NULL when the exporter is NULL or the parent's trace is not sampled. */
struct span *span_begin(struct exporter *, const char *name, const struct traceparent *parent);
/* For whoever goes on with the trace. */
void span_write(const struct span *, char out[static TRACEPARENT_SIZE]);
void span_text(struct span *, const char *key, const char *value); /* NULL: nothing */
void span_number(struct span *, const char *key, long long value);
/* KEY.sha256 and KEY.bytes. */
void span_digest(struct span *, const char *key, const void *bytes, size_t n);
/* It did not go well; the sentence is short. */
void span_fail(struct span *, const char *why);
/* Exported and freed. */
void span_end(struct span *);

/* The usual attributes. */
void span_code(struct span *, struct json_object *body); /* code or cmd of a request's body, its language and context */
void span_execution(struct span *, struct json_object *execution);
void span_process(struct span *, struct json_object *process);
