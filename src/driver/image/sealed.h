/* sealed.h: what an image is made of stands in one file, its manifest, authenticated under the installation's key (docs/image-format.md).
 *
 * First line: 64 hex digits, HMAC-SHA-256 of everything behind that line. Then one JSON object, which says in "driver" who wrote it (missing: the process
 * driver) and in "format" how. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define IMAGE_DIGEST 32 /* SHA-256 */
#define IMAGE_KEY 32
#define MANIFEST_NAME "manifest"
#define MANIFEST_BYTES_MAX (1u << 20)

struct cell_limits;
struct json_object;

/* The installation's key, made on first use (0600, durable). */
int image_key(const char *path, uint8_t key[IMAGE_KEY], struct err *);
/* Write the object as the manifest of the directory, durable. */
int sealed_write(struct json_object *, const uint8_t key[IMAGE_KEY], int dir_fd, struct err *);
/* Read the text behind the first line, once its authenticity is checked. The caller frees *text (NUL-terminated, *n bytes). */
int sealed_read(const uint8_t key[IMAGE_KEY], int dir_fd, char **text, size_t *n, struct err *);
/* The object of such a text, hostile or not: JSON to the letter, at most 8 deep. NULL: image_refused. New reference. */
struct json_object *sealed_parse(const char *text, size_t n, struct err *);
/* Which driver wrote the image in this directory, by its own word, not authenticated: who reads it checks that. "process" also when nothing can be
 * read, because its driver then says what is wrong. */
void sealed_driver(const char *dir, char name[16]);

/* Fill *e: image_refused, damaged. Returns -1. */
int sealed_damaged(struct err *e, const char *what);

/* ---- fields of such an object; false: missing, of another type, out of bounds ---- */
bool take_number(struct json_object *, const char *key, uint64_t most, uint64_t *out);
bool take_u32(struct json_object *, const char *key, uint32_t *out);
const char *take_text(struct json_object *, const char *key); /* "": none. Borrowed */
bool take_digest(struct json_object *, const char *key, uint8_t out[IMAGE_DIGEST]);
struct json_object *take_object(struct json_object *, const char *key); /* borrowed; NULL: none */
struct json_object *take_array(struct json_object *, const char *key);
bool take_limits(struct json_object *, const char *key, struct cell_limits *);
void put_text(struct json_object *, const char *key, const char *text);
void put_number(struct json_object *, const char *key, uint64_t);
void put_digest(struct json_object *, const char *key, const uint8_t digest[IMAGE_DIGEST]);
void put_limits(struct json_object *, const char *key, const struct cell_limits *);
