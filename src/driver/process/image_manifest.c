#include "driver/process/image_manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/cleanup.h"
#include "base/id.h"
#include "wire/keeper_proto.h"

#define LINE (2 * IMAGE_DIGEST + 1)

void image_manifest_free(struct image_manifest *m) {
    json_object_put(m->not_carried);
    m->not_carried = NULL;
}

static void hex_of(const uint8_t *bytes, char out[LINE]) {
    for (int i = 0; i < IMAGE_DIGEST; i++) (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static uv_mutex_t key_lock;
static void key_lock_init(void) { (void)uv_mutex_init(&key_lock); }

static int make_key(const char *path, uint8_t key[IMAGE_KEY], struct err *e) {
    char directory[4096], temporary[4200];
    const char *slash = strrchr(path, '/');
    (void)snprintf(directory, sizeof directory, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    (void)snprintf(temporary, sizeof temporary, "%s.new", path);
    (void)unlink(temporary); /* a crash left it */
    cleanup_close int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    random_fill(key, IMAGE_KEY);
    errno = 0;
    if (dir < 0 || fd < 0 || write(fd, key, IMAGE_KEY) != IMAGE_KEY || fsync(fd) || rename(temporary, path) || fsync(dir)) {
        int rc = err_sys(e, errno ? errno : ENOSPC, "make the key of images %s", path);
        (void)unlink(temporary);
        return rc;
    }
    return 0;
}

int image_key(const char *path, uint8_t key[IMAGE_KEY], struct err *e) {
    static uv_once_t once = UV_ONCE_INIT;
    char one_more;
    uv_once(&once, key_lock_init);
    uv_mutex_lock(&key_lock); /* two images at once make one key */
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = 0;
    if (fd < 0 && errno == ENOENT) rc = make_key(path, key, e);
    else if (fd < 0) rc = err_sys(e, errno, "open the key of images %s", path);
    else if (read(fd, key, IMAGE_KEY) != IMAGE_KEY || read(fd, &one_more, 1) != 0)
        rc = err_hint(e, ERR_INTERNAL, "put the file back from a backup; without it no image can be read", "the key of images %s has not %d bytes", path, IMAGE_KEY);
    uv_mutex_unlock(&key_lock);
    return rc;
}

static int mac_of(const uint8_t key[IMAGE_KEY], const char *text, size_t n, uint8_t mac[IMAGE_DIGEST], struct err *e) {
    unsigned out = IMAGE_DIGEST;
    return HMAC(EVP_sha256(), key, IMAGE_KEY, (const uint8_t *)text, n, mac, &out) ? 0 : err_set(e, ERR_INTERNAL, "no HMAC-SHA-256");
}

/* ---- out ---- */

static void add_text(struct json_object *o, const char *key, const char *text) { json_object_object_add(o, key, json_object_new_string(text)); }
static void add_number(struct json_object *o, const char *key, uint64_t n) { json_object_object_add(o, key, json_object_new_int64((int64_t)n)); }
static void add_digest(struct json_object *o, const char *key, const uint8_t *digest) {
    char hex[LINE];
    hex_of(digest, hex);
    add_text(o, key, hex);
}

static struct json_object *slot_json(int number, const struct image_slot *s) {
    struct json_object *o = json_object_new_object();
    add_number(o, "slot", (uint64_t)number);
    add_text(o, "language", s->language == KEEPER_SHELL ? "shell" : "python");
    add_digest(o, "base", s->base);
    add_number(o, "bytes", s->memory.file_bytes);
    add_number(o, "index_offset", s->memory.index_offset);
    add_number(o, "index_bytes", s->memory.index_bytes);
    add_digest(o, "index_sha256", s->memory.index_digest);
    add_digest(o, "sha256", s->memory.digest);
    return o;
}

static struct json_object *features_json(const struct arch_features *f) {
    struct json_object *o = json_object_new_object(), *words = json_object_new_array();
    for (int i = 0; i < ARCH_WORDS; i++) json_object_array_add(words, json_object_new_int64(f->word[i]));
    add_text(o, "name", ARCH_NAME);
    json_object_object_add(o, "features", words);
    add_number(o, "state_mask", f->state_mask);
    add_number(o, "state_bytes", f->state_bytes);
    return o;
}

static struct json_object *manifest_json(const struct image_manifest *m) {
    struct json_object *o = json_object_new_object(), *limits = json_object_new_object(), *slots = json_object_new_array();
    add_number(o, "format", IMAGE_FORMAT);
    add_text(o, "image", m->image_id);
    add_text(o, "template", m->template_id);
    add_number(o, "made_at_ms", (uint64_t)m->made_at_ms);
    json_object_object_add(o, "processor", features_json(&m->features));
    add_number(limits, "memory_bytes", m->limits.memory_bytes);
    add_number(limits, "disk_bytes", m->limits.disk_bytes);
    add_number(limits, "cpu_millis", m->limits.cpu_millis);
    add_number(limits, "pids_max", m->limits.pids_max);
    add_number(limits, "open_files", m->limits.open_files);
    json_object_object_add(o, "limits", limits);
    add_number(o, "layer_bytes", m->layer_bytes);
    for (int i = 0; i < DRIVER_SLOTS; i++)
        if (m->slot[i].used) json_object_array_add(slots, slot_json(i, &m->slot[i]));
    json_object_object_add(o, "contexts", slots);
    json_object_object_add(o, "not_carried", m->not_carried ? json_object_get(m->not_carried) : json_object_new_array());
    return o;
}

int image_manifest_write(const struct image_manifest *m, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    uint8_t mac[IMAGE_DIGEST];
    char line[LINE + 1];
    size_t n;
    struct json_object *o = manifest_json(m);
    const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    int rc = n + LINE > MANIFEST_BYTES_MAX ? err_set(e, ERR_INTERNAL, "the manifest of an image has %zu bytes", n) : mac_of(key, text, n, mac, e);
    if (!rc) {
        hex_of(mac, line);
        line[LINE - 1] = '\n';
        errno = 0;
        cleanup_close int fd = openat(dir_fd, MANIFEST_NAME, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) rc = err_sys(e, errno, "write the manifest of an image");
        else if (write(fd, line, LINE) != LINE || write(fd, text, n) != (ssize_t)n || fsync(fd) || fsync(dir_fd)) {
            rc = err_sys(e, errno ? errno : ENOSPC, "write the manifest of an image");
            (void)unlinkat(dir_fd, MANIFEST_NAME, 0);
        }
    }
    json_object_put(o);
    return rc;
}

/* ---- in ---- */

static int damaged(struct err *e, const char *what) {
    return err_hint(e, ERR_IMAGE, "the image cannot be used; an older one of the same cell may be whole", "the manifest of the image is damaged: %s", what);
}

static bool take_number(struct json_object *o, const char *key, uint64_t most, uint64_t *out) {
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int)) return false;
    const int64_t n = json_object_get_int64(v);
    *out = (uint64_t)n;
    return n >= 0 && (uint64_t)n <= most;
}

static bool take_u32(struct json_object *o, const char *key, uint32_t *out) {
    uint64_t n;
    if (!take_number(o, key, UINT32_MAX, &n)) return false;
    *out = (uint32_t)n;
    return true;
}

static const char *text_of(struct json_object *o, const char *key) {
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string)) return "";
    const char *s = json_object_get_string(v);
    return strlen(s) == (size_t)json_object_get_string_len(v) ? s : "";
}

