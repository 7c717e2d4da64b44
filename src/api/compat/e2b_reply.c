/* How E2B's clients are spoken to: errors, and the user whom they mean. */
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/json_text.h"
#include "api/reply.h"
#include "base/log.h"

void e2b_reply_error(struct request *rq, unsigned status, const struct err *e) {
    struct buf b = {0}, text = {0};
    struct utf8_tail tail = {0};
    if (status == 410) status = 404;
    buf_str(&text, e->text);
    if (e->hint && !strstr(e->hint, "/v1/")) buf_printf(&text, "; %s", e->hint); /* not: look into our own API */
    buf_printf(&b, "{\"code\":%u,\"message\":", status);
    if (!json_put_bytes(&b, &tail, text.data, text.len, true)) buf_str(&b, "\"\"");
    buf_str(&b, "}");
    buf_free(&text);
    if (status >= 500 && status != 501 && status != 502) log_warn("%s %s: %u %s", rq->method, rq->path ? rq->path : "", status, e->text);
    reply_buf(rq, status, "application/json", &b);
}

void e2b_reply_sentence(struct request *rq, unsigned status, const struct err *e) {
    struct buf b = {0};
    buf_str(&b, e->text);
    if (e->hint) buf_printf(&b, "; %s", e->hint);
    reply_buf(rq, status == 410 ? 404 : status, "text/plain; charset=utf-8", &b);
}

void e2b_reply_later(struct request *rq, const char *what, const char *instead) {
    struct err e;
    err_set(&e, ERR_UNSUPPORTED, "%s: not in this version of Cella%s%s", what, instead ? "; " : "", instead ? instead : "");
    reply_err(rq, &e);
}

/* "Basic dXNlcjo=" is "user:"; the password means nothing. */
static bool basic_user(const char *header, char *out, size_t size) {
    unsigned char text[256];
    if (!header || strncasecmp(header, "Basic ", 6) != 0) return false;
    header += 6;
    size_t n = strlen(header);
    if (!n || n % 4 || n > 200) return false;
    int decoded = EVP_DecodeBlock(text, (const unsigned char *)header, (int)n);
    if (decoded < 0) return false;
    text[decoded] = 0;
    text[strcspn((char *)text, ":")] = 0;
    return snprintf(out, size, "%s", (char *)text) < (int)size;
}

const char *e2b_user(struct request *rq) {
    char name[64] = "";
    const char *said = request_query(rq, "username");
    if (said)
        (void)snprintf(name, sizeof name, "%s", said);
    else if (request_header(rq, "Authorization") && !basic_user(request_header(rq, "Authorization"), name, sizeof name))
        name[0] = 0;
    if (!name[0] || strcmp(name, "user") == 0) return "user";
    if (strcmp(name, "root") == 0) return "root";
    struct err e;
    err_hint(&e, ERR_INVALID, "the users of a sandbox are \"user\" and \"root\"", "there is no user \"%.40s\" in the sandbox", name);
    reply_err(rq, &e);
    return NULL;
}
