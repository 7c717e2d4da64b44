/* stream.h: a response that is written while it is sent. Loop thread only.
 *
 * The writer appends whenever it has something; it looks at stream_full() and stops its source until `drained` is
 * called. The stream lives until stream_end, stream_abort, or `gone` (whichever is first) and must not be touched
 * after. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request;
struct stream;

#define STREAM_HIGH (256u * 1024) /* bytes waiting for the client above which stream_full() is true */
#define STREAM_LOW (64u * 1024)   /* `drained` is called when it has fallen to this */

struct stream_ops {
    void (*drained)(void *arg);         /* may be NULL */
    void (*taken)(void *arg, size_t n); /* n bytes went towards the client; may be NULL */
    void (*gone)(void *arg);            /* the client hung up (or the daemon stops) before the end */
    void (*hangup)(void *arg);          /* the client closed its side: set, it replaces `gone` for that case only
                                           and the stream stays open (an execution can still say how it ended) */
};

/* size: what Content-Length shall say, or UINT64_MAX. Ending before `size` bytes cuts the connection. */
struct stream *stream_open(struct request *, unsigned status, const char *content_type, uint64_t size,
                           const struct stream_ops *, void *arg);
void stream_write(struct stream *, const void *bytes, size_t n);
bool stream_full(const struct stream *);
size_t stream_waiting(const struct stream *);
void stream_end(struct stream *);
/* Cut the connection, so that the client sees that the response is not whole. */
void stream_abort(struct stream *);
/* Call `beat` every STREAM_HEARTBEAT_MS (or `ms`) while the stream is open, unless something was written since. */
void stream_heartbeat(struct stream *, void (*beat)(void *arg));
void stream_heartbeat_every(struct stream *, int64_t ms, void (*beat)(void *arg));
#define STREAM_HEARTBEAT_MS 15000
