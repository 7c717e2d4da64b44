/* content.h: what tools say, as MCP's CallToolResult. Pure; every function returns a new reference. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* {"content": []} */
struct json_object *content_new(void);
void content_add_text(struct json_object *result, const char *text, size_t n); /* nothing when empty */
void content_add_image(struct json_object *result, const char *base64, const char *mime);

struct json_object *content_text(const char *text);
/* The JSON as text for the model, and as structuredContent for programs. Taken over: an object. */
struct json_object *content_json(struct json_object *taken);
struct json_object *content_failed(const struct err *);
/* An Execution: what it printed, its values, pictures as pictures; isError with the traceback when it did not end well.
 */
struct json_object *content_execution(struct json_object *execution);
/* Bytes of a file: text, a picture, or base64. more: the file goes on behind them. */
struct json_object *content_file(const char *path, const void *bytes, size_t n, long long offset, bool more);
/* Which sandbox it was: _meta, and for one that was made for this call a sentence in front. */
void content_about_trace(struct json_object *result, const char *traceparent);
void content_about(struct json_object *result, const char *sandbox, bool made);
