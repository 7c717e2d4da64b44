/* Which sandbox a call is for: found, made or woken, then the tool runs. */
#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "api/mcp/call.h"
#include "api/mcp/content.h"
#include "api/mcp/tools.h"
#include "api/owners.h"
#include "base/id.h"
#include "cell/cell.h"

struct cell *call_cell(struct call *c, const char *id, struct err *e) {
    struct api *api = c->mcp->api;
    const char *owner = call_owner(c);
    struct cell *cell = id_valid(id, "sbx_") ? cell_find(api->world, id, e) : NULL;
    if (cell && (!owner || strcmp(cell_owner(cell), owner) == 0)) return cell;
    bool ended = !cell && id_valid(id, "sbx_") && strcmp(e->code, ERR_GONE) == 0 &&
                 (!owner || owners_know(api->owners, id, owner));
    if (!ended) err_hint(e, ERR_NOT_FOUND, "list_sandboxes tells which there are", "there is no sandbox \"%.60s\"", id);
    return NULL;
}

struct json_object *call_cell_spec(struct call *c) {
    struct json_object *spec = json_object_new_object(), *metadata = json_object_new_object();
    if (c->session) json_set_text(metadata, MCP_TAG, c->session->id);
    json_set(spec, "metadata", metadata);
    /* Also for the case that nobody is left to end it: a daemon that starts again knows no sessions. A kept one is
     * written to the disk then. */
    json_set(spec, "idle_timeout_seconds", json_object_new_double((double)c->mcp->idle_ms / 1000));
    if (c->session && c->session->keep) json_set_flag(spec, "persistent", true);
    return spec;
}

static void go(struct call *c) {
    if (c->cancelled)
        call_finish(c, content_new()); /* dropped */
    else
        c->tool->run(c);
}

static void awake(void *arg, struct err *e) {
    struct call *c = arg;
    if (e)
        call_fail(c, e);
    else
        go(c);
}

static void found(struct call *c, struct cell *cell) {
    c->cell = cell_hold(cell);
    (void)snprintf(c->placed, sizeof c->placed, "%s", cell_id(cell));
    if (call_owner(c)) owners_add(c->mcp->api->owners, cell_id(cell), c->key_id);
    cell_touch(cell);
    if (cell_asleep(cell) && c->tool->run != tool_delete)
        cell_wake(cell, awake, c);
    else
        go(c);
}

/* ---- a new one ---- */

static void made_for_call(void *arg, struct err *e, struct cell *cell) {
    struct call *c = arg;
    c->made = !e;
    if (e)
        call_fail(c, e);
    else
        found(c, cell);
}

static void forget(void *arg, struct err *e) { (void)arg, (void)e; }

/* Every call that came while it was made goes on. */
static void made_for_session(void *arg, struct err *e, struct cell *cell) {
    struct session *s = arg;
    struct call *list = s->waiting;
    struct err ended;
    s->making = false;
    s->waiting = NULL;
    if (!e && s->ended) {
        if (!s->keep) cell_delete(cell, "its MCP session ended", forget, NULL);
        err_set(&ended, ERR_GONE, "the session ended");
        e = &ended;
    }
    if (!e) (void)snprintf(s->cell, sizeof s->cell, "%s", cell_id(cell));
    while (list) {
        struct call *c = list;
        list = c->next_waiting;
        c->made =
            !e && s->name[0] && !list; /* a named session that ended begins again in silence: the first call tells */
        if (e)
            call_fail(c, e);
        else
            found(c, cell);
    }
    session_release(s);
}

static void make(struct call *c) {
    struct session *s = c->session;
    const char *owner = c->key_id;
    if (s) {
        c->next_waiting = s->waiting;
        s->waiting = c;
        if (s->making) return;
        s->making = true;
    }
    struct json_object *spec = call_cell_spec(c);
    if (s)
        cell_create(c->mcp->api->world, spec, owner, made_for_session, session_hold(s));
    else
        cell_create(c->mcp->api->world, spec, owner, made_for_call, c);
    json_object_put(spec);
}

/* ---- the choice ---- */

static void own_is_gone(struct call *c, struct err *e) {
    c->session->cell[0] = 0;
    e->hint = "the next call without `sandbox` starts in a new, empty one";
    (void)err_wrap(e, "the sandbox of this session is gone");
}

void call_place(struct call *c) {
    struct err e;
    const char *id;
    if (json_get_text(c->arguments, "sandbox", &id, &e) < 0) {
        call_refuse(c, &e);
        return;
    }
    if (c->tool->place == PLACE_NONE) {
        go(c);
        return;
    }
    bool own = !id && !c->given[0] && c->session && c->session->cell[0];
    if (!id && c->given[0]) id = c->given;
    if (own) id = c->session->cell;
    if (id) {
        struct cell *cell = call_cell(c, id, &e);
        if (cell) {
            found(c, cell);
            return;
        }
        if (own) own_is_gone(c, &e);
        call_fail(c, &e);
    } else if (c->tool->place == PLACE_EXISTING) {
        err_hint(&e, ERR_INVALID, "list_sandboxes tells which there are",
                 "say which sandbox: there is none yet in this session");
        call_fail(c, &e);
    } else {
        make(c);
    }
}
