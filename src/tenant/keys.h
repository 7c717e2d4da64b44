/* keys.h: API keys. A key is "cella_" and 43 base64url characters (32 random bytes); only its SHA-256 is kept, so a
 * stolen database opens nothing. 256 random bits need no salt and no slow hash. Loop thread only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct json_object;
struct keys;
struct store;

#define KEY_PREFIX "cella_"
#define KEY_TEXT (6 + 43) /* characters of a key */
#define KEY_NAME_MAX 100
#define KEY_ID_SIZE 37 /* "key_" + 32 hex + NUL */

struct keys *keys_open(struct store *borrowed);
void keys_close(struct keys *);
/* Make a key and write it to text: the only time it is seen. 0 or -1 (invalid_request: the name). */
int keys_create(struct keys *, const char *name, char id[static KEY_ID_SIZE], char text[static KEY_TEXT + 1],
                struct err *);
/* Is it a key? Then its id is written. Costs one hash for a key that was seen before. */
bool keys_check(struct keys *, const char *text, char *id, size_t id_size);
int keys_delete(struct keys *, const char *id, struct err *);
/* [{id, name, created_at, last_used_at|null}]; new reference. NULL with *err. */
struct json_object *keys_list(struct keys *, struct err *);
bool keys_any(struct keys *);

/* The pure parts, for tests: 64 hex digits + NUL; the text of 32 bytes; has it the form of a key? */
void key_hash(const char *text, char hex[static 65]);
void key_text(const unsigned char secret[static 32], char text[static KEY_TEXT + 1]);
bool key_shaped(const char *text);
