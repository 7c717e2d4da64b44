/* Spaces: persistent cells, seen as what is kept of them. */
#include <stdio.h>
#include <string.h>

#include "cell/domain.h"
#include "cell/snapshot.h"

static void add(struct json_object *o, const char *key, struct json_object *v) { json_object_object_add(o, key, v); }
static void add_text(struct json_object *o, const char *key, const char *s) { add(o, key, json_object_new_string(s)); }

struct json_object *space_describe(struct cell *c) {
    struct json_object *o = json_object_new_object();
    char time[32];
    add_text(o, "space_id", c->space_id);
    add_text(o, "sandbox_id", c->id);
    add_text(o, "state", c->status == CELL_FROZEN ? "frozen" : "live");
    add_text(o, "status", cell_status_word(c));
    add_text(o, "template", c->template_name);
    format_time(time, c->created_ms);
    add_text(o, "created_at", time);
    format_time(time, c->frozen_at_ms);
    add(o, "frozen_at", c->frozen_at_ms ? json_object_new_string(time) : NULL);
    add(o, "size_bytes", json_object_new_uint64(c->image_memory + c->image_disk));
    add(o, "memory_bytes", json_object_new_uint64(c->image_memory));
    add(o, "disk_bytes", json_object_new_uint64(c->image_disk));
    add(o, "metadata", c->metadata ? json_object_get(c->metadata) : json_object_new_object());
    return o;
}

static bool is_space(const struct cell *c, const char *owner) {
    return c->persistent && c->status < CELL_ENDING && (!owner || !*owner || strcmp(owner, c->owner) == 0);
}

struct json_object *space_list(struct world *w, const char *owner) {
    struct json_object *list = json_object_new_array();
    for (struct cell *c = w->oldest; c; c = c->newer)
        if (is_space(c, owner)) json_object_array_add(list, space_describe(c));
    return list;
}

/* The digits of a Space are those of its cell. */
struct cell *space_find(struct world *w, const char *space_id, const char *owner, struct err *err) {
    char id[CELL_ID_MAX] = "";
    if (id_valid(space_id, "space_")) (void)snprintf(id, sizeof id, "sbx_%s", space_id + 6);
    struct cell *c = world_lookup(w, id);
    if (c && is_space(c, owner)) return c;
    err_hint(err, ERR_NOT_FOUND, "GET /v1/spaces (or: cella spaces) lists them.", "no Space has the id \"%.60s\"",
             space_id);
    return NULL;
}
