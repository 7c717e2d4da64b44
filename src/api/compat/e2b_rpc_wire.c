#include "api/compat/e2b_rpc_wire.h"

#include <string.h>

#include "api/json_text.h"

/* ---- frames ---- */

void rpc_frames_feed(struct rpc_frames *f, const void *bytes, size_t n) {
    buf_consume(&f->bytes, f->at);
    f->at = 0;
    buf_append(&f->bytes, bytes, n);
}

bool rpc_frames_partial(const struct rpc_frames *f) { return f->bytes.len > f->at; }

static int message(const char *text, size_t n, struct json_object **out, struct err *e) {
    if (json_parse_object(text, n, out, e) < 0) return -1;
    if (!*out) *out = json_object_new_object(); /* an empty message has every field at its default */
    return 1;
}

int rpc_frames_next(struct rpc_frames *f, struct json_object **out, struct err *e) {
    const uint8_t *p = (const uint8_t *)f->bytes.data + f->at;
    size_t have = f->bytes.len - f->at;
    *out = NULL;
    if (have && f->over) return err_set(e, ERR_INVALID, "there are bytes behind the end of the stream");
    if (have < RPC_FRAME_HEAD) return 0;
    uint32_t n = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    if (p[0] & RPC_FLAG_COMPRESSED) return err_set(e, ERR_UNSUPPORTED, "compressed messages are not supported");
    if (p[0] & ~RPC_FLAG_END) return err_set(e, ERR_INVALID, "a frame has unknown flags");
    if (n > RPC_MESSAGE_MAX) return err_set(e, ERR_TOO_LARGE, "a message may have at most %u bytes", RPC_MESSAGE_MAX);
    if (have < RPC_FRAME_HEAD + (size_t)n) return 0;
    f->at += RPC_FRAME_HEAD + (size_t)n;
    if (!(p[0] & RPC_FLAG_END)) return message((const char *)p + RPC_FRAME_HEAD, n, out, e);
    f->over = true;
    return rpc_frames_next(f, out, e);
}

void rpc_put_frame(struct buf *b, uint8_t flags, const char *json, size_t n) {
    uint8_t head[RPC_FRAME_HEAD] = {flags, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    buf_append(b, head, sizeof head);
    buf_append(b, json, n);
}

/* ---- errors ---- */

static const struct {
    const char *ours, *theirs;
    unsigned status;
} words[] = {
    {ERR_INVALID, "invalid_argument", 400},
    {ERR_IS_DIRECTORY, "invalid_argument", 400},
    {ERR_NOT_DIRECTORY, "invalid_argument", 400},
    {ERR_NOT_FOUND, "not_found", 404},
    {ERR_EXISTS, "already_exists", 409},
    {ERR_PERMISSION, "permission_denied", 403},
    {ERR_FORBIDDEN, "permission_denied", 403},
    {ERR_UNAUTHORIZED, "unauthenticated", 401},
    {ERR_CONFLICT, "failed_precondition", 400},
    {ERR_IMAGE, "failed_precondition", 400},
    {ERR_DRIVER, "failed_precondition", 400},
    {ERR_TEMPLATE, "failed_precondition", 400},
    {ERR_NO_SPACE, "failed_precondition", 400}, /* resource_exhausted makes their clients speak of a rate limit */
    {ERR_TOO_LARGE, "out_of_range", 400},
    {ERR_LIMIT, "resource_exhausted", 429},
    {ERR_TIMEOUT_REQUEST, "deadline_exceeded", 504},
    {ERR_UNSUPPORTED, "unimplemented", 501},
    {ERR_METHOD, "unimplemented", 501},
    {ERR_UNAVAILABLE, "unavailable", 503},
    {ERR_GONE, "unavailable", 503},
    {ERR_LOST, "unavailable", 503},
};
#define WORDS (sizeof words / sizeof *words)

static size_t word_of(const char *code) {
    size_t i = 0;
    while (i < WORDS && (!code || strcmp(words[i].ours, code) != 0)) i++;
    return i;
}

const char *rpc_code(const char *err_code) {
    size_t i = word_of(err_code);
    return i < WORDS ? words[i].theirs : "internal";
}

unsigned rpc_status(const char *err_code) {
    size_t i = word_of(err_code);
    return i < WORDS ? words[i].status : 500;
}

void rpc_put_error(struct buf *b, const struct err *e) {
    struct utf8_tail tail = {0};
    buf_printf(b, "{\"code\":\"%s\",\"message\":", rpc_code(e->code));
    if (!json_put_bytes(b, &tail, e->text, strlen(e->text), true)) buf_str(b, "\"\"");
    buf_str(b, "}");
}

void rpc_put_end(struct buf *b, const struct err *e) {
    if (!e) {
        buf_str(b, "{}");
        return;
    }
    buf_str(b, "{\"error\":");
    rpc_put_error(b, e);
    buf_str(b, "}");
}

int rpc_timeout(const char *text, int64_t *ms, struct err *e) {
    *ms = 0;
    if (!text) return 0;
    size_t n = strspn(text, "0123456789");
    if (!n || n > 10 || text[n]) return err_set(e, ERR_INVALID, "Connect-Timeout-Ms must be a number of at most ten digits");
    for (size_t i = 0; i < n; i++) *ms = *ms * 10 + (text[i] - '0');
    return 0;
}

/* ---- base64 ---- */

void rpc_put_base64(struct buf *b, const void *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = bytes;
    char block[4 * 64];
    size_t filled = 0;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        block[filled++] = digits[three >> 18];
        block[filled++] = digits[three >> 12 & 63];
        block[filled++] = i + 1 < n ? digits[three >> 6 & 63] : '=';
        block[filled++] = i + 2 < n ? digits[three & 63] : '=';
        if (filled == sizeof block || i + 3 >= n) {
            buf_append(b, block, filled);
            filled = 0;
        }
    }
}

static int digit_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    return c == '/' || c == '_' ? 63 : -1;
}

bool rpc_get_base64(const char *text, size_t n, struct buf *out) {
    size_t before = out->len, padded = n;
    uint32_t bits = 0;
    unsigned count = 0;
    while (n && padded - n < 2 && text[n - 1] == '=') n--;
    if (n % 4 == 1 || (n < padded && padded % 4)) return false;
    for (size_t i = 0; i < n; i++) {
        int digit = digit_of(text[i]);
        if (digit < 0) {
            if (out->data) out->data[out->len = before] = 0;
            return false;
        }
        bits = bits << 6 | (uint32_t)digit;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        char byte = (char)(bits >> count);
        buf_append(out, &byte, 1);
    }
    return true;
}
