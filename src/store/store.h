/* store.h: durable state in one SQLite file (STATE/db/cella.db; WAL, synchronous=NORMAL: a commit survives a killed daemon,
 * the newest ones may be lost by a power cut, when the cells are gone as well). Loop thread only. Statements are prepared once.
 * Rows carry JSON text where the domain alone knows the shape. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct store;
struct store *store_open(const char *path, struct err *); /* creates and migrates */
void store_close(struct store *);
/* Everything between the two is one commit: for a batch of rows that belong to one moment. Do not nest. */
void store_begin(struct store *);
int store_commit(struct store *); /* 0, or -1: nothing of it was taken, the log says why */
/* The same, and the commit survives a power cut. The caller rolls back when a row could not be written; a commit that
 * fails has done so itself. */
void store_begin_durable(struct store *);
int store_commit_durable(struct store *, struct err *);
void store_rollback(struct store *);

/* cells: what a daemon needs to take over a living cell */
int store_cell_put(struct store *, const char *id, const char *json, struct err *); /* insert or replace */
int store_cell_delete(struct store *, const char *id, const char *reason, struct err *); /* kept as ended, with the reason */
int store_cell_each(struct store *, int (*row)(void *arg, const char *id, const char *json), void *arg, struct err *); /* living ones */
int store_cell_ended(struct store *, const char *id, char *reason, size_t reason_size); /* 1 found, 0 not */

/* executions that run longer than a moment, so that a later daemon can say what became of them */
int store_execution_put(struct store *, const char *id, const char *cell_id, const char *json, struct err *);
int store_execution_move(struct store *, const char *from_cell_id, const char *to_cell_id, struct err *); /* all of them */
int store_execution_each(struct store *, const char *cell_id, int (*row)(void *arg, const char *id, const char *json), void *arg, struct err *);

/* images: snapshots and frozen Spaces. A row is written after everything of the image is on the disk, and deleted before any of it goes: an
 * image without a row is garbage, a row without an image is damage. put and delete survive a power cut when they return (inside a
 * transaction: when it was begun as durable and is committed). */
int store_image_put(struct store *, const char *id, const char *cell_id, const char *json, struct err *);
int store_image_get(struct store *, const char *id, char **json); /* 1 found (the caller frees), 0 not */
int store_image_delete(struct store *, const char *id, struct err *);
int store_image_each(struct store *, int (*row)(void *arg, const char *id, const char *json), void *arg, struct err *); /* oldest first */

/* branches: who was forked from whom; outlives the cells (bounded: ended ones beyond 10,000 go, oldest first) */
int store_branch_put(struct store *, const char *id, const char *root_id, const char *json, struct err *);
int store_branch_each(struct store *, const char *root_id, int (*row)(void *arg, const char *id, const char *json), void *arg, struct err *);
int store_branch_get(struct store *, const char *id, char **json); /* 1 found (the caller frees), 0 not */

/* journal: operations that take more than one step. A row is written before the first and removed after the last. */
int store_journal_put(struct store *, const char *id, const char *json, struct err *);
int store_journal_delete(struct store *, const char *id, struct err *);
int store_journal_each(struct store *, int (*row)(void *arg, const char *id, const char *json), void *arg, struct err *);

/* events (bounded: the oldest beyond 100,000 go) */
int store_event_add(struct store *, int64_t ts_ms, const char *cell_id, const char *json, struct err *);
int store_event_each(struct store *, const char *cell_id_or_null, int tail, int (*row)(void *arg, const char *json), void *arg, struct err *);

/* API keys: only the SHA-256 of a key is kept */
int store_key_add(struct store *, const char *id, const char *name, const char *sha256_hex, int64_t created_ms, struct err *);
int store_key_find(struct store *, const char *sha256_hex, char *id, size_t id_size); /* 1 found, 0 not */
int store_key_delete(struct store *, const char *id, struct err *); /* not_found */
int store_key_each(struct store *, int (*row)(void *arg, const char *id, const char *name, int64_t created_ms, int64_t last_used_ms), void *arg, struct err *);
int store_key_used(struct store *, const char *id, int64_t now_ms);
bool store_key_any(struct store *);

/* usage: sums per key and kind; they outlive the key. put: the sum so far takes the place of the older one. */
int store_usage_put(struct store *, const char *key_id, const char *what, uint64_t sum, struct err *);
int store_usage_each(struct store *, int (*row)(void *arg, const char *key_id, const char *what, uint64_t sum), void *arg, struct err *);
