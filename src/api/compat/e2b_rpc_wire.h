/* e2b_rpc_wire.h: the bytes of Connect's protocol with its JSON codec: frames, error objects, base64. Pure functions, any thread.
 *
 * A unary call is a POST of one JSON object, answered by one; an error is an HTTP status with {"code","message"}. In a streaming call each
 * message is a frame {u8 flags, u32 length (big endian), JSON}; the last frame has flags 2 and holds {} or {"error": {"code","message"}},
 * under HTTP status 200 whatever happened. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define RPC_MESSAGE_MAX (8u << 20) /* one message; as large as a JSON body of the API may be */
#define RPC_FRAME_HEAD 5
#define RPC_FLAG_COMPRESSED 1
#define RPC_FLAG_END 2

/* Frames as they come in. Zeroed: empty. Free `bytes` with buf_free. */
struct rpc_frames {
    struct buf bytes;
    size_t at; /* what next() has taken */
    bool over; /* the end frame came */
};
void rpc_frames_feed(struct rpc_frames *, const void *bytes, size_t n);
/* 1: *out is the next message (new reference; an empty object for an empty frame). 0: not enough bytes. -1: malformed, too large, compressed,
 * or something behind the end frame. Between two feeds call it until it gives 0: memory is bounded by one message and one feed. */
int rpc_frames_next(struct rpc_frames *, struct json_object **out, struct err *);
/* Is there a piece of a frame that was not finished? */
bool rpc_frames_partial(const struct rpc_frames *);

void rpc_put_frame(struct buf *, uint8_t flags, const char *json, size_t n);
/* {"code","message"} */
void rpc_put_error(struct buf *, const struct err *);
/* The body of the end frame: {} or {"error": …}. */
void rpc_put_end(struct buf *, const struct err *or_null);

/* Connect's word for one of ours, and the HTTP status of a unary error. */
const char *rpc_code(const char *err_code);
unsigned rpc_status(const char *err_code);

/* Connect-Timeout-Ms: *ms is 0 when text is NULL. At most ten digits. invalid_request. */
int rpc_timeout(const char *text, int64_t *ms, struct err *);

void rpc_put_base64(struct buf *, const void *bytes, size_t n);
/* Standard or URL alphabet, padded or not, as JSON of protocol buffers allows; appends. false: it is no base64 (out is as before). */
bool rpc_get_base64(const char *text, size_t n, struct buf *out);
