/* mcp_message.h: what `cella mcp` must know of a line that goes through it: which version of the protocol speaks, and
 * what the HTTP transport of that version wants in headers. Pure. */
#pragma once
#include <stdbool.h>

#include "base/buf.h"

struct json_object;

struct mcp_message {
    struct json_object *document; /* NULL: not JSON */
    struct json_object *id;       /* of a single request, or NULL; borrowed */
    bool request;                 /* waits for an answer: a single request, or a list */
    bool initialize;
    const char *version;       /* of its _meta, or NULL; borrowed */
    const char *method, *name; /* of a single message; name: of the tool that is called */
};

void mcp_message_read(struct mcp_message *, const char *line, size_t n);
void mcp_message_free(struct mcp_message *);
/* A header's line, the value written as =?base64?…?= when it could not stand there as it is. */
void mcp_header(struct buf *line, const char *name, const char *value);
/* {"jsonrpc":"2.0","id":…,"error":{…}} without a line's end; id may be NULL. */
void mcp_error(struct buf *, struct json_object *id, int code, const char *text);
/* result.protocolVersion of an answer to initialize, at most room-1 characters; "" when there is none. */
void mcp_agreed(const char *answer, size_t n, char *out, size_t room);
