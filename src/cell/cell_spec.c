#include "cell/cell_spec.h"

#include <stdio.h>
#include <string.h>

#include "cell/snapshot.h"
#include "cell/template.h"
#include "cell/text.h"

#define METADATA_PAIRS 64
#define METADATA_BYTES 16384
#define IDLE_OF_SPACES_MS 300000 /* a Space that nobody uses gives its memory back after this, when nothing else was said */

static int seconds_or_null(struct json_object *body, const char *key, int64_t *out, bool *said, struct err *err) {
    struct json_object *v;
    *said = json_object_object_get_ex(body, key, &v);
    if (*said && !v) *out = 0;
    return body_seconds(body, key, out, err);
}

int cell_spec_times(struct json_object *body, int64_t *ttl_ms, int64_t *idle_ms, bool *ttl_said, bool *idle_said, struct err *err) {
    if (seconds_or_null(body, "ttl_seconds", ttl_ms, ttl_said, err) < 0) return -1;
    return seconds_or_null(body, "idle_timeout_seconds", idle_ms, idle_said, err);
}

int cell_spec_metadata(struct json_object *body, struct json_object **out, struct err *err) {
    if (body_map(body, "metadata", false, out, err) < 0) return -1;
    if (*out &&
        (json_object_object_length(*out) > METADATA_PAIRS || strlen(json_object_to_json_string(*out)) > METADATA_BYTES))
        return err_set(err, ERR_TOO_LARGE, "metadata holds more than %d pairs or %d bytes", METADATA_PAIRS,
                       METADATA_BYTES);
    return 0;
}

int cell_spec_persistence(struct world *w, struct json_object *body, bool *persistent, bool *freezes, struct err *err) {
    const struct driver_ops *ops = w->config.driver->ops;
    const bool before = *persistent;
    const char *word = NULL;
    if (body_bool(body, "persistent", persistent, err) < 0 || body_text(body, "on_timeout", &word, err) < 0) return -1;
    if (word && strcmp(word, "delete") != 0 && strcmp(word, "freeze") != 0)
        return err_set(err, ERR_INVALID, "on_timeout must be \"freeze\" or \"delete\", not \"%.40s\"", word);
    if (word)
        *freezes = strcmp(word, "freeze") == 0;
    else if (*persistent != before)
        *freezes = *persistent;
    if ((*persistent || *freezes) && !(ops->freeze && ops->thaw && ops->release))
        return err_set(err, ERR_UNSUPPORTED, "persistent sandboxes need a driver that can hibernate them, which \"%s\" cannot", ops->name);
    return 0;
}

/* What a later version brings is refused, not ignored. */
static int refuse_unsupported(struct json_object *body, struct err *err) {
    struct json_object *network = body_get(body, "network");
    if (!network) return 0;
    if (!json_object_is_type(network, json_type_object)) return err_set(err, ERR_INVALID, "network must be an object");
    const char *word = "none";
    if (body_text(network, "mode", &word, err) < 0) return -1;
    if (strcmp(word, "allowlist") == 0 || strcmp(word, "open") == 0)
        return err_set(err, ERR_UNSUPPORTED, "network.mode \"%s\" is not in this version: a sandbox has loopback only",
                       word);
    return strcmp(word, "none") == 0 ? 0 : err_set(err, ERR_INVALID, "network.mode must be \"none\"");
}

struct limit_field {
    const char *key;
    double scale, low;
    uint64_t max;
};

/* One number of `limits`; low is the least that a cell can work with. */
static int limit(struct json_object *limits, struct limit_field f, uint64_t *out, struct err *err) {
    struct json_object *v = body_get(limits, f.key);
    if (!v) return 0;
    bool number = json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_double);
    double d = number ? json_object_get_double(v) : -1;
    if (!(d >= f.low && d * f.scale <= (double)f.max))
        return err_set(err, ERR_INVALID, "limits.%s must be a number from %g to %g", f.key, f.low,
                       (double)f.max / f.scale);
    *out = (uint64_t)(d * f.scale);
    return 0;
}

static int limits_parse(struct world *w, struct json_object *body, struct cell_limits *out, struct err *err) {
    const struct cell_limits *max = &w->config.limits_max;
    struct json_object *limits = body_get(body, "limits");
    const double mib = 1024.0 * 1024;
    uint64_t cpu = out->cpu_millis, pids = out->pids_max, files = out->open_files;
    if (limits && !json_object_is_type(limits, json_type_object))
        return err_set(err, ERR_INVALID, "limits must be an object");
    if (limits &&
        (limit(limits, (struct limit_field){"memory_mb", mib, 64, max->memory_bytes}, &out->memory_bytes, err) < 0 ||
         limit(limits, (struct limit_field){"disk_mb", mib, 1, max->disk_bytes}, &out->disk_bytes, err) < 0 ||
         limit(limits, (struct limit_field){"cpus", 1000, 0.05, max->cpu_millis}, &cpu, err) < 0 ||
         limit(limits, (struct limit_field){"pids", 1, 8, max->pids_max}, &pids, err) < 0 ||
         limit(limits, (struct limit_field){"open_files", 1, 64, max->open_files}, &files, err) < 0))
        return -1;
    out->cpu_millis = (uint32_t)cpu;
    out->pids_max = (uint32_t)pids;
    out->open_files = (uint32_t)files;
    return 0;
}

