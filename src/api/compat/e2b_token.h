/* e2b_token.h: is a request allowed to use a sandbox? What e2b_dispatch.c asks. Pure but for the daemon's secret. */
#pragma once
#include <stdbool.h>

struct api;
struct cell;

/* Is it this sandbox's token? NULL: no. Takes the same time for every wrong one. */
bool e2b_token_is(struct api *, const struct cell *, const char *said);

/* What a signed URL says. All borrowed. expiration: seconds since 1970 as written in the URL, NULL when there is none; that it has not passed
 * is for the caller to see. user "": not said. */
struct e2b_signed {
    const char *path, *operation /* "read" or "write" */, *user, *expiration, *signature;
};
bool e2b_signature_is(struct api *, const struct cell *, const struct e2b_signed *);
