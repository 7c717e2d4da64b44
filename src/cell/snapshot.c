/* Snapshots: the cell is frozen for the moment that its pages are collected in, and goes on. */
#include "cell/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "cell/image.h"
#include "cell/text.h"

#define NAME_MAX_BYTES 100

/* ---- rows as the API shows them ---- */

static void add(struct json_object *o, const char *key, struct json_object *v) { json_object_object_add(o, key, v); }
static void copy(struct json_object *o, const char *to, struct json_object *row, const char *key) {
    add(o, to, json_object_get(body_get(row, key)));
}

static void snapshot_id(char out[DOMAIN_ID], const char *image_id) {
    (void)snprintf(out, DOMAIN_ID, "snap_%s", image_id + 4);
}

static struct json_object *contexts_json(struct json_object *rows) {
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; json_object_is_type(rows, json_type_array) && i < json_object_array_length(rows); i++) {
        struct json_object *row = json_object_array_get_idx(rows, i), *o = json_object_new_object();
        copy(o, "id", row, "id");
        copy(o, "language", row, "language");
        copy(o, "execution_count", row, "execution_count");
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *describe(struct world *w, const char *image_id, struct json_object *row) {
    struct json_object *o = json_object_new_object(), *names = json_object_new_array(), *name = body_get(row, "name"),
                       *cell = body_get(row, "cell");
    int64_t memory = json_object_get_int64(body_get(row, "memory_bytes")),
            disk = json_object_get_int64(body_get(row, "disk_bytes"));
    char id[DOMAIN_ID], time[32];
    snapshot_id(id, image_id);
    format_time(time, json_object_get_int64(body_get(row, "created_ms")));
    if (name) json_object_array_add(names, json_object_get(name));
    add(o, "id", json_object_new_string(id));
    add(o, "snapshot_id", json_object_new_string(id));
    copy(o, "sandbox_id", row, "cell_id");
    copy(o, "name", row, "name");
    add(o, "names", names);
    copy(o, "template", row, "template");
    copy(o, "template_id", row, "template_id");
    add(o, "created_at", json_object_new_string(time));
    add(o, "size_bytes", json_object_new_int64(memory + disk));
    copy(o, "memory_bytes", row, "memory_bytes");
    copy(o, "disk_bytes", row, "disk_bytes");
    add(o, "paused_ms", text_number((double)json_object_get_int64(body_get(row, "frozen_us")) / 1000));
    copy(o, "not_carried", row, "not_carried");
    add(o, "contexts", contexts_json(body_get(cell, "contexts")));
    add(o, "metadata",
        body_get(cell, "metadata") ? json_object_get(body_get(cell, "metadata")) : json_object_new_object());
    add(o, "state", json_object_new_string(image_there(w, image_id) ? "ready" : "missing"));
    return o;
}

/* ---- looking for one ---- */

struct search {
    const char *owner, *id, *cell_id, *name;
    void (*found)(struct search *, const char *id, struct json_object *row);
    struct world *world;
    struct json_object *list, *row;
    char image_id[CELL_ID_MAX];
};

static bool says(struct json_object *row, const char *key, const char *wanted) {
    const char *has = text_field(row, key);
    return !wanted || (has && strcmp(has, wanted) == 0);
}

static int on_row(void *arg, const char *id, const char *json) {
    struct search *s = arg;
    if (s->id && strcmp(id, s->id) != 0) return 0;
    struct json_object *row = json_tokener_parse(json);
    if (row && says(row, "kind", "snapshot") && says(row, "owner", s->owner) && says(row, "cell_id", s->cell_id) &&
        says(row, "name", s->name))
        s->found(s, id, row);
    json_object_put(row);
    return 0;
}

static void to_list(struct search *s, const char *id, struct json_object *row) {
    json_object_array_add(s->list, describe(s->world, id, row));
}

static void to_one(struct search *s, const char *id, struct json_object *row) {
    json_object_put(s->row);
    s->row = json_object_get(row);
    (void)snprintf(s->image_id, sizeof s->image_id, "%s", id);
}

static const char *owner_or_all(const char *owner) { return owner && *owner ? owner : NULL; }

struct json_object *snapshot_list(struct world *w, const char *cell_id, const char *name, const char *owner,
                                  struct err *err) {
    struct search s = {.owner = owner_or_all(owner),
                       .cell_id = cell_id,
                       .name = name,
                       .found = to_list,
                       .world = w,
                       .list = json_object_new_array()};
    if (store_image_each(w->config.store, on_row, &s, err) == 0) return s.list;
    json_object_put(s.list);
    return NULL;
}

int snapshot_find(struct world *w, const char *word, const char *owner, char image_id[CELL_ID_MAX],
                  struct json_object **row, struct err *err) {
    char id[CELL_ID_MAX];
    struct search s = {.owner = owner_or_all(owner), .found = to_one, .world = w};
    if (id_valid(word, "snap_")) {
        (void)snprintf(id, sizeof id, "img_%s", word + 5);
        s.id = id;
    } else
        s.name = word;
    if (store_image_each(w->config.store, on_row, &s, err) < 0) return -1;
    if (!s.row)
        return err_hint(err, ERR_NOT_FOUND, "GET /v1/snapshots (or: cella snapshots) lists them.",
                        "no snapshot has the id or name \"%.60s\"", word);
    memcpy(image_id, s.image_id, sizeof s.image_id);
    *row = s.row;
    return 0;
}

struct json_object *snapshot_get(struct world *w, const char *word, const char *owner, struct err *err) {
    char id[CELL_ID_MAX];
    struct json_object *row;
    if (snapshot_find(w, word, owner, id, &row, err) < 0) return NULL;
    struct json_object *o = describe(w, id, row);
    json_object_put(row);
    return o;
}

int snapshot_delete(struct world *w, const char *word, const char *owner, struct err *err) {
    char id[CELL_ID_MAX], shown[DOMAIN_ID];
    struct json_object *row;
    if (snapshot_find(w, word, owner, id, &row, err) < 0) return -1;
    int out = fault_error("domain.snapshot.delete", err);
    if (out == 0) out = store_image_delete(w->config.store, id, err);
    if (out == 0) {
        struct json_object *about = json_object_new_object();
        snapshot_id(shown, id);
        fault_point("domain.snapshot.deleted");
        add(about, "snapshot_id", json_object_new_string(shown));
        world_event(w, json_object_get_string(body_get(row, "cell_id")), "snapshot.deleted", NULL, NULL, about);
        image_discard(w, id);
    }
    json_object_put(row);
    return out;
}

/* ---- making one ---- */

struct making {
    struct turn turn;
    struct cell *cell;
    cell_json_cb cb;
    void *arg;
    char id[CELL_ID_MAX];
    char *name;
    struct json_object *row;
    struct err err;
    struct deferred later;
};

static void done(struct making *x, struct err *err) {
    struct cell *c = x->cell;
    cell_turn_over(c);
    struct json_object *o = err ? NULL : describe(c->world, x->id, x->row);
    x->cb(x->arg, err, o);
    json_object_put(o);
    json_object_put(x->row);
    free(x->name);
    cell_release(c);
    free(x);
}

static void failed(struct making *x, struct err *err) {
    if (err != &x->err) x->err = *err;
    if (x->id[0]) image_discard(x->cell->world, x->id);
    log_warn("%s: no snapshot: %s", x->cell->id, x->err.text);
    done(x, &x->err);
}

static void on_published(void *arg, struct err *err) {
    struct making *x = arg;
    struct cell *c = x->cell;
    char id[DOMAIN_ID];
    if (err || fault_error("domain.snapshot.published", &x->err) < 0 ||
        image_row_put(c->world, x->id, x->row, &x->err) < 0) {
        failed(x, err ? err : &x->err);
        return;
    }
    fault_point("domain.snapshot.committed");
    struct json_object *about = json_object_new_object();
    snapshot_id(id, x->id);
    add(about, "snapshot_id", json_object_new_string(id));
    copy(about, "name", x->row, "name");
    copy(about, "memory_bytes", x->row, "memory_bytes");
    copy(about, "disk_bytes", x->row, "disk_bytes");
    c->world->counters.snapshots++;
    world_event(c->world, c->id, "snapshot.created", NULL, NULL, about);
    done(x, NULL);
}

static void on_written(void *arg, struct err *err, const struct driver_image *image) {
    struct making *x = arg;
    struct cell *c = x->cell;
    if (err || fault_error("domain.snapshot.written", &x->err) < 0) {
        failed(x, err ? err : &x->err);
        return;
    }
    struct json_object *row = image_row(c, "snapshot", x->name, image);
    add(row, "created_ms", json_object_new_int64(wall_ms()));
    add(row, "not_carried", cell_not_carried(c, image->not_carried));
    add(row, "cell", x->row); /* as it was when the request came to its turn */
    x->row = row;
    image_publish(c->world, x->id, on_published, x);
}

static int name_free(struct cell *c, const char *name, struct err *err) {
    struct json_object *row = NULL;
    char id[CELL_ID_MAX];
    if (!name) return 0;
    if (snapshot_find(c->world, name, c->owner, id, &row, err) < 0)
        return strcmp(err->code, ERR_NOT_FOUND) == 0 ? 0 : -1;
    json_object_put(row);
    return err_hint(err, ERR_EXISTS, "Choose another name, or delete that snapshot.",
                    "a snapshot is called \"%.100s\" already", name);
}

static int admit(struct making *x, struct err *err) {
    struct cell *c = x->cell;
    if (c->status >= CELL_ENDING) return cell_gone_error(err, c->id, c->reason);
    if (!cell_can_freeze(c)) return err_set(err, ERR_UNSUPPORTED, "this driver cannot make snapshots");
    if ((c->status != CELL_RUNNING && c->status != CELL_PAUSED) || !c->driver)
        return err_hint(err, ERR_CONFLICT, "Wake it first.", "the sandbox %s is %s", c->id, cell_status_word(c));
    if (name_free(c, x->name, err) < 0) return -1;
    return fault_error("domain.snapshot.begin", err);
}

static void go(struct turn *t) {
    struct making *x = container_of(t, struct making, turn);
    struct cell *c = x->cell;
    char dir[IMAGE_PATH];
    if (admit(x, &x->err) < 0 || image_begin(c->world, x->id, &x->err) < 0) {
        failed(x, &x->err);
        return;
    }
    x->row = cell_row(c);
    image_path(c->world, x->id, true, dir);
    c->world->config.driver->ops->freeze(c->driver, x->id, dir, false, on_written, x);
}

static void refused(struct turn *t) {
    struct making *x = container_of(t, struct making, turn);
    done(x, &x->err);
}

static void drop(struct turn *t) {
    struct making *x = container_of(t, struct making, turn);
    json_object_put(x->row);
    free(x->name);
    cell_release(x->cell);
    free(x);
}

static int parse_name(struct json_object *body, const char **name, struct err *err) {
    if (body_text(body, "name", name, err) < 0) return -1;
    if (!*name) return 0;
    size_t n = strlen(*name);
    bool plain = n > 0 && n <= NAME_MAX_BYTES && !id_valid(*name, "snap_");
    for (size_t i = 0; i < n; i++) plain &= (unsigned char)(*name)[i] >= ' ' && (*name)[i] != '/' && (*name)[i] != 0x7f;
    if (plain) return 0;
    return err_set(err, ERR_INVALID,
                   "name must be 1 to %d bytes without slashes and control characters, and not look like an id",
                   NAME_MAX_BYTES);
}

void snapshot_create(struct cell *c, struct json_object *body, cell_json_cb cb, void *arg) {
    const char *name = NULL;
    struct making *x = calloc(1, sizeof *x);
    if (!x) abort();
    *x = (struct making){.cell = cell_hold(c), .cb = cb, .arg = arg};
    int out = parse_name(body, &name, &x->err);
    if (out == 0 && name && !(x->name = strdup(name))) abort();
    x->turn.drop = drop;
    cell_turn(c, &x->turn, out < 0 ? refused : go);
}