static int64_t row_int(struct json_object *o, const char *key) { return json_object_get_int64(body_get(o, key)); }

/* from_snapshot: template, name and limits are those of the original. */
static int from_snapshot(struct world *w, const char *word, const char *wanted, const char *owner, struct cell_spec *out, struct err *err) {
    if (!w->config.driver->ops->thaw)
        return err_set(err, ERR_UNSUPPORTED, "snapshots need a driver that can make them, which \"%s\" cannot", w->config.driver->ops->name);
    if (snapshot_find(w, word, owner, out->image_id, &out->image_row, err) < 0) return -1;
    struct json_object *cell = body_get(out->image_row, "cell");
    const char *id = text_field(cell, "template_id"), *name = text_field(cell, "template");
    (void)snprintf(out->template_id, sizeof out->template_id, "%s", id ? id : "");
    (void)snprintf(out->template_name, sizeof out->template_name, "%s", name ? name : "");
    char asked[TEMPLATE_ID_HEX + 1];
    if (wanted && (template_resolve(w, wanted, asked, err) < 0 || strcmp(asked, out->template_id) != 0))
        return err_hint(err, ERR_INVALID, "Leave \"template\" out: it follows from the snapshot.",
                        "the snapshot is of template %.12s (%s), not of \"%.64s\"", out->template_id, out->template_name, wanted);
    out->limits = (struct cell_limits){.memory_bytes = (uint64_t)row_int(cell, "memory_bytes"),
                                       .disk_bytes = (uint64_t)row_int(cell, "disk_bytes"),
                                       .cpu_millis = (uint32_t)row_int(cell, "cpu_millis"),
                                       .pids_max = (uint32_t)row_int(cell, "pids_max"),
                                       .open_files = (uint32_t)row_int(cell, "open_files")};
    return 0;
}

/* A driver on its own makes everything. */
static struct driver *only_driver(struct driver *d, const char *name, struct err *err) {
    if (!name || !strcmp(name, "auto") || !strcmp(name, d->ops->name)) return d;
    if (!strcmp(name, "process") || !strcmp(name, "microvm"))
        return err_hint(err, ERR_DRIVER, "leave \"driver\" out", "this daemon makes sandboxes with the driver \"%s\" only", d->ops->name), NULL;
    return err_set(err, ERR_INVALID, "driver must be auto, process or microvm, not \"%.40s\"", name), NULL;
}

static int spec_driver(struct world *w, struct json_object *body, struct cell_spec *out, struct err *err) {
    struct driver *d = w->config.driver;
    const char *name = NULL;
    if (body_text(body, "driver", &name, err) < 0) return -1;
    if (out->image_id[0]) { /* it comes back by the driver that wrote it */
        const char *wrote = text_field(body_get(out->image_row, "cell"), "driver");
        if (!wrote) wrote = "process"; /* written before there was another */
        if (!name || !strcmp(name, "auto") || !strcmp(name, wrote)) return 0;
        return err_hint(err, ERR_INVALID, "Leave \"driver\" out: it follows from the snapshot.", "the snapshot was made by the driver \"%s\", not \"%.40s\"", wrote, name);
    }
    out->driver = d->ops->pick ? d->ops->pick(d, name, err) : only_driver(d, name, err);
    return out->driver ? 0 : -1;
}

static int from_template(struct world *w, const char *name, struct cell_spec *out, struct err *err) {
    if (template_resolve(w, name, out->template_id, err) < 0) return -1;
    (void)snprintf(out->template_name, sizeof out->template_name, "%s", name && *name ? name : "default");
    template_limits(w, out->template_id, &out->limits);
    return 0;
}

int cell_spec_parse(struct world *w, struct json_object *body, const char *owner, struct cell_spec *out, struct err *err) {
    const char *name = NULL, *snapshot = NULL;
    bool ttl_said, idle_said;
    *out = (struct cell_spec){.ttl_ms = w->config.ttl_default_ms,
                              .idle_timeout_ms = w->config.idle_timeout_default_ms,
                              .limits = w->config.limits_default};
    if (body_text(body, "template", &name, err) < 0 || body_text(body, "from_snapshot", &snapshot, err) < 0 ||
        refuse_unsupported(body, err) < 0 || body_map(body, "env", true, &out->env, err) < 0 ||
        cell_spec_metadata(body, &out->metadata, err) < 0 ||
        cell_spec_times(body, &out->ttl_ms, &out->idle_timeout_ms, &ttl_said, &idle_said, err) < 0 ||
        cell_spec_persistence(w, body, &out->persistent, &out->freeze_on_timeout, err) < 0)
        return -1;
    if (out->persistent && !idle_said && !out->idle_timeout_ms) out->idle_timeout_ms = IDLE_OF_SPACES_MS;
    int found = snapshot ? from_snapshot(w, snapshot, name, owner, out, err) : from_template(w, name, out, err);
    return found < 0 || spec_driver(w, body, out, err) < 0 ? -1 : limits_parse(w, body, &out->limits, err);
}
