/* guest_link.h: the guest stream of one cell (wire/guest_proto.h): channels, flow control, joined frames. Private to
 * this floor; loop thread.
 *
 * Everything received is hostile and bounded: a malformed packet, an overrun window or credit from nowhere ends the
 * link with on_lost(). Callbacks never come from inside guest_channel_* calls, except that guest_link_close() ends
 * every channel on the spot. Callbacks may call anything here, closing the link included. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"

#define GUEST_JOIN_MAX (16u << 20) /* bytes of unfinished joined payloads, all channels of a cell together */
#define GUEST_VALUES_MAX 200000    /* JSON values in one REPLY or END */

struct json_object;
struct guest_link;
struct guest_channel;

struct guest_link_events {
    void (*on_hello)(void *arg);
    /* The stream is over or broke the protocol; why is a sentence part. The owner closes the link, now or later. */
    void (*on_lost)(void *arg, const char *why);
    void *arg;
};
/* Any member may be NULL. */
struct guest_channel_events {
    void (*on_reply)(void *arg, struct json_object *borrowed);
    void (*on_data)(void *arg, bool is_err, const void *bytes, size_t n); /* give back with guest_channel_consumed() */
    void (*on_room)(void *arg);                                           /* after a short guest_channel_write() */
    /* Once, last; the channel is forgotten. end is NULL when err is set. */
    void (*on_end)(void *arg, struct json_object *end_borrowed, struct err *);
};

/* Takes fd. taken_over: the stream was another daemon's: a reset is sent, and what comes before HELLO or on channels
 * this daemon never opened is dropped instead of being a violation. */
struct guest_link *guest_link_open(uv_loop_t *loop, int fd, bool taken_over, const struct guest_link_events *);
/* Ends every channel with ERR_LOST and the given sentence. */
void guest_link_close(struct guest_link *, const char *why);
/* A request on channel 0 that has no answer: {"op": "environment", …}. */
int guest_link_notice(struct guest_link *, struct json_object *op, struct err *);

/* NULL with *err when the request is too large, too many channels are open, or the cell does not take requests. */
struct guest_channel *guest_channel_open(struct guest_link *, struct json_object *op,
                                         const struct guest_channel_events *, void *arg, struct err *);
size_t guest_channel_write(struct guest_channel *, const void *bytes,
                           size_t n); /* bytes taken; fewer: on_room follows */
void guest_channel_eof(struct guest_channel *);
void guest_channel_control(struct guest_channel *, struct json_object *control);
void guest_channel_close(struct guest_channel *); /* stop it; on_end still comes */
/* No more callbacks; what still comes is dropped with its credit given back. */
void guest_channel_detach(struct guest_channel *);
void guest_channel_consumed(struct guest_channel *, size_t n);
