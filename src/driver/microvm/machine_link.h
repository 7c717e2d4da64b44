/* machine_link.h: the control connection to cella-guest in one machine (wire/machine_proto.h): requests with a time limit, answers by tag, events.
 *
 * Everything that comes is hostile: a packet that is not to the letter ends the link. A guest that does not answer costs the request, not the link, and
 * its answer may still come; only so many may be owed at once. Loop thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "base/err.h"
#include "driver/driver.h"
#include "wire/machine_proto.h"

struct machine_link;

/* Exactly once, never from inside machine_call() or machine_link_close(). m is NULL with an error: the guest's own (sys_errno set), no answer in time (sys_errno
 * ETIMEDOUT), or the link is over (ERR_LOST). */
typedef void (*machine_answer)(void *arg, struct err *e, const struct machine_message *m);

struct machine_link_events {
    void (*on_hello)(void *arg); /* NULL: a HELLO breaks the protocol (the machine is a copy, or was taken over) */
    void (*on_context_exit)(void *arg, int slot, enum context_fate, int code);
    /* Nothing more comes. why: how it broke the protocol; NULL: the other side closed. Once. The link may be closed from here. */
    void (*on_end)(void *arg, const char *why);
    void *arg;
};

/* Takes the descriptor over (non-blocking, SOCK_SEQPACKET). */
struct machine_link *machine_link_open(uv_loop_t *, int fd, const struct machine_link_events *);
/* tag is filled in here. Also on a link that is over: the call fails. */
void machine_call(struct machine_link *, struct machine_message *, int64_t timeout_ms, machine_answer, void *arg);
/* The machine stands still: time limits do too. */
void machine_link_hold(struct machine_link *, bool held);
/* No event comes any more. What waits for an answer fails on a later turn; with silent it is forgotten (the driver closes). */
void machine_link_close(struct machine_link *, bool silent);

/* Is this packet of n bytes one that a guest may send? NULL: yes; else what is wrong with it (for the log). */
const char *machine_message_wrong(const void *packet, size_t n);
