/* channel.h: the table of open channels: frames in are checked and handed to what the channel does (proc.h, worker.h);
 * what those send is counted against the daemon's credit.
 *
 * A channel belongs to this module. Its `impl` belongs to the ops, which free it no later than `close`/`forget` ask and
 * always before or together with channel_end(); after channel_end() or `forget` the channel pointer is dead. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/frame.h"

struct channel;

struct channel_ops {
    /* The daemon's DATA; n may be 0 with eof. Every byte must sooner or later be given to channel_consumed(). */
    void (*data)(struct channel *, const uint8_t *bytes, size_t n, bool eof);
    void (*control)(struct channel *, json_object *message); /* NULL: the kind knows no CONTROL */
    void (*close)(struct channel *);                         /* stop; channel_end() follows now or later */
    void (*flow)(struct channel *);                          /* credit or stream_full() changed: look again */
    void (*forget)(struct channel *); /* reset: detach impl, the channel goes away now, without END */
};

struct channel {
    uint32_t number;
    uint64_t credit; /* DATA bytes that may still be sent */
    uint32_t window; /* DATA bytes the daemon may still send */
    uint32_t owed;   /* consumed, not yet given back */
    bool data_ended; /* FRAME_EOF came */
    struct buf open; /* OPEN payload while it is being joined */
    bool opening, open_too_long;
    const struct channel_ops *ops;
    void *impl;
    struct channel *next;
};

/* One frame of the daemon. A breach of the protocol ends in stream_break(). */
void channel_frame(const struct frame *f);
/* DATA or DATA_ERR; n <= credit and n <= WIRE_PAYLOAD_MAX. */
void channel_send(struct channel *c, uint16_t type, const void *data, size_t n);
void channel_reply(struct channel *c, const char *json, size_t n);
/* n bytes of the daemon's DATA have been used up. */
void channel_consumed(struct channel *c, size_t n);
/* Send END with this JSON text and drop the channel. */
void channel_end(struct channel *c, const char *json, size_t n);
/* Send END {"error","code"} and drop the channel. */
void channel_fail(struct channel *c, const struct err *e);
/* Call ops->flow of every channel. */
void channels_flow(void);
/* Forget everything (reset, see guest_proto.h). */
void channels_forget(void);
/* {"version": 1} on channel 0. */
void channel_hello(void);
/* {"error": …, "code": …} of an error, as a new object. */
json_object *err_json(const struct err *e);
