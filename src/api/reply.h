/* reply.h: answering a request. Loop thread only. Exactly one reply per request; a second one is dropped and logged.
 * Every function may be called inside the handler or any time later while the request is held. */
#pragma once
#include <json-c/json.h>

#include "api/request.h"
#include "base/buf.h"
#include "base/err.h"

unsigned reply_status_of(const char *err_code);

void reply_json(struct request *, unsigned status, struct json_object *taken);
/* Text with its type; takes the buffer's memory over (the buf is empty afterwards). */
void reply_buf(struct request *, unsigned status, const char *content_type, struct buf *taken);
void reply_text(struct request *, unsigned status, const char *content_type, const char *text);
void reply_empty(struct request *, unsigned status);
/* {"error","code","hint"} with the status that belongs to the code. */
void reply_err(struct request *, const struct err *);
/* The same with another status (414, 431: statuses that have no word of their own). */
void reply_err_as(struct request *, unsigned status, const struct err *);
/* Add a header to the reply that was just given (same turn of the loop). */
void reply_header(struct request *, const char *name, const char *value);
bool reply_given(const struct request *);
/* Give any MHD response (taken over). For stream.c and websocket.c. */
void reply_response(struct request *, unsigned status, struct MHD_Response *);
