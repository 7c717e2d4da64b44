/* diff_ask.h: one question to the guest of a cell, for diff.c: reply and bytes are gathered up to a bound. Private to
 * this floor; loop thread. The callback comes once, never from inside diff_ask(), and not at all after
 * diff_ask_cancel(). */
#pragma once
#include "cell/domain.h"

struct diff_ask {
    struct cell *cell; /* NULL: nothing is asked */
    struct guest_channel *channel;
    size_t bytes_max;
    struct buf bytes; /* DATA; the owner may take it in done() */
    struct json_object *reply;
    bool failed;
    struct err err;
    struct deferred later;
    /* Every whole line of DATA instead of `bytes`; false: refused, *err is filled. NULL: none. */
    bool (*line)(struct diff_ask *, const char *line, size_t n, struct err *);
    void (*done)(struct diff_ask *, struct err *);
};

/* op is taken. line, done and bytes_max are set by the caller. A question may be used again after its done(). */
void diff_ask(struct diff_ask *, struct cell *, struct json_object *op);
void diff_ask_cancel(struct diff_ask *);
