/* stream.h: the guest's end of the stream to the daemon (wire/guest_proto.h): packets in, frames out.
 *
 * Frames queued during one round of the loop leave together in as few packets as hold them (stream_flush). A daemon
 * that does not read makes the queue grow only by REPLY, END and CREDIT frames: whoever produces DATA looks at
 * stream_full() first and is woken through channels_flow() when there is room again. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/frame.h"

int stream_open(int fd, struct err *e);
/* True when no more DATA should be queued. */
bool stream_full(void);
/* Queue one frame, n <= WIRE_PAYLOAD_MAX. */
void stream_frame(uint16_t type, uint16_t flags, uint32_t channel, const void *payload, size_t n);
/* Queue text of any length, cut with FRAME_MORE. */
void stream_text(uint16_t type, uint32_t channel, const char *text, size_t n);
/* Hand what is queued to the kernel as far as it takes it. Called once a round. */
void stream_flush(void);
/* Drop everything queued (a new daemon took over). */
void stream_drop(void);
/* The stream is over because the daemon broke the protocol. The reason is for the log. */
void stream_break(const char *reason);
/* The stream is over because its other end is closed. */
void stream_close(void);
/* True after either. */
bool stream_over(void);
/* In a machine: begin anew on the same descriptor, nothing queued, nothing read. */
void stream_restart(void);
