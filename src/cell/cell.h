/* cell.h: one sandbox, from create to delete. Conventions as in world.h.
 *
 * A `struct cell *` found by id is borrowed and good until the loop turns again; whoever keeps one across callbacks
 * takes cell_hold() and gives it back with cell_release(). A held cell may be dead: its calls then answer "gone". */
#pragma once
#include <stdbool.h>

#include "cell/world.h"

struct cell;

/* Body of POST /v1/sandboxes as parsed JSON: {template, env:{}, metadata:{}, ttl_seconds, idle_timeout_seconds, on_timeout:"delete",
 * limits:{memory_mb, cpus, pids, disk_mb, open_files}, network:{mode:"none"}, persistent, from_snapshot}. Unknown fields are ignored, known
 * ones validated (invalid_request names the field). What a later version brings (persistent, from_snapshot, network modes other than none)
 * answers `unsupported`. owner: id of the API key, or "" (borrowed). */
typedef void (*cell_create_cb)(void *arg, struct err *, struct cell *);
void cell_create(struct world *, struct json_object *spec, const char *owner, cell_create_cb, void *arg);

struct cell *cell_find(struct world *, const char *id, struct err *); /* not_found, or gone with the reason it ended */
struct cell *cell_hold(struct cell *);
void cell_release(struct cell *);
const char *cell_id(const struct cell *);
const char *cell_owner(const struct cell *);
/* A pair of its metadata: the value, borrowed until the loop turns; NULL when there is none. */
const char *cell_tag(const struct cell *, const char *name);
/* Every cell that has not ended, oldest first, until visit says false. */
void cell_each(struct world *, bool (*visit)(void *arg, struct cell *), void *arg);

/* {id, template, status:"running|paused|deleted", driver, isolation, boot_ms, boot_mode:"filled|empty|made|cold", cpu, memory_mb, limits{},
 *  metadata{}, env names, created_at (RFC 3339), expires_at|null, idle_timeout_seconds|null, remaining_seconds|null, contexts, network{}} */
struct json_object *cell_describe(struct cell *);
/* Array of cell_describe, oldest first; only cells whose metadata has every pair of `metadata` (or NULL), whose status word is `state` (or NULL) and
 * whose owner matches (or NULL). */
struct json_object *cell_list(struct world *, struct json_object *metadata, const char *state, const char *owner);
const char *cell_status_word(const struct cell *);

typedef void (*cell_done_cb)(void *arg, struct err *);
void cell_delete(struct cell *, const char *reason, cell_done_cb, void *arg); /* ends executions as "killed" */
void cell_pause(struct cell *, cell_done_cb, void *arg);
void cell_resume(struct cell *, cell_done_cb, void *arg);
/* {ttl_seconds, idle_timeout_seconds, metadata?}: null clears. Returns 0 or -1. */
int cell_set_lifecycle(struct cell *, struct json_object *patch, struct err *);
/* What a timeout does: "freeze" or "delete"; NULL for one that ended. *seconds: until then, -1: no limit. */
const char *cell_time_left(struct cell *, double *seconds);
/* Any request for a cell resets its idle clock. */
void cell_touch(struct cell *);
typedef void (*cell_json_cb)(void *arg, struct err *, struct json_object *borrowed);

/* ---- memory and files go to the disk, and come back ---- */
/* Is hibernated, or on its way there or back: a request that needs it wakes it first. */
bool cell_asleep(const struct cell *);
/* Write the cell to its image and give its memory back. An execution that runs goes on after the wake, with its clock standing still
 * meanwhile; whoever waits for it keeps waiting. Processes and transfers end as "killed" (not_carried). Answer {id, status, space_id, memory_bytes,
 * disk_bytes, size_bytes, frozen_ms, not_carried}. After a failure it goes on as before. Hibernated already: the same answer. */
void cell_hibernate(struct cell *, cell_json_cb, void *arg);
/* Back from its image; at once when it is awake. Any number of callers may wait for one wake. */
void cell_wake(struct cell *, cell_done_cb, void *arg);
/* {memory_bytes, memory_peak_bytes, memory_limit_bytes, cpu_us, pids, disk_bytes, disk_limit_bytes, oom_kills, uptime_seconds} */
void cell_stats(struct cell *, cell_json_cb, void *arg);
/* The last lines that executions and processes of the cell printed (bounded ring, 256 KiB), as text. New string, free(). */
char *cell_logs(struct cell *, const char *stream /* "stdout" | "stderr" | "both" */);
/* Hear the log: what is kept of it at once, before cell_log_follow returns, then everything that comes. bytes NULL: the cell ended, that was the last
 * call. The follower may leave inside a call, but not while it hears what is kept. */
struct log_follower;
typedef void (*cell_log_cb)(void *arg, bool is_err, const void *bytes, size_t n);
/* NULL: the cell has ended, and cb was not called. The cell must be held as long as it is followed. */
struct log_follower *cell_log_follow(struct cell *, cell_log_cb, void *arg);
void cell_log_unfollow(struct log_follower *); /* frees it, also after the end; NULL is fine */

/* ---- contexts: id "ctx_" + 32 hex; the first Python context has the id "default", the shell that is made on first use
 * the id "shell". ---- */
/* body {language, cwd, env}. cb's JSON: {id, language, created_at, state:"idle|busy|restarting|lost", execution_count, restarts}. */
void context_create(struct cell *, struct json_object *body, cell_json_cb, void *arg);
struct json_object *context_list(struct cell *);
struct json_object *context_describe(struct cell *, const char *context_id, struct err *);
/* SIGINT to what runs; no execution running: conflict. */
int context_interrupt(struct cell *, const char *context_id, struct err *);
/* A fresh copy of the template's context in the same slot; what ran ends as "killed". */
void context_restart(struct cell *, const char *context_id, cell_json_cb, void *arg);
void context_delete(struct cell *, const char *context_id, cell_done_cb, void *arg);
