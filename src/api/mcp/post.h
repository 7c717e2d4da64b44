/* post.h: one POST to /mcp and the answers to its messages. Loop thread only. The post lives until every answer came.
 */
#pragma once
#include "api/events_out.h"
#include "api/mcp/rpc.h"
#include "api/mcp/session.h"
#include "api/request.h"

struct post {
    struct mcp *mcp;
    struct request *rq; /* held */
    struct rpc_post rpc;
    enum mcp_version version;
    struct session *session; /* held, or NULL */
    bool stateless;          /* 2026-07-28: a client that hangs up has cancelled */
    struct stream *st;       /* server-sent events, or NULL: one answer at the end */
    bool events;             /* answer as events */
    bool lost;               /* the client hung up */
    unsigned status;         /* of an answer that is one error */
    size_t pending;
    struct json_object *answers; /* list */
};

struct post *post_open(struct mcp *, struct request *);
/* Begin to answer; events: as a stream that starts now. Messages that are pending are counted before. */
void post_start(struct post *);
/* One of the pending messages has its answer (taken over), or none (NULL). The last one ends the post. */
void post_answer(struct post *, struct json_object *answer);
/* A message without an answer that may come any time before the last one; dropped where there is no stream or it is
 * full. Taken over. */
void post_notify(struct post *, struct json_object *message);
/* Refuse the whole POST with one error; the post is gone afterwards. */
void post_refuse(struct post *, unsigned status, int code, const char *text, struct json_object *data);
