#include "cli/cell_options.h"

#include <json-c/json.h>
#include <string.h>

struct json_object *pairs_json(const struct words *words, const char *what, struct err *e) {
    struct json_object *object = json_object_new_object();
    for (size_t i = 0; i < words->count; i++) {
        const char *word = words->word[i], *equals = strchr(word, '=');
        char name[256];
        if (!equals || equals == word || (size_t)(equals - word) >= sizeof name) {
            (void)err_set(e, CLI_USAGE, "%s needs NAME=VALUE, not \"%.80s\"", what, word);
            json_object_put(object);
            return NULL;
        }
        memcpy(name, word, (size_t)(equals - word));
        name[equals - word] = 0;
        json_object_object_add(object, name, json_object_new_string(equals + 1));
    }
    return object;
}

static void add_whole(struct json_object *to, const char *key, int64_t value) {
    if (value >= 0) json_object_object_add(to, key, json_object_new_int64(value));
}

static void add_number(struct json_object *to, const char *key, double value) {
    if (value < 0) return;
    double whole = (double)(int64_t)value;
    json_object_object_add(to, key,
                           value - whole > 0 ? json_object_new_double(value) : json_object_new_int64((int64_t)value));
}

/* Takes value. What was not asked for is not sent: a snapshot has limits and an environment of its own. */
static void add_unless_empty(struct json_object *to, const char *key, struct json_object *value) {
    if (json_object_object_length(value))
        json_object_object_add(to, key, value);
    else
        json_object_put(value);
}

struct json_object *cell_options_json(const struct cell_options *o, struct err *e) {
    struct json_object *env = pairs_json(&o->env, "--env", e);
    struct json_object *metadata = env ? pairs_json(&o->metadata, "--metadata", e) : NULL;
    if (!env || !metadata) {
        json_object_put(env);
        return NULL;
    }
    struct json_object *body = json_object_new_object(), *limits = json_object_new_object();
    if (o->template) json_object_object_add(body, "template", json_object_new_string(o->template));
    if (o->from_snapshot) json_object_object_add(body, "from_snapshot", json_object_new_string(o->from_snapshot));
    if (o->driver) json_object_object_add(body, "driver", json_object_new_string(o->driver));
    if (o->persistent) json_object_object_add(body, "persistent", json_object_new_boolean(true));
    if (o->on_timeout) json_object_object_add(body, "on_timeout", json_object_new_string(o->on_timeout));
    add_unless_empty(body, "env", env);
    add_unless_empty(body, "metadata", metadata);
    add_number(body, "ttl_seconds", o->ttl);
    add_number(body, "idle_timeout_seconds", o->idle);
    add_whole(limits, "memory_mb", o->memory_mb);
    add_number(limits, "cpus", o->cpus);
    add_whole(limits, "pids", o->pids);
    add_whole(limits, "disk_mb", o->disk_mb);
    add_whole(limits, "open_files", o->open_files);
    add_unless_empty(body, "limits", limits);
    return body;
}
