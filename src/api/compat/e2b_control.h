/* e2b_control.h: what the files of E2B's control plane share. Loop thread only. */
#pragma once
#include <json-c/json.h>

#include "api/compat/e2b.h"
#include "api/json_text.h"
#include "api/reply.h"

#define E2B_TIMEOUT_SECONDS 300 /* when a request names none: what the SDKs call their default */
#define E2B_TIMEOUT_MAX (366LL * 24 * 3600)
#define E2B_PAGE 100            /* entries of a list when the request names no limit */

/* What create, connect and fork answer: ids, version, tokens, domain. New reference. */
struct json_object *e2b_sandbox_json(struct request *, struct cell *);
/* What get and list answer. detail: with what only get says. New reference. */
struct json_object *e2b_info_json(struct request *, struct cell *, bool detail);
/* "paused" for whatever does not run at the moment, else "running". */
const char *e2b_state(const struct cell *);
/* {"timeout": seconds} of the body; *seconds stays when it is missing. 0 is allowed. */
int e2b_timeout_of(struct request *, long long *seconds, struct err *);
/* The sandbox ends (or is paused) `seconds` from now. 0: at once. */
int e2b_set_timeout(struct cell *, long long seconds, struct err *);
/* A network block and allow_internet_access of a body: 0 when it asks for nothing that is not there (a sandbox has no network), else -1
 * (unsupported, invalid_request). changes: the body of PUT …/network, where a missing word means "as the sandbox was made". */
int e2b_network_check(struct json_object *body, bool changes, struct err *);
/* "2026-01-31T12:00:00.123+01:00" in milliseconds since 1970; false when it is no time. */
bool e2b_time_parse(const char *text, int64_t *out_ms);
/* Makes the link /home/user -> /workspace where nothing has that name, then calls back. */
void e2b_make_home(struct cell *, cell_done_cb, void *arg);

/* One page of `all` (an array, taken over): its entries have a time and an id, both text. Sorted by them, descending or not; those behind what
 * ?nextToken= names, at most ?limit=; the header x-next-token when there are more. An entry that goes meanwhile disturbs nobody. Replies. */
void e2b_reply_page(struct request *, struct json_object *all, const char *time_key, const char *id_key, bool descending);
