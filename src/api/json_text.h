/* json_text.h: JSON in and out of bytes. Pure functions, loop thread or any other. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "api/utf8.h"
#include "base/buf.h"
#include "base/err.h"

#define JSON_DEPTH_MAX 64

/* Parse a whole document. It must be an object (an empty text gives NULL without error: returns 0 with *out = NULL).
 * Strict: no comments, no trailing commas, UTF-8 only, no NUL inside names or strings except in the top-level fields
 * "code", "stdin" and "input", nothing behind the object. invalid_request says line and column. New reference. */
int json_parse_object(const char *text, size_t n, struct json_object **out, struct err *);
/* The same for a document that may be a list as well; empty text is an error. No string may have a NUL. */
int json_parse_document(const char *text, size_t n, struct json_object **out, struct err *);

/* Append "text" with quotes and escapes; the text must be UTF-8. */
void json_put_text(struct buf *, const char *text, size_t n);
/* The same for the bytes of a stream, cleaned as utf8_clean does. Returns false (nothing appended) when nothing is
 * ready to be shown, because the bytes are only the start of a character. */
bool json_put_bytes(struct buf *, struct utf8_tail *, const void *bytes, size_t n, bool last);
/* Append a json-c value. */
void json_put(struct buf *, struct json_object *);

/* Field access with a type check: NULL/fallback when missing or null; a wrong type is an error (-1). */
int json_get_text(struct json_object *, const char *name, const char **out, struct err *);
int json_get_int(struct json_object *, const char *name, long long low, long long high, long long *out, struct err *);
int json_get_flag(struct json_object *, const char *name, bool *out, struct err *);
/* A field, or NULL when it is missing or null. Borrowed. */
struct json_object *json_field(struct json_object *, const char *name);
/* Shorthands for building. json_set takes over the reference. */
void json_set(struct json_object *, const char *name, struct json_object *value);
void json_set_text(struct json_object *, const char *name, const char *value);
void json_set_int(struct json_object *, const char *name, long long value);
void json_set_flag(struct json_object *, const char *name, bool value);
