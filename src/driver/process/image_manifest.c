#include "driver/process/image_manifest.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "wire/keeper_proto.h"

void image_manifest_free(struct image_manifest *m) {
    json_object_put(m->not_carried);
    m->not_carried = NULL;
}

/* ---- out ---- */

static struct json_object *slot_json(int number, const struct image_slot *s) {
    struct json_object *o = json_object_new_object();
    put_number(o, "slot", (uint64_t)number);
    put_text(o, "language", s->language == KEEPER_SHELL ? "shell" : "python");
    put_digest(o, "base", s->base);
    put_number(o, "bytes", s->memory.file_bytes);
    put_number(o, "index_offset", s->memory.index_offset);
    put_number(o, "index_bytes", s->memory.index_bytes);
    put_digest(o, "index_sha256", s->memory.index_digest);
    put_digest(o, "sha256", s->memory.digest);
    return o;
}

static struct json_object *features_json(const struct arch_features *f) {
    struct json_object *o = json_object_new_object(), *words = json_object_new_array();
    for (int i = 0; i < ARCH_WORDS; i++) json_object_array_add(words, json_object_new_int64(f->word[i]));
    put_text(o, "name", ARCH_NAME);
    json_object_object_add(o, "features", words);
    put_number(o, "state_mask", f->state_mask);
    put_number(o, "state_bytes", f->state_bytes);
    return o;
}

static struct json_object *manifest_json(const struct image_manifest *m) {
    struct json_object *o = json_object_new_object(), *slots = json_object_new_array();
    put_number(o, "format", IMAGE_FORMAT);
    put_text(o, "image", m->image_id);
    put_text(o, "template", m->template_id);
    put_number(o, "made_at_ms", (uint64_t)m->made_at_ms);
    json_object_object_add(o, "processor", features_json(&m->features));
    put_limits(o, "limits", &m->limits);
    put_number(o, "layer_bytes", m->layer_bytes);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (m->slot[i].used) json_object_array_add(slots, slot_json(i, &m->slot[i]));
    json_object_object_add(o, "contexts", slots);
    json_object_object_add(o, "not_carried", m->not_carried ? json_object_get(m->not_carried) : json_object_new_array());
    return o;
}

int image_manifest_write(const struct image_manifest *m, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    struct json_object *o = manifest_json(m);
    const int rc = sealed_write(o, key, dir_fd, e);
    json_object_put(o);
    return rc;
}

/* ---- in ---- */

static bool take_slot(struct image_manifest *m, struct json_object *o) {
    uint64_t number;
    if (!o || !json_object_is_type(o, json_type_object) || !take_number(o, "slot", DRIVER_SLOTS - 1, &number) || m->slot[number].used) return false;
    struct image_slot *s = &m->slot[number];
    const char *language = take_text(o, "language");
    s->used = true;
    s->language = !strcmp(language, "shell") ? KEEPER_SHELL : !strcmp(language, "python") ? KEEPER_PYTHON : KEEPER_NONE;
    const bool sizes = take_number(o, "bytes", INT64_MAX, &s->memory.file_bytes) && take_number(o, "index_offset", INT64_MAX, &s->memory.index_offset) &&
                       take_number(o, "index_bytes", INDEX_BYTES_MAX, &s->memory.index_bytes);
    const struct memory_trailer t = {MEMORY_MAGIC, s->memory.index_offset, s->memory.index_bytes, s->memory.file_bytes};
    struct err ignored;
    return s->language != KEEPER_NONE && sizes && !memory_trailer_check(&t, s->memory.file_bytes, &ignored) && take_digest(o, "base", s->base) &&
           take_digest(o, "index_sha256", s->memory.index_digest) && take_digest(o, "sha256", s->memory.digest);
}

static bool take_features(struct arch_features *f, struct json_object *o) {
    struct json_object *words = o ? take_array(o, "features") : NULL;
    if (!words || json_object_array_length(words) != ARCH_WORDS || strcmp(take_text(o, "name"), ARCH_NAME)) return false;
    for (size_t i = 0; i < ARCH_WORDS; i++) {
        struct json_object *v = json_object_array_get_idx(words, i);
        const int64_t n = v && json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : -1;
        if (n < 0 || n > UINT32_MAX) return false;
        f->word[i] = (uint32_t)n;
    }
    return take_number(o, "state_mask", INT64_MAX, &f->state_mask) && take_u32(o, "state_bytes", &f->state_bytes);
}

static int take_all(struct image_manifest *m, struct json_object *o, struct err *e) {
    uint64_t format, made;
    if (!o || !json_object_is_type(o, json_type_object)) return sealed_damaged(e, "not an object");
    if (!take_number(o, "format", UINT32_MAX, &format)) return sealed_damaged(e, "no format");
    const char *driver = take_text(o, "driver");
    if (*driver && strcmp(driver, "process"))
        return err_hint(e, ERR_IMAGE, "a sandbox comes back by the driver that wrote it", "the image was written by the driver \"%.16s\"", driver);
    if (format != IMAGE_FORMAT)
        return err_hint(e, ERR_IMAGE, "use the version of Cella that wrote it", "the image has format %" PRIu64 "; this version reads %d", format, IMAGE_FORMAT);
    const char *image = take_text(o, "image"), *template = take_text(o, "template");
    if (!id_valid(image, "img_") || !hex_valid(template, TEMPLATE_ID_HEX)) return sealed_damaged(e, "ids");
    (void)snprintf(m->image_id, sizeof m->image_id, "%s", image);
    (void)snprintf(m->template_id, sizeof m->template_id, "%s", template);
    if (!take_number(o, "made_at_ms", INT64_MAX, &made) || !take_number(o, "layer_bytes", INT64_MAX, &m->layer_bytes)) return sealed_damaged(e, "numbers");
    m->made_at_ms = (int64_t)made;
    if (!take_features(&m->features, take_object(o, "processor"))) return sealed_damaged(e, "processor");
    if (!take_limits(o, "limits", &m->limits)) return sealed_damaged(e, "limits");
    struct json_object *slots = take_array(o, "contexts"), *lost = take_array(o, "not_carried");
    if (!slots || json_object_array_length(slots) > DRIVER_SLOTS || !lost) return sealed_damaged(e, "lists");
    for (size_t i = 0; i < json_object_array_length(slots); i++)
        if (!take_slot(m, json_object_array_get_idx(slots, i))) return sealed_damaged(e, "a context");
    m->not_carried = json_object_get(lost);
    return 0;
}

int image_manifest_parse(struct image_manifest *m, const char *json, size_t n, struct err *e) {
    *m = (struct image_manifest){0};
    struct json_object *o = sealed_parse(json, n, e);
    const int rc = o ? take_all(m, o, e) : -1;
    json_object_put(o);
    return rc;
}

int image_manifest_read(struct image_manifest *m, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    cleanup_free char *text = NULL;
    size_t n;
    *m = (struct image_manifest){0};
    return sealed_read(key, dir_fd, &text, &n, e) ? -1 : image_manifest_parse(m, text, n, e);
}

int image_manifest_fits(const struct image_manifest *m, struct err *e) {
    struct arch_features here;
    arch_features_here(&here);
    if (arch_features_suffice(&here, &m->features)) return 0;
    return err_hint(e, ERR_IMAGE, "resume it on a machine with the processor it was made on", "the image was made on a processor with other features");
}
