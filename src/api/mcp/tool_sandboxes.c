/* create_sandbox, list_sandboxes, delete_sandbox. */
#include <string.h>

#include "api/json_text.h"
#include "api/mcp/call.h"
#include "api/mcp/content.h"
#include "api/mcp/tools.h"
#include "api/owners.h"
#include "cell/cell.h"

static void created(void *arg, struct err *e, struct cell *cell) {
    struct call *c = arg;
    if (e) {
        call_fail(c, e);
        return;
    }
    struct json_object *o = json_object_new_object();
    if (call_owner(c)) owners_add(c->mcp->api->owners, cell_id(cell), c->key_id);
    json_set_text(o, "sandbox", cell_id(cell));
    call_finish(c, content_json(o));
}

void tool_create(struct call *c) {
    static const char *const same[] = {"template", "from_snapshot"};
    struct json_object *spec = call_cell_spec(c);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (json_field(c->arguments, same[i]))
            json_set(spec, same[i], json_object_get(json_field(c->arguments, same[i])));
    cell_create(c->mcp->api->world, spec, c->key_id, created, c);
    json_object_put(spec);
}

/* A session's own ones; without a session all of the key. */
void tool_list(struct call *c) {
    static const char *const same[] = {"id", "status", "template", "parent_id", "created_at"};
    struct session *s = c->session;
    struct json_object *tag = s ? json_object_new_object() : NULL, *list = json_object_new_array(),
                       *o = json_object_new_object();
    if (s) json_set_text(tag, MCP_TAG, s->id);
    struct json_object *cells = cell_list(c->mcp->api->world, tag, NULL, call_owner(c));
    for (size_t i = 0; i < json_object_array_length(cells); i++) {
        struct json_object *cell = json_object_array_get_idx(cells, i), *row = json_object_new_object();
        for (size_t j = 0; j < sizeof same / sizeof *same; j++)
            if (json_field(cell, same[j])) json_set(row, same[j], json_object_get(json_field(cell, same[j])));
        const char *id = json_object_get_string(json_field(cell, "id"));
        if (s && strcmp(s->cell, id) == 0) json_set_flag(row, "own", true);
        json_object_array_add(list, row);
    }
    json_set(o, "sandboxes", list);
    if (c->given[0]) json_set_text(o, "given", c->given);
    json_object_put(cells);
    json_object_put(tag);
    call_finish(c, content_json(o));
}

static void deleted(void *arg, struct err *e) {
    struct call *c = arg;
    if (e)
        call_fail(c, e);
    else
        call_finish(c, content_text("deleted"));
}

void tool_delete(struct call *c) {
    struct err e;
    if (!json_field(c->arguments, "sandbox")) {
        err_set(&e, ERR_INVALID, "\"sandbox\" must be a string");
        call_refuse(c, &e);
        return;
    }
    if (c->session && strcmp(c->session->cell, cell_id(c->cell)) == 0) c->session->cell[0] = 0;
    cell_delete(c->cell, "deleted through MCP", deleted, c);
}
