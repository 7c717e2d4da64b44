/* usage.h: what each API key used, by itself. Sums since the state directory was made: they are in memory, go to the store
 * a few seconds after they changed and when the daemon stops, and come back with the next daemon. A daemon that is
 * killed loses the last seconds. They outlive the key they belong to. Loop thread only. */
#pragma once
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "cell/use.h"

struct json_object;
struct store;
struct usage;

#define USAGE_WRITE_MS 5000

/* What the domain counts (use.h), and behind it what is counted here. */
enum usage_kind { USAGE_REQUESTS = USES, USAGE_BYTES_IN, USAGE_BYTES_OUT, USAGE_KINDS };

struct usage *usage_open(uv_loop_t *, struct store *borrowed, struct err *);
/* No more timer; what is counted from here on is written by usage_close. */
void usage_stop(struct usage *);
/* Writes what is not written; after the loop ended, before the store is closed. NULL: nothing. */
void usage_close(struct usage *);

/* key_id "": without a key. A use_cb where kind is one of the domain's. */
void usage_add(void *usage, const char *key_id, unsigned kind, uint64_t n);
void usage_of_domain(void *usage, const char *key_id, enum use, uint64_t n);

/* Rows of one key (a row of zeros when it used nothing), or NULL: of all that used something, the one without a key first. Each
 * {id|null, executions, execution_seconds, commands, sandboxes_created, forks, cpu_seconds, requests, bytes_in, bytes_out}. `more`
 * (or NULL) gives what is used and not counted yet. New reference. */
typedef uint64_t (*usage_more)(void *arg, const char *key_id, unsigned kind);
struct json_object *usage_list(struct usage *, const char *key_id, usage_more more, void *arg);
/* The sum of such rows, without "id". New reference. */
struct json_object *usage_sum(struct json_object *list);
