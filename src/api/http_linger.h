/* http_linger.h: a connection that was answered before its request's body was read. Loop thread only.
 *
 * Closing a socket with unread bytes resets it, and a reset takes the answer away from a client that is still sending:
 * it sees a broken connection instead of the 413 or 401. So such a connection is half-closed, and what still comes is
 * dropped for a while. Every bound is a constant here: what is over one is closed at once, as it would be without this. */
#pragma once
#include <uv.h>

#define LINGER_BYTES (1ull << 30) /* dropped by the kernel without a copy */
#define LINGER_MS 30000           /* all in all */
#define LINGER_QUIET_MS 5000      /* without a byte: the client has read what it wanted */
#define LINGERING_MAX 64          /* connections; they are outside connections_max */

struct lingerer;
struct lingering { /* zeroed is empty */
    struct lingerer *list;
    unsigned count;
};

/* fd stays the caller's, who closes it now; a duplicate lives on. It must be in no epoll set any more when the caller has closed it. */
void linger_begin(struct lingering *, uv_loop_t *, int fd);
/* The daemon stops: close them all. The loop has to run until the handles are closed. */
void linger_end_all(struct lingering *);
