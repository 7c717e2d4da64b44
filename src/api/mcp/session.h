/* session.h: sessions of MCP clients and the sandboxes that belong to them. Loop thread only.
 *
 * A session belongs to the key that began it; for another key it does not exist. It has an id (header Mcp-Session-Id)
 * or, for clients of versions without sessions, a name that the client chose (?session=NAME). It ends when the client
 * says so (DELETE) or when it was idle for too long; with it end the sandboxes that were made in it, unless it keeps
 * them. Sessions live in memory: a daemon that starts again knows none, and the sandboxes of the ones it knew end by
 * their own idle timeout. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "api/api.h"
#include "api/mcp/version.h"
#include "driver/driver.h"

#define MCP_SESSIONS_MAX 4096
#define MCP_NAME_MAX 64
#define MCP_ID_SIZE 37        /* "mcp_" + 32 hex + NUL */
#define MCP_TAG "mcp_session" /* metadata of every sandbox made in a session: its id */

struct call;

struct mcp {
    struct api *api;
    uv_timer_t tick;
    int64_t idle_ms;
    struct session *sessions;
    unsigned count;
    struct call *calls; /* under way */
};

struct session {
    struct session *next, *prev;
    struct mcp *mcp;
    unsigned refs; /* the table's and those of who holds it */
    bool ended;
    bool keep;   /* its sandboxes outlive it */
    bool making; /* its own sandbox is being made */
    char id[MCP_ID_SIZE], name[MCP_NAME_MAX + 1], key_id[KEY_ID_MAX];
    enum mcp_version version;
    char cell[CELL_ID_MAX]; /* its own sandbox, made on first use; "": none */
    struct call *waiting;   /* for that (call.next_waiting) */
    int64_t used_ms;
};

struct mcp *mcp_open(struct api *, uv_loop_t *, int64_t idle_ms);
/* After the HTTP server was told to close and before the world is: lets go of everything, without an answer. */
void mcp_close(struct mcp *);

/* A new one. limit_reached. Borrowed until the loop turns. */
struct session *session_begin(struct mcp *, const char *key_id, const char *name, bool keep, enum mcp_version,
                              struct err *);
struct session *session_find(struct mcp *, const char *key_id, const char *id);
struct session *session_named(struct mcp *, const char *key_id, const char *name);
bool session_name_good(const char *name); /* 1..MCP_NAME_MAX of A-Z a-z 0-9 - _ . */
void session_touch(struct session *);
void session_end(struct session *, const char *reason);
struct session *session_hold(struct session *); /* NULL is fine, here and below */
void session_release(struct session *);
