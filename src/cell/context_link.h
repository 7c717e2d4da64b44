/* context_link.h: the three descriptors of one context (wire/context_proto.h) read in an order that makes sense:
 * whatever waits in the two pipes is handed over before a frame of the control stream, so that DONE really comes after
 * all output of its execution. Private to this floor; loop thread.
 *
 * Everything received is hostile and bounded. Callbacks may call anything here, closing the link included. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"
#include "driver/driver.h"

#define CONTEXT_VALUES_MAX 500000 /* JSON values in one frame: some 100 bytes of memory each */

struct json_object;
struct context_link;
struct context_link_events {
    void (*on_output)(void *arg, bool is_err, const void *bytes, size_t n);
    /* A whole frame; json is borrowed. flags without FRAME_MORE. */
    void (*on_frame)(void *arg, uint16_t type, uint16_t flags, uint32_t execution, struct json_object *json);
    /* The control stream is over: why is NULL when the context closed it, else how it broke the protocol. Once. */
    void (*on_end)(void *arg, const char *why);
    void *arg;
};

/* Bytes of unfinished messages that all contexts of a cell together may make the daemon hold: two of the largest. */
#define CONTEXT_UNFINISHED_MAX (64u << 20)

/* Half a message, kept while a context is frozen. Zeroed memory: none. */
struct context_rest {
    struct buf join;
    uint16_t type;
    uint32_t execution;
};
/* Move it out of a link that will be closed, and into the one that goes on. */
void context_link_rest(struct context_link *, struct context_rest *);
void context_link_go_on(struct context_link *, struct context_rest *);
/* Drop what is not sent again (FRAME_REPLAY), STATUS and READY apart: the stream may start in the middle of a message. */
void context_link_replays(struct context_link *, bool);

/* Takes the three descriptors. *unfinished: what the cell's links hold together; outlives the link. */
struct context_link *context_link_open(uv_loop_t *loop, const struct context_ends *,
                                       const struct context_link_events *, size_t *unfinished);
void context_link_close(struct context_link *); /* no more callbacks */
/* Put one message into the packet that is being made (at most one link at a time), and send what was put. */
void context_link_put(struct context_link *, uint16_t type, uint16_t flags, uint32_t execution, const void *payload,
                      size_t n);
void context_link_send(struct context_link *);
/* Stop or go on reading all three descriptors. */
void context_link_pause(struct context_link *, bool paused);
/* The process is gone: hand over what it left behind, paused or not. */
void context_link_drain(struct context_link *);
