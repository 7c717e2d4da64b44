#include "driver/microvm/machine_manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/id.h"

#define PAGE 4096
#define CHUNK (256 * PAGE)
#define ARCH_NAME "x86_64"
#define VCPUS_MAX 64

/* ---- out ---- */

static void put_file(struct json_object *o, const char *key, const struct machine_file *f) {
    struct json_object *j = json_object_new_object();
    put_number(j, "bytes", f->bytes);
    put_number(j, "kept", f->kept);
    put_digest(j, "sha256", f->digest);
    json_object_object_add(o, key, j);
}

int machine_manifest_write(const struct machine_manifest *m, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    struct json_object *o = json_object_new_object(), *processor = json_object_new_object();
    put_text(o, "driver", "microvm");
    put_number(o, "format", MACHINE_IMAGE_FORMAT);
    put_text(o, "image", m->image_id);
    put_text(o, "template", m->template_id);
    put_text(o, "base", m->base);
    put_number(o, "made_at_ms", (uint64_t)m->made_at_ms);
    put_text(processor, "name", ARCH_NAME);
    json_object_object_add(o, "processor", processor); /* its features stand in machine.state, where cella-vmm compares them */
    put_number(o, "vcpus", m->vcpus);
    put_number(o, "memory_bytes", m->memory_bytes);
    put_limits(o, "limits", &m->limits);
    put_number(o, "layer_bytes", m->layer_bytes);
    put_file(o, "state", &m->state);
    put_file(o, "memory", &m->memory);
    json_object_object_add(o, "not_carried", json_object_new_array());
    const int rc = sealed_write(o, key, dir_fd, e);
    json_object_put(o);
    return rc;
}

/* ---- in ---- */

static bool take_file(struct json_object *o, const char *key, struct machine_file *f) {
    struct json_object *j = take_object(o, key);
    return j && take_number(j, "bytes", INT64_MAX, &f->bytes) && take_number(j, "kept", INT64_MAX, &f->kept) && take_digest(j, "sha256", f->digest);
}

static int take_all(struct machine_manifest *m, struct json_object *o, struct err *e) {
    uint64_t format, made;
    if (strcmp(take_text(o, "driver"), "microvm"))
        return err_hint(e, ERR_IMAGE, "a sandbox comes back by the driver that wrote it", "the image was not written by the driver \"microvm\"");
    if (!take_number(o, "format", UINT32_MAX, &format)) return sealed_damaged(e, "no format");
    if (format != MACHINE_IMAGE_FORMAT)
        return err_hint(e, ERR_IMAGE, "use the version of Cella that wrote it", "the image has format %" PRIu64 "; this version reads %d", format, MACHINE_IMAGE_FORMAT);
    const char *image = take_text(o, "image"), *template = take_text(o, "template"), *base = take_text(o, "base");
    if (!id_valid(image, "img_") || !hex_valid(template, TEMPLATE_ID_HEX) || !id_valid(base, "bas_")) return sealed_damaged(e, "ids");
    (void)snprintf(m->image_id, sizeof m->image_id, "%s", image);
    (void)snprintf(m->template_id, sizeof m->template_id, "%s", template);
    (void)snprintf(m->base, sizeof m->base, "%s", base);
    struct json_object *processor = take_object(o, "processor");
    if (!processor || strcmp(take_text(processor, "name"), ARCH_NAME))
        return err_hint(e, ERR_IMAGE, "resume it on a machine with the processor it was made on", "the image was made on another kind of processor");
    if (!take_number(o, "made_at_ms", INT64_MAX, &made) || !take_number(o, "layer_bytes", INT64_MAX, &m->layer_bytes) || !take_u32(o, "vcpus", &m->vcpus) || !m->vcpus ||
        m->vcpus > VCPUS_MAX || !take_number(o, "memory_bytes", INT64_MAX, &m->memory_bytes))
        return sealed_damaged(e, "numbers");
    m->made_at_ms = (int64_t)made;
    if (!take_limits(o, "limits", &m->limits)) return sealed_damaged(e, "limits");
    if (!take_file(o, "state", &m->state) || !take_file(o, "memory", &m->memory)) return sealed_damaged(e, "files");
    return take_array(o, "not_carried") ? 0 : sealed_damaged(e, "lists");
}

