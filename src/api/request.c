#include "api/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/http_internal.h"
#include "api/json_text.h"
#include "api/reply.h"
#include "base/clock.h"
#include "base/log.h"

/* What a refused request may still send before its answer: the connection then serves the next one. With more to come
 * the answer goes out at once, and the connection is closed behind it (http_linger.h). A chunked body says no length: it
 * is read to its end, up to what a connection that lingers would drop. */
#define DRAIN_MAX (64u << 20)
#define NO_LENGTH UINT64_MAX

struct request *request_hold(struct request *rq) {
    rq->refs++;
    return rq;
}

void request_free(struct request *rq) {
    struct http_server *s = rq->server;
    if (rq->prev)
        rq->prev->next = rq->next;
    else
        s->requests = rq->next;
    if (rq->next) rq->next->prev = rq->prev;
    if (s->config.freed) s->config.freed(rq);
    if (rq->handshake) rq->handshake_over(rq, rq->handshake);
    if (rq->reply) MHD_destroy_response(rq->reply);
    if (rq->stream) stream_free(rq->stream);
    query_free(&rq->query);
    json_object_put(rq->body);
    buf_free(&rq->collected);
    free(rq->uri);
    free(rq->path);
    free(rq);
}

void request_release(struct request *rq) {
    if (--rq->refs == 0) request_free(rq);
}

const char *request_header(const struct request *rq, const char *name) {
    return rq->conn ? MHD_lookup_connection_value(rq->conn, MHD_HEADER_KIND, name) : NULL;
}

struct count {
    const char *name;
    unsigned n;
};
static enum MHD_Result count_header(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    struct count *c = arg;
    (void)kind;
    (void)value;
    if (strcasecmp(name, c->name) == 0) c->n++;
    return MHD_YES;
}
unsigned request_header_count(const struct request *rq, const char *name) {
    struct count c = {.name = name};
    if (rq->conn) MHD_get_connection_values(rq->conn, MHD_HEADER_KIND, count_header, &c);
    return c.n;
}

const char *request_param(const struct request *rq, size_t i) { return rq->match.params[i]; }
const char *request_query(const struct request *rq, const char *name) { return query_get(&rq->query, name); }
bool request_stopping(const struct request *rq) { return rq->server->closing; }

void request_on_gone(struct request *rq, void (*gone)(void *arg), void *arg) {
    rq->gone = gone;
    rq->gone_arg = arg;
    if (!rq->peer || !gone) return;
    if (rq->peer->hung_up)
        request_hangup(rq);
    else
        http_peer_watch(rq->peer);
}

void request_tell_gone(struct request *rq) {
    void (*gone)(void *) = rq->gone;
    rq->gone = NULL;
    if (gone) gone(rq->gone_arg);
}

/* The client closed its side of the connection while we were at work. */
void request_hangup(struct request *rq) {
    if (rq->stream)
        stream_hangup(rq->stream);
    else if (!rq->reply)
        request_tell_gone(rq);
}

void request_suspend(struct request *rq) {
    if (rq->suspended || !rq->conn) return;
    rq->suspended = true;
    MHD_suspend_connection(rq->conn);
}

void request_resume(struct request *rq) {
    if (!rq->suspended || !rq->conn) return;
    rq->suspended = false;
    MHD_resume_connection(rq->conn);
    http_server_kick(rq->server);
}

void request_cut(struct request *rq) {
    rq->cut = true;
    request_resume(rq);
}

void request_sink_ready(struct request *rq) {
    if (!rq->sink_dry) return;
    rq->sink_dry = false;
    if (rq->peer) http_peer_enter(rq->peer, PEER_BODY);
    request_resume(rq);
}

