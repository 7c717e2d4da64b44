/* trace.h: tracing of requests. Loop thread only.
 *
 * A traceparent that a client sends comes back in the answer (header) and in the first event of a stream
 * ("traceparent"); where a span was made for the request, its id stands in the place of the client's. A handler whose
 * work is worth a span calls trace_start; the span ends when the last hold on the request is given back, so it covers
 * what runs on after a client hung up. */
#pragma once
#include "api/request.h"
#include "api/trace/span.h"

/* name: a literal like "cella.execute". The sandbox of the request is told when it is known. */
void trace_start(struct request *, const char *name);
struct span *trace_span(struct request *); /* NULL: none */
/* One of several operations of a request, such as a command on a WebSocket: the caller ends it (span_end). NULL: none. */
struct span *trace_part(struct request *, const char *name);
/* What the span of a create says of the sandbox, what that of a fork says of the children ({"children","errors"}). */
void trace_created(struct request *, struct cell *);
void trace_forked(struct request *, struct json_object *said);
/* Adds "traceparent" to the data of a stream's first event; a new reference to it or to a copy. */
struct json_object *trace_event(struct request *, struct json_object *borrowed);

/* For api.c: a new request; its reply; its end. */
void trace_accept(struct request *);
void trace_reply(struct request *);
void trace_end(struct request *);
