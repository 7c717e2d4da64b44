/* guest_link_inside.h: shared by guest_link.c (receiving) and guest_channel.c (sending), nobody else. */
#pragma once
#include "base/buf.h"
#include "cell/guest_link.h"

#define GUEST_BUCKETS 16
#define GUEST_SEND_HIGH (1u << 20) /* queued bytes above which channels are not given more room */

struct guest_channel {
    struct guest_channel *next;
    struct guest_link *link;
    struct guest_channel_events events;
    void *arg;
    uint32_t number;
    uint32_t receive_window, send_window; /* bytes the guest / this side may still send */
    uint32_t consumed;                    /* to be given back */
    bool wants_room, closing, eof;
    uint16_t join_type;
    struct buf join;
};
struct guest_link {
    struct guest_link_events events;
    struct seqpacket *stream;
    struct guest_channel *channels[GUEST_BUCKETS];
    size_t count, joining;
    uint32_t last_number;
    int busy; /* callbacks on the stack */
    bool taken_over, greeted, lost, closed;
};

struct guest_channel *guest_link_channel(struct guest_link *, uint32_t number);
/* One frame, or several with FRAME_MORE when it is long. */
void guest_link_frame(struct guest_link *, uint16_t type, uint16_t flags, uint32_t channel, const void *payload,
                      size_t n);
/* Tell the owner that there is room when it waits for some. */
void guest_channel_room(struct guest_channel *);
