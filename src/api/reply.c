#include "api/reply.h"

#include <string.h>

#include "api/http_internal.h"
#include "api/json_text.h"
#include "base/log.h"

unsigned reply_status_of(const char *code) {
    static const struct {
        const char *code;
        unsigned status;
    } table[] = {
        {ERR_INVALID, 400},       {ERR_UNAUTHORIZED, 401}, {ERR_FORBIDDEN, 403},       {ERR_PERMISSION, 403},
        {ERR_NOT_FOUND, 404},     {ERR_METHOD, 405},       {ERR_TIMEOUT_REQUEST, 408}, {ERR_CONFLICT, 409},
        {ERR_EXISTS, 409},        {ERR_IMAGE, 409},        {ERR_DRIVER, 409}, {ERR_TEMPLATE, 409}, {ERR_GONE, 410},         {ERR_TOO_LARGE, 413},       {ERR_IS_DIRECTORY, 400},
        {ERR_NOT_DIRECTORY, 400}, {ERR_UNSUPPORTED, 501},  {ERR_LIMIT, 429},           {ERR_NO_SPACE, 507},
        {ERR_UNAVAILABLE, 503},   {ERR_LOST, 500},         {ERR_INTERNAL, 500},
    };
    for (size_t i = 0; code && i < sizeof table / sizeof *table; i++)
        if (strcmp(code, table[i].code) == 0) return table[i].status;
    return 500;
}

bool reply_given(const struct request *rq) { return rq->reply != NULL; }

void reply_response(struct request *rq, unsigned status, struct MHD_Response *response) {
    if (!response) {
        log_error("http: out of memory for a response");
        request_cut(rq);
        return;
    }
    if (rq->reply) {
        log_warn("http: %s %s got a second reply, dropped", rq->method, rq->path ? rq->path : "");
        MHD_destroy_response(response);
        return;
    }
    rq->gone = NULL;
    rq->reply = response;
    rq->status = status;
    if (rq->sink_dry) { /* refused in the middle of its body: the rest is read away */
        rq->sink_dry = false;
        if (rq->peer) http_peer_enter(rq->peer, PEER_BODY);
    }
    if (rq->server->config.replied) rq->server->config.replied(rq);
    request_resume(rq);
}

void reply_header(struct request *rq, const char *name, const char *value) {
    if (rq->reply) (void)MHD_add_response_header(rq->reply, name, value);
}

static void count(struct request *rq, size_t n) {
    if (rq->conn && !rq->reply) rq->sent_bytes = n;
}

static void put_json(void *object) { json_object_put(object); }

void reply_json(struct request *rq, unsigned status, struct json_object *taken) {
    size_t n;
    const char *text =
        json_object_to_json_string_length(taken, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    count(rq, n);
    /* The text lives inside the object: sent without a copy, freed when it is out. */
    reply_response(rq, status,
                   MHD_create_response_from_buffer_with_free_callback_cls(n, (void *)(uintptr_t)text, put_json, taken));
    reply_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
}

void reply_buf(struct request *rq, unsigned status, const char *content_type, struct buf *taken) {
    size_t n = taken->len;
    count(rq, n);
    reply_response(
        rq, status,
        MHD_create_response_from_buffer(n, taken->data, taken->data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT));
    *taken = (struct buf){0};
    reply_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
}

void reply_text(struct request *rq, unsigned status, const char *content_type, const char *text) {
    count(rq, strlen(text));
    reply_response(rq, status,
                   MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY));
    reply_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
}

void reply_empty(struct request *rq, unsigned status) {
    reply_response(rq, status, MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT));
}

void reply_err(struct request *rq, const struct err *e) { reply_err_as(rq, reply_status_of(e->code), e); }

void reply_err_as(struct request *rq, unsigned status, const struct err *e) {
    if (rq->reply_error) {
        rq->reply_error(rq, status, e);
        return;
    }
    struct buf b = {0};
    buf_str(&b, "{\"error\":");
    struct utf8_tail tail = {0};
    if (!json_put_bytes(&b, &tail, e->text, strlen(e->text), true)) buf_str(&b, "\"\"");
    buf_printf(&b, ",\"code\":\"%s\",\"hint\":", e->code ? e->code : ERR_INTERNAL);
    if (e->hint)
        json_put_text(&b, e->hint, strlen(e->hint));
    else
        buf_str(&b, "null");
    buf_str(&b, "}");
    if (status >= 500 && status != 501) log_warn("%s %s: %u %s", rq->method, rq->path ? rq->path : "", status, e->text);
    reply_buf(rq, status, "application/json", &b);
}