static bool digest_from(const char *hex, uint8_t out[IMAGE_DIGEST]) {
    unsigned byte;
    if (!hex_valid(hex, 2 * IMAGE_DIGEST)) return false;
    for (int i = 0; i < IMAGE_DIGEST && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++) out[i] = (uint8_t)byte;
    return true;
}

static struct json_object *part(struct json_object *o, const char *key, enum json_type type) {
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, type) ? v : NULL;
}

static bool take_slot(struct image_manifest *m, struct json_object *o) {
    uint64_t number;
    if (!o || !json_object_is_type(o, json_type_object) || !take_number(o, "slot", DRIVER_SLOTS - 1, &number) || m->slot[number].used) return false;
    struct image_slot *s = &m->slot[number];
    const char *language = text_of(o, "language");
    s->used = true;
    s->language = !strcmp(language, "shell") ? KEEPER_SHELL : !strcmp(language, "python") ? KEEPER_PYTHON : KEEPER_NONE;
    const bool sizes = take_number(o, "bytes", INT64_MAX, &s->memory.file_bytes) && take_number(o, "index_offset", INT64_MAX, &s->memory.index_offset) &&
                       take_number(o, "index_bytes", INDEX_BYTES_MAX, &s->memory.index_bytes);
    const struct memory_trailer t = {MEMORY_MAGIC, s->memory.index_offset, s->memory.index_bytes, s->memory.file_bytes};
    struct err ignored;
    return s->language != KEEPER_NONE && sizes && !memory_trailer_check(&t, s->memory.file_bytes, &ignored) && digest_from(text_of(o, "base"), s->base) &&
           digest_from(text_of(o, "index_sha256"), s->memory.index_digest) && digest_from(text_of(o, "sha256"), s->memory.digest);
}

static bool take_features(struct arch_features *f, struct json_object *o) {
    struct json_object *words = o ? part(o, "features", json_type_array) : NULL;
    if (!words || json_object_array_length(words) != ARCH_WORDS || strcmp(text_of(o, "name"), ARCH_NAME)) return false;
    for (size_t i = 0; i < ARCH_WORDS; i++) {
        struct json_object *v = json_object_array_get_idx(words, i);
        const int64_t n = v && json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : -1;
        if (n < 0 || n > UINT32_MAX) return false;
        f->word[i] = (uint32_t)n;
    }
    return take_number(o, "state_mask", INT64_MAX, &f->state_mask) && take_u32(o, "state_bytes", &f->state_bytes);
}

