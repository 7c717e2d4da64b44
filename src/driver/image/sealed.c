#include "driver/image/sealed.h"

#include <errno.h>
#include <fcntl.h>
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
#include "driver/driver.h"

#define LINE (2 * IMAGE_DIGEST + 1)
#define DEPTH_MAX 8

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

int sealed_write(struct json_object *o, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    uint8_t mac[IMAGE_DIGEST];
    char line[LINE + 1];
    size_t n;
    const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    if (n + LINE > MANIFEST_BYTES_MAX) return err_set(e, ERR_INTERNAL, "the manifest of an image has %zu bytes", n);
    if (mac_of(key, text, n, mac, e)) return -1;
    hex_of(mac, line);
    line[LINE - 1] = '\n';
    errno = 0;
    cleanup_close int fd = openat(dir_fd, MANIFEST_NAME, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_sys(e, errno, "write the manifest of an image");
    if (write(fd, line, LINE) == LINE && write(fd, text, n) == (ssize_t)n && !fsync(fd) && !fsync(dir_fd)) return 0;
    err_sys(e, errno ? errno : ENOSPC, "write the manifest of an image");
    (void)unlinkat(dir_fd, MANIFEST_NAME, 0);
    return -1;
}

/* ---- in ---- */

int sealed_damaged(struct err *e, const char *what) {
    return err_hint(e, ERR_IMAGE, "the image cannot be used; an older one of the same cell may be whole", "the manifest of the image is damaged: %s", what);
}

static bool digest_from(const char *hex, uint8_t out[IMAGE_DIGEST]) {
    unsigned byte;
    if (!hex_valid(hex, 2 * IMAGE_DIGEST)) return false;
    for (int i = 0; i < IMAGE_DIGEST && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++) out[i] = (uint8_t)byte;
    return true;
}

int sealed_read(const uint8_t key[IMAGE_KEY], int dir_fd, char **out, size_t *length, struct err *e) {
    uint8_t said[IMAGE_DIGEST], mac[IMAGE_DIGEST];
    struct stat st;
    cleanup_close int fd = openat(dir_fd, MANIFEST_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) return sealed_damaged(e, "it is missing");
    if (fd < 0 || fstat(fd, &st)) return err_sys(e, errno, "open the manifest of an image");
    if (!S_ISREG(st.st_mode) || st.st_size <= LINE || st.st_size > (off_t)MANIFEST_BYTES_MAX) return sealed_damaged(e, "size");
    const size_t n = (size_t)st.st_size;
    cleanup_free char *text = calloc(1, n + 1);
    if (!text) abort();
    if (read(fd, text, n) != (ssize_t)n || text[LINE - 1] != '\n') return sealed_damaged(e, "size");
    text[LINE - 1] = 0;
    if (!digest_from(text, said)) return sealed_damaged(e, "its first line");
    if (mac_of(key, text + LINE, n - LINE, mac, e)) return -1;
    if (CRYPTO_memcmp(said, mac, sizeof mac))
        return err_hint(e, ERR_IMAGE, "images are bound to the state directory that wrote them", "the image is not of this installation, or was changed");
    *length = n - LINE;
    memmove(text, text + LINE, *length + 1);
    *out = steal_ptr(&text);
    return 0;
}

static struct json_object *parse(const char *text, size_t n) {
    struct json_tokener *t = n <= MANIFEST_BYTES_MAX ? json_tokener_new_ex(DEPTH_MAX) : NULL;
    if (!t) return NULL;
    json_tokener_set_flags(t, JSON_TOKENER_STRICT);
    struct json_object *o = json_tokener_parse_ex(t, text, (int)n);
    const bool whole = json_tokener_get_error(t) == json_tokener_success && json_tokener_get_parse_end(t) == n;
    json_tokener_free(t);
    if (whole && json_object_is_type(o, json_type_object)) return o;
    json_object_put(o);
    return NULL;
}

struct json_object *sealed_parse(const char *text, size_t n, struct err *e) {
    struct json_object *o = parse(text, n);
    if (!o) sealed_damaged(e, n > MANIFEST_BYTES_MAX ? "size" : "not a JSON object");
    return o;
}

void sealed_driver(const char *dir, char name[16]) {
    char path[4200];
    struct stat st;
    (void)snprintf(name, 16, "process");
    (void)snprintf(path, sizeof path, "%s/" MANIFEST_NAME, dir);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size <= LINE || st.st_size > (off_t)MANIFEST_BYTES_MAX) return;
    cleanup_free char *text = malloc((size_t)st.st_size);
    if (!text) abort();
    if (read(fd, text, (size_t)st.st_size) != st.st_size) return;
    struct json_object *o = parse(text + LINE, (size_t)st.st_size - LINE);
    const char *driver = o ? take_text(o, "driver") : "";
    if (*driver) (void)snprintf(name, 16, "%s", driver);
    json_object_put(o);
}

/* ---- fields ---- */

bool take_number(struct json_object *o, const char *key, uint64_t most, uint64_t *out) {
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int)) return false;
    const int64_t n = json_object_get_int64(v);
    *out = (uint64_t)n;
    return n >= 0 && (uint64_t)n <= most;
}

bool take_u32(struct json_object *o, const char *key, uint32_t *out) {
    uint64_t n;
    if (!take_number(o, key, UINT32_MAX, &n)) return false;
    *out = (uint32_t)n;
    return true;
}

const char *take_text(struct json_object *o, const char *key) {
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string)) return "";
    const char *s = json_object_get_string(v);
    return strlen(s) == (size_t)json_object_get_string_len(v) ? s : "";
}

static struct json_object *part(struct json_object *o, const char *key, enum json_type type) {
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, type) ? v : NULL;
}

struct json_object *take_object(struct json_object *o, const char *key) { return part(o, key, json_type_object); }
struct json_object *take_array(struct json_object *o, const char *key) { return part(o, key, json_type_array); }
bool take_digest(struct json_object *o, const char *key, uint8_t out[IMAGE_DIGEST]) { return digest_from(take_text(o, key), out); }

bool take_limits(struct json_object *in, const char *key, struct cell_limits *l) {
    struct json_object *o = take_object(in, key);
    return o && take_number(o, "memory_bytes", INT64_MAX, &l->memory_bytes) && take_number(o, "disk_bytes", INT64_MAX, &l->disk_bytes) &&
           take_u32(o, "cpu_millis", &l->cpu_millis) && take_u32(o, "pids_max", &l->pids_max) && take_u32(o, "open_files", &l->open_files);
}

void put_text(struct json_object *o, const char *key, const char *text) { json_object_object_add(o, key, json_object_new_string(text)); }
void put_number(struct json_object *o, const char *key, uint64_t n) { json_object_object_add(o, key, json_object_new_int64((int64_t)n)); }

void put_digest(struct json_object *o, const char *key, const uint8_t digest[IMAGE_DIGEST]) {
    char hex[LINE];
    hex_of(digest, hex);
    put_text(o, key, hex);
}

void put_limits(struct json_object *o, const char *key, const struct cell_limits *l) {
    struct json_object *limits = json_object_new_object();
    put_number(limits, "memory_bytes", l->memory_bytes);
    put_number(limits, "disk_bytes", l->disk_bytes);
    put_number(limits, "cpu_millis", l->cpu_millis);
    put_number(limits, "pids_max", l->pids_max);
    put_number(limits, "open_files", l->open_files);
    json_object_object_add(o, key, limits);
}