void *request_first_line(void *arg, const char *uri, struct MHD_Connection *conn) {
    struct http_server *s = arg;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_peer *peer = info ? info->socket_context : NULL;
    struct request *rq = calloc(1, sizeof *rq);
    if (!rq) abort();
    rq->next = s->requests;
    if (rq->next) rq->next->prev = rq;
    s->requests = rq;
    rq->refs = 1;
    rq->server = s;
    rq->arg = s->config.arg;
    rq->conn = conn;
    rq->peer = peer;
    rq->uri = strdup(uri);
    rq->started_us = monotonic_us();
    if (peer) {
        peer->request = rq;
        rq->local = peer->local;
        http_peer_enter(peer, PEER_HEADERS);
    }
    return rq;
}

/* "Content-Length : 5": a proxy in front may read that as a length, the parser here takes it as another field (RFC 9112, 5.1: refuse it). */
static enum MHD_Result is_token(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    (void)kind, (void)value;
    bool *good = arg;
    *good = *good && name && name[0] && !name[strcspn(name, " \t\r\n\"(),/:;<=>?@[\\]{}\x7f")];
    return *good ? MHD_YES : MHD_NO;
}

/* How long the body will be. Two answers to that question in one request are an attempt to smuggle another one. */
static int body_announced(struct request *rq, struct err *e) {
    const char *length = request_header(rq, MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *encoding = request_header(rq, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    bool names_are_good = true;
    (void)MHD_get_connection_values(rq->conn, MHD_HEADER_KIND, is_token, &names_are_good);
    if (!names_are_good) return err_set(e, ERR_INVALID, "the name of a header field has a character that cannot be in one");
    rq->body_length = encoding ? NO_LENGTH : 0;
    if (length && encoding) return err_set(e, ERR_INVALID, "the request has both Content-Length and Transfer-Encoding");
    if (encoding &&
        (strcasecmp(encoding, "chunked") != 0 || request_header_count(rq, MHD_HTTP_HEADER_TRANSFER_ENCODING) > 1))
        return err_set(e, ERR_INVALID, "the only Transfer-Encoding is chunked");
    if (request_header_count(rq, MHD_HTTP_HEADER_CONTENT_LENGTH) > 1)
        return err_set(e, ERR_INVALID, "the request has more than one Content-Length");
    if (!length) return 0;
    char *end;
    errno = 0;
    rq->body_length = strtoull(length, &end, 10);
    if (errno || end == length || *end || length[0] < '0' || length[0] > '9')
        return err_set(e, ERR_INVALID, "Content-Length is not a number");
    return 0;
}

static enum MHD_Result queue_reply(struct request *rq) {
    rq->queued = true;
    if (rq->peer && rq->peer->state != PEER_UPGRADED) http_peer_enter(rq->peer, PEER_BUSY);
    return MHD_queue_response(rq->conn, rq->status, rq->reply);
}

/* First call: only the head is here. A reply queued now closes the connection, so it waits for the body's end unless
 * the client asked first (Expect) or announces more than we care to read for nothing. */
static enum MHD_Result begin(struct request *rq, const char *method) {
    struct err e;
    rq->begun = true;
    if (rq->peer) http_peer_enter(rq->peer, PEER_BODY);
    rq->path = strdup(rq->uri ? rq->uri : "");
    if (!rq->path) abort();
    (void)snprintf(rq->method, sizeof rq->method, "%s", method);
    if (body_announced(rq, &e) < 0) {
        reply_err(rq, &e);
        if (rq->peer) rq->peer->early = true;
        return queue_reply(rq); /* nothing behind this head can be trusted */
    }
    rq->server->config.begin(rq);
    if (!rq->reply && rq->body_policy != BODY_STREAM && rq->body_length != NO_LENGTH &&
        rq->body_length > BODY_JSON_MAX) {
        err_hint(&e, ERR_TOO_LARGE, "large data goes through PUT …/fs", "the body may have at most %u bytes",
                 BODY_JSON_MAX);
        reply_err(rq, &e);
    }
    if (!rq->reply) return MHD_YES;
    bool asked = request_header(rq, MHD_HTTP_HEADER_EXPECT) != NULL;
    bool endless = rq->body_length != NO_LENGTH && rq->body_length > DRAIN_MAX;
    if (!rq->body_length || !(asked || endless)) return MHD_YES;
    if (rq->peer) rq->peer->early = true;
    return queue_reply(rq);
}

static void body_too_large(struct request *rq) {
    struct err e;
    err_hint(&e, ERR_TOO_LARGE, "large data goes through PUT …/fs", "the body may have at most %u bytes",
             BODY_JSON_MAX);
    buf_free(&rq->collected);
    reply_err(rq, &e);
}

static enum MHD_Result body(struct request *rq, const char *bytes, size_t *n) {
    if (rq->reply) { /* refused: read it away */
        rq->body_seen += *n;
        rq->body_dropped += *n;
        *n = 0;
        return rq->body_dropped > LINGER_BYTES && rq->body_length == NO_LENGTH ? MHD_NO : MHD_YES;
    }
    if (rq->body_policy == BODY_STREAM) {
        size_t taken = rq->sink.write(rq->sink.arg, bytes, *n);
        rq->body_seen += taken;
        *n -= taken;
        if (*n && !rq->reply) { /* the library would offer it again at once */
            rq->sink_dry = true;
            request_suspend(rq);
        }
        return MHD_YES;
    }
    rq->body_seen += *n;
    if (rq->body_seen > BODY_JSON_MAX)
        body_too_large(rq);
    else if (rq->body_policy == BODY_JSON || rq->body_policy == BODY_TEXT)
        buf_append(&rq->collected, bytes, *n);
    *n = 0;
    return MHD_YES;
}

static void body_ended(struct request *rq) {
    struct err e;
    rq->ended_body = true;
    if (rq->peer) http_peer_enter(rq->peer, PEER_BUSY);
    if (rq->reply) return;
    if (rq->body_policy == BODY_STREAM) {
        rq->sink.end(rq->sink.arg);
        return;
    }
    if (rq->body_policy == BODY_JSON && rq->collected.len) {
        if (json_parse_object(rq->collected.data, rq->collected.len, &rq->body, &e) < 0) {
            reply_err(rq, &e);
            return;
        }
        buf_free(&rq->collected);
    }
    rq->server->config.run(rq);
}

enum MHD_Result request_access(void *arg, struct MHD_Connection *conn, const char *url, const char *method,
                               const char *version, const char *upload, size_t *upload_size, void **slot) {
    struct request *rq = *slot;
    (void)arg;
    (void)conn;
    (void)url;
    (void)version;
    if (!rq || rq->cut) return MHD_NO;
    if (!rq->begun) return begin(rq, method);
    if (*upload_size) return body(rq, upload, upload_size);
    if (!rq->ended_body) body_ended(rq);
    if (rq->cut) return MHD_NO;
    if (rq->reply) return rq->queued ? MHD_YES : queue_reply(rq);
    request_suspend(rq);
    return MHD_YES;
}

void request_completed(void *arg, struct MHD_Connection *conn, void **slot, enum MHD_RequestTerminationCode why) {
    struct http_server *s = arg;
    struct request *rq = *slot;
    (void)conn;
    *slot = NULL;
    if (!rq) return;
    if (rq->peer) {
        /* The library closes the socket of a cut response when the next event of that very socket comes: here it is. */
        if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) (void)shutdown(rq->peer->fd, SHUT_RDWR);
        http_peer_unwatch(rq->peer);
        rq->peer->request = NULL;
        http_peer_enter(rq->peer, PEER_IDLE);
    }
    rq->conn = NULL;
    rq->peer = NULL;
    rq->suspended = false;
    if (rq->stream)
        stream_lost(rq->stream);
    else if (!rq->reply)
        request_tell_gone(rq);
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) log_debug("http: request ended early (%d)", (int)why);
    if (s->config.over) s->config.over(rq);
    request_release(rq);
}