static bool take_limits(struct cell_limits *l, struct json_object *o) {
    return o && take_number(o, "memory_bytes", INT64_MAX, &l->memory_bytes) && take_number(o, "disk_bytes", INT64_MAX, &l->disk_bytes) &&
           take_u32(o, "cpu_millis", &l->cpu_millis) && take_u32(o, "pids_max", &l->pids_max) && take_u32(o, "open_files", &l->open_files);
}

static int take_all(struct image_manifest *m, struct json_object *o, struct err *e) {
    uint64_t format, made;
    if (!o || !json_object_is_type(o, json_type_object)) return damaged(e, "not an object");
    if (!take_number(o, "format", UINT32_MAX, &format)) return damaged(e, "no format");
    if (format != IMAGE_FORMAT)
        return err_hint(e, ERR_IMAGE, "use the version of Cella that wrote it", "the image has format %" PRIu64 "; this version reads %d", format, IMAGE_FORMAT);
    const char *image = text_of(o, "image"), *template = text_of(o, "template");
    if (!id_valid(image, "img_") || !hex_valid(template, TEMPLATE_ID_HEX)) return damaged(e, "ids");
    (void)snprintf(m->image_id, sizeof m->image_id, "%s", image);
    (void)snprintf(m->template_id, sizeof m->template_id, "%s", template);
    if (!take_number(o, "made_at_ms", INT64_MAX, &made) || !take_number(o, "layer_bytes", INT64_MAX, &m->layer_bytes)) return damaged(e, "numbers");
    m->made_at_ms = (int64_t)made;
    if (!take_features(&m->features, part(o, "processor", json_type_object))) return damaged(e, "processor");
    if (!take_limits(&m->limits, part(o, "limits", json_type_object))) return damaged(e, "limits");
    struct json_object *slots = part(o, "contexts", json_type_array), *lost = part(o, "not_carried", json_type_array);
    if (!slots || json_object_array_length(slots) > DRIVER_SLOTS || !lost) return damaged(e, "lists");
    for (size_t i = 0; i < json_object_array_length(slots); i++)
        if (!take_slot(m, json_object_array_get_idx(slots, i))) return damaged(e, "a context");
    m->not_carried = json_object_get(lost);
    return 0;
}

int image_manifest_parse(struct image_manifest *m, const char *json, size_t n, struct err *e) {
    *m = (struct image_manifest){0};
    struct json_tokener *t = json_tokener_new_ex(8);
    if (!t || n > MANIFEST_BYTES_MAX) {
        if (t) json_tokener_free(t);
        return damaged(e, "size");
    }
    json_tokener_set_flags(t, JSON_TOKENER_STRICT);
    struct json_object *o = json_tokener_parse_ex(t, json, (int)n);
    const bool whole = json_tokener_get_error(t) == json_tokener_success && json_tokener_get_parse_end(t) == n;
    json_tokener_free(t);
    int rc = whole ? take_all(m, o, e) : damaged(e, "not JSON");
    json_object_put(o);
    return rc;
}

int image_manifest_read(struct image_manifest *m, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    uint8_t said[IMAGE_DIGEST], mac[IMAGE_DIGEST];
    struct stat st;
    *m = (struct image_manifest){0};
    cleanup_close int fd = openat(dir_fd, MANIFEST_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) return damaged(e, "it is missing");
    if (fd < 0 || fstat(fd, &st)) return err_sys(e, errno, "open the manifest of an image");
    if (!S_ISREG(st.st_mode) || st.st_size <= LINE || st.st_size > (off_t)MANIFEST_BYTES_MAX) return damaged(e, "size");
    const size_t n = (size_t)st.st_size;
    cleanup_free char *text = calloc(1, n + 1);
    if (!text) abort();
    if (read(fd, text, n) != (ssize_t)n || text[LINE - 1] != '\n') return damaged(e, "size");
    text[LINE - 1] = 0;
    if (!digest_from(text, said)) return damaged(e, "its first line");
    if (mac_of(key, text + LINE, n - LINE, mac, e)) return -1;
    if (CRYPTO_memcmp(said, mac, sizeof mac))
        return err_hint(e, ERR_IMAGE, "images are bound to the state directory that wrote them", "the image is not of this installation, or was changed");
    return image_manifest_parse(m, text + LINE, n - LINE, e);
}

int image_manifest_fits(const struct image_manifest *m, struct err *e) {
    struct arch_features here;
    arch_features_here(&here);
    if (arch_features_suffice(&here, &m->features)) return 0;
    return err_hint(e, ERR_IMAGE, "resume it on a machine with the processor it was made on", "the image was made on a processor with other features");
}