int machine_manifest_parse(struct machine_manifest *m, const char *json, size_t n, struct err *e) {
    *m = (struct machine_manifest){0};
    struct json_object *o = sealed_parse(json, n, e);
    const int rc = o ? take_all(m, o, e) : -1;
    json_object_put(o);
    return rc;
}

int machine_manifest_read(struct machine_manifest *m, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *e) {
    cleanup_free char *text = NULL;
    size_t n;
    return sealed_read(key, dir_fd, &text, &n, e) ? -1 : machine_manifest_parse(m, text, n, e);
}

/* ---- files ---- */

static bool is_zero(const uint8_t *page, size_t n) { return !page[0] && !memcmp(page, page + 1, n - 1); }

/* Hash the pages of one stretch of data. */
static int hash_stretch(int fd, off_t at, off_t end, EVP_MD_CTX *hash, uint8_t *room, struct machine_file *f, struct err *e) {
    while (at < end) {
        const size_t want = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
        const ssize_t got = pread(fd, room, want, at);
        if (got <= 0) return err_sys(e, got ? errno : EIO, "read a file of an image");
        for (size_t i = 0; i < (size_t)got; i += PAGE) {
            const size_t n = (size_t)got - i < PAGE ? (size_t)got - i : PAGE;
            const uint64_t where = (uint64_t)at + i;
            if (is_zero(room + i, n)) continue;
            if (!EVP_DigestUpdate(hash, &where, sizeof where) || !EVP_DigestUpdate(hash, room + i, n)) return err_set(e, ERR_INTERNAL, "no SHA-256");
            f->kept += n;
        }
        at += got - (got < (ssize_t)want ? got % PAGE : 0); /* a short read in the middle of a page begins that page again */
        if (got < PAGE && got < (ssize_t)want) return err_sys(e, EIO, "read a file of an image");
    }
    return 0;
}

static int hash_data(int fd, EVP_MD_CTX *hash, uint8_t *room, struct machine_file *f, struct err *e) {
    const off_t length = (off_t)f->bytes;
    for (off_t at = 0; at < length;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) break; /* a hole to the end */
        if (data < 0) return err_sys(e, errno, "look for the data of a file of an image");
        off_t end = lseek(fd, data, SEEK_HOLE);
        if (end < 0 || end > length) end = length;
        data -= data % PAGE; /* file systems with smaller blocks: whole pages all the same */
        if (end % PAGE && end < length) end += PAGE - end % PAGE;
        if (end > length) end = length;
        if (data < at) data = at;
        if (hash_stretch(fd, data, end, hash, room, f, e)) return -1;
        at = end;
    }
    return 0;
}

int machine_file_measure(int fd, struct machine_file *f, struct err *e) {
    struct stat st;
    unsigned n = IMAGE_DIGEST;
    *f = (struct machine_file){0};
    if (fstat(fd, &st)) return err_sys(e, errno, "look at a file of an image");
    if (!S_ISREG(st.st_mode)) return sealed_damaged(e, "a file of it is none");
    f->bytes = (uint64_t)st.st_size;
    cleanup_free uint8_t *room = malloc(CHUNK);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    if (!room || !hash) abort();
    int rc = EVP_DigestInit_ex(hash, EVP_sha256(), NULL) ? hash_data(fd, hash, room, f, e) : err_set(e, ERR_INTERNAL, "no SHA-256");
    if (!rc && (!EVP_DigestUpdate(hash, &f->bytes, sizeof f->bytes) || !EVP_DigestFinal_ex(hash, f->digest, &n))) rc = err_set(e, ERR_INTERNAL, "no SHA-256");
    EVP_MD_CTX_free(hash);
    return rc;
}

int machine_file_check(int fd, const struct machine_file *said, const char *name, struct err *e) {
    struct machine_file is;
    if (machine_file_measure(fd, &is, e)) return -1;
    if (is.bytes == said->bytes && is.kept == said->kept && !CRYPTO_memcmp(is.digest, said->digest, sizeof is.digest)) return 0;
    return err_hint(e, ERR_IMAGE, "the image cannot be used; an older one of the same cell may be whole", "the file %s of the image is damaged", name);
}
