/* call.h: one tools/call, from its arguments to its answer. Loop thread only.
 *
 * A tool's function is called with the sandbox found (call.cell, held, awake) and finishes exactly once with
 * call_finish, call_fail or call_refuse, at once or later. Until then it may leave a `stop` by which a cancellation
 * reaches what it started. */
#pragma once
#include "api/mcp/post.h"
#include "api/mcp/session.h"

struct tool;
struct cell;

struct call {
    struct call *next, *prev; /* mcp.calls */
    struct call *next_waiting;
    struct mcp *mcp;
    struct post *post;       /* NULL: abandoned */
    struct session *session; /* held; NULL: a version without sessions, and no name */
    const struct tool *tool;
    struct json_object *id, *arguments; /* references; arguments is an object */
    struct json_object *token;          /* of progress, a reference, or NULL */
    struct cell *cell;                  /* held, or NULL */
    char key_id[KEY_ID_MAX];
    char given[CELL_ID_MAX];     /* ?sandbox=, or "" */
    char placed[CELL_ID_MAX];    /* the id under which `cell` was found: a merge moves ids */
    bool made;                   /* a sandbox was made for this very call, and the client cannot know that otherwise */
    bool cancelled;              /* nobody waits for the answer */
    struct span *span;           /* trace/span.h, or NULL */
    char traceparent[56];        /* goes back in the result, or "" */
    int64_t began_ms, told_ms;   /* monotonic: for progress */
    void (*stop)(struct call *); /* interrupt what runs; the call still finishes */
    void (*abandon)(struct call *); /* the daemon stops: detach, no callback may come after; the state is freed */
    void *state;                    /* of the tool's function, freed by it */
};

/* Begin it: takes references of what it keeps. The answer goes to the post. */
void call_begin(struct post *, struct session *, const struct tool *, const struct rpc_message *, const char *given);
/* The call of this session (NULL: this key without a session) with this id, or NULL. */
struct call *call_find(struct mcp *, const struct session *, const char *key_id, struct json_object *id);
void call_cancel(struct call *);
void call_abandon(struct call *);

/* `result` is a CallToolResult, taken over. */
void call_finish(struct call *, struct json_object *result);
/* The tool failed: an answer that the model reads. */
void call_fail(struct call *, const struct err *);
/* The arguments are not as the schema says. */
void call_refuse(struct call *, const struct err *);
/* Tell how it goes, when the client asked for it; more often than twice a second is dropped. text: one line, NULL:
 * none. */
void call_progress(struct call *, const char *text);

const char *call_owner(const struct call *); /* as api_owner */

/* place.c: find, make or wake the sandbox that the call is for, then go on with the tool. */
void call_place(struct call *);
/* A sandbox of this call's key by its id; not awake. gone, not_found. */
struct cell *call_cell(struct call *, const char *id, struct err *);
/* What a new sandbox or child of this call gets: tag, idle timeout, persistence. New reference. */
struct json_object *call_cell_spec(struct call *);
