#include "api/mcp/session.h"

#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "api/mcp/call.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "cell/cell.h"

struct session *session_hold(struct session *s) {
    if (s) s->refs++;
    return s;
}

void session_release(struct session *s) {
    if (s && --s->refs == 0) free(s);
}

void session_touch(struct session *s) { s->used_ms = monotonic_ms(); }

bool session_name_good(const char *name) {
    size_t n = strlen(name);
    return n > 0 && n <= MCP_NAME_MAX &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == n;
}

struct session *session_begin(struct mcp *m, const char *key_id, const char *name, bool keep, enum mcp_version version,
                              struct err *e) {
    if (m->count >= MCP_SESSIONS_MAX) {
        err_hint(e, ERR_LIMIT, "end sessions with DELETE /mcp", "there are %d MCP sessions already", MCP_SESSIONS_MAX);
        return NULL;
    }
    struct session *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct session){.mcp = m, .refs = 1, .keep = keep, .version = version, .next = m->sessions};
    id_make(s->id, "mcp_");
    (void)snprintf(s->name, sizeof s->name, "%s", name ? name : "");
    (void)snprintf(s->key_id, sizeof s->key_id, "%s", key_id);
    session_touch(s);
    if (s->next) s->next->prev = s;
    m->sessions = s;
    m->count++;
    return s;
}

struct session *session_find(struct mcp *m, const char *key_id, const char *id) {
    for (struct session *s = m->sessions; s; s = s->next)
        if (strcmp(s->id, id) == 0 && strcmp(s->key_id, key_id) == 0) return s;
    return NULL;
}

struct session *session_named(struct mcp *m, const char *key_id, const char *name) {
    for (struct session *s = m->sessions; s; s = s->next)
        if (s->name[0] && strcmp(s->name, name) == 0 && strcmp(s->key_id, key_id) == 0) return s;
    return NULL;
}

static void unlink_session(struct session *s) {
    if (s->prev)
        s->prev->next = s->next;
    else
        s->mcp->sessions = s->next;
    if (s->next) s->next->prev = s->prev;
    s->mcp->count--;
    s->ended = true;
}

static void deleted(void *arg, struct err *e) {
    (void)arg;
    if (e && strcmp(e->code, ERR_GONE) != 0) log_warn("a sandbox of an MCP session was not deleted: %s", e->text);
}

/* Its own, copies of it, and whatever else was made in it. */
static void delete_cells(struct session *s, const char *reason) {
    struct world *world = s->mcp->api->world;
    struct json_object *tag = json_object_new_object();
    json_set_text(tag, MCP_TAG, s->id);
    struct json_object *cells = cell_list(world, tag, NULL, s->key_id[0] ? s->key_id : NULL);
    for (size_t i = 0; i < json_object_array_length(cells); i++) {
        struct err e;
        const char *id = json_object_get_string(json_field(json_object_array_get_idx(cells, i), "id"));
        struct cell *cell = cell_find(world, id, &e);
        if (cell) cell_delete(cell, reason, deleted, NULL);
    }
    json_object_put(cells);
    json_object_put(tag);
}

void session_end(struct session *s, const char *reason) {
    if (s->ended) return;
    unlink_session(s);
    for (struct call *c = s->mcp->calls, *next; c; c = next) { /* what runs in a sandbox that stays */
        next = c->next;
        if (c->session == s) call_cancel(c);
    }
    if (!s->keep) delete_cells(s, reason);
    session_release(s);
}

static bool busy(const struct session *s) {
    for (struct call *c = s->mcp->calls; c; c = c->next)
        if (c->session == s) return true;
    return false;
}

static void on_tick(uv_timer_t *t) {
    struct mcp *m = t->data;
    int64_t now = monotonic_ms();
    for (struct session *s = m->sessions, *next; s; s = next) {
        next = s->next;
        if (busy(s))
            s->used_ms = now;
        else if (now - s->used_ms >= m->idle_ms)
            session_end(s, "its MCP session was idle for too long");
    }
}

struct mcp *mcp_open(struct api *api, uv_loop_t *loop, int64_t idle_ms) {
    struct mcp *m = calloc(1, sizeof *m);
    if (!m) abort();
    *m = (struct mcp){.api = api, .idle_ms = idle_ms};
    m->tick.data = m;
    uint64_t every = idle_ms > 40000 ? 10000 : idle_ms > 1000 ? (uint64_t)idle_ms / 4 : 250;
    uv_timer_init(loop, &m->tick);
    uv_timer_start(&m->tick, on_tick, every, every);
    uv_unref((uv_handle_t *)&m->tick);
    return m;
}

static void closed(uv_handle_t *h) { free(h->data); }

void mcp_close(struct mcp *m) {
    while (m->calls) call_abandon(m->calls);
    while (m->sessions) { /* the sandboxes live on, until they have been idle */
        struct session *s = m->sessions;
        unlink_session(s);
        session_release(s);
    }
    uv_close((uv_handle_t *)&m->tick, closed);
}
