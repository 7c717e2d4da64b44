/* read_file, write_file, list_files. */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "api/files_json.h"
#include "api/json_text.h"
#include "api/mcp/call.h"
#include "api/mcp/content.h"
#include "api/mcp/tools.h"
#include "base/buf.h"
#include "cell/files.h"

#define READ_MAX (6u << 20) /* the schema of read_file says the same */
#define READ_DEFAULT (1u << 20)
#define LISTED_MAX 1000

/* A file on its way in or out. */
struct carry {
    struct call *call;
    struct transfer *transfer; /* NULL: over */
    struct buf bytes;
    size_t sent;
    long long offset, limit, size;
};

static void carry_free(struct carry *x) {
    x->call->state = NULL;
    x->call->stop = x->call->abandon = NULL;
    buf_free(&x->bytes);
    free(x);
}

/* Cancelled: an unfinished upload leaves the old file as it was. */
static void stop(struct call *c) {
    struct carry *x = c->state;
    transfer_cancel(x->transfer);
    carry_free(x);
    call_finish(c, content_new());
}

static void abandon(struct call *c) {
    struct carry *x = c->state;
    transfer_cancel(x->transfer);
    carry_free(x);
}

static bool begin(struct carry *x, struct json_object *op, transfer_cb cb) {
    struct err e;
    struct call *c = x->call;
    x->transfer = transfer_start(c->cell, op, cb, x, &e);
    json_object_put(op);
    if (x->transfer) {
        c->state = x;
        c->stop = stop;
        c->abandon = abandon;
        return true;
    }
    carry_free(x);
    call_fail(c, &e);
    return false;
}

static struct carry *carry_new(struct call *c) {
    struct carry *x = calloc(1, sizeof *x);
    if (!x) abort();
    x->call = c;
    return x;
}

static struct json_object *operation(struct call *c, const char *op, const char *fallback) {
    struct err e;
    const char *path;
    if (json_get_text(c->arguments, "path", &path, &e) < 0 ||
        (!path && !fallback && err_set(&e, ERR_INVALID, "\"path\" must be a string") < 0)) {
        call_refuse(c, &e);
        return NULL;
    }
    struct json_object *o = json_object_new_object();
    json_set_text(o, "op", op);
    json_set_text(o, "path", path ? path : fallback);
    return o;
}

/* ---- out ---- */

static void on_read(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json,
                    const void *bytes, size_t n, struct err *e) {
    struct carry *x = arg;
    struct call *c = x->call;
    if (event == TRANSFER_OPEN) x->size = json_object_get_int64(json_field(json, "size"));
    if (event == TRANSFER_DATA) {
        size_t room = (size_t)x->limit + 1 - x->bytes.len;
        buf_append(&x->bytes, bytes, n < room ? n : room);
        transfer_consumed(t, n);
    }
    if (event != TRANSFER_END) return;
    if (e) {
        carry_free(x);
        call_fail(c, e);
        return;
    }
    bool more = x->bytes.len > (size_t)x->limit;
    struct json_object *said =
        content_file(json_object_get_string(json_field(c->arguments, "path")), x->bytes.data ? x->bytes.data : "",
                     more ? (size_t)x->limit : x->bytes.len, x->offset, more);
    carry_free(x);
    call_finish(c, said);
}

void tool_read_file(struct call *c) {
    struct err e;
    long long offset = 0, limit = READ_DEFAULT;
    if (json_get_int(c->arguments, "offset", 0, INT64_MAX / 2, &offset, &e) < 0 ||
        json_get_int(c->arguments, "max_bytes", 1, READ_MAX, &limit, &e) < 0) {
        call_refuse(c, &e);
        return;
    }
    struct json_object *op = operation(c, "read", NULL);
    if (!op) return;
    struct carry *x = carry_new(c);
    x->offset = offset;
    x->limit = limit;
    json_set_int(op, "offset", offset);
    json_set_int(op, "length", limit + 1); /* one more tells whether there is more */
    (void)begin(x, op, on_read);
}

/* ---- in ---- */

static void pump(struct carry *x) {
    while (x->sent < x->bytes.len) {
        size_t took = transfer_write(x->transfer, x->bytes.data + x->sent, x->bytes.len - x->sent);
        if (!took) return;
        x->sent += took;
    }
    transfer_finish(x->transfer);
}

static void on_write(void *arg, struct transfer *t, enum transfer_event event, struct json_object *json,
                     const void *bytes, size_t n, struct err *e) {
    struct carry *x = arg;
    struct call *c = x->call;
    (void)t, (void)bytes, (void)n;
    if (event == TRANSFER_DRAINED) pump(x);
    if (event != TRANSFER_END) return;
    struct buf said = {0};
    const char *path = json_object_get_string(json_field(json, "path"));
    if (!e)
        buf_printf(&said, "wrote %zu bytes to %s", x->bytes.len,
                   path ? path : json_object_get_string(json_field(c->arguments, "path")));
    carry_free(x);
    if (e)
        call_fail(c, e);
    else
        call_finish(c, content_text(said.data));
    buf_free(&said);
}

static int decode(struct buf *out, struct json_object *content, const char *encoding, struct err *e) {
    const char *text = json_object_get_string(content);
    size_t n = (size_t)json_object_get_string_len(content);
    if (!encoding || strcmp(encoding, "text") == 0) {
        buf_append(out, text, n);
        return 0;
    }
    if (strcmp(encoding, "base64") != 0) return err_set(e, ERR_INVALID, "\"encoding\" must be \"text\" or \"base64\"");
    if (!n) return 0;
    unsigned char *bytes = malloc(n / 4 * 3 + 4);
    if (!bytes) abort();
    int got = n % 4 ? -1 : EVP_DecodeBlock(bytes, (const unsigned char *)text, (int)n);
    if (got >= 0 &&
        (size_t)got ==
            n / 4 * 3) /* padding was decoded as zeros; blanks around the text make it shorter and are refused */
        buf_append(out, bytes, (size_t)got - (text[n - 1] == '=') - (text[n - 2] == '='));
    else
        got = err_set(e, ERR_INVALID, "\"content\" is not base64");
    free(bytes);
    return got < 0 ? -1 : 0;
}

void tool_write_file(struct call *c) {
    struct err e;
    const char *encoding;
    bool append = false;
    struct json_object *content = json_field(c->arguments, "content");
    if (json_get_text(c->arguments, "encoding", &encoding, &e) < 0 ||
        json_get_flag(c->arguments, "append", &append, &e) < 0 ||
        (!json_object_is_type(content, json_type_string) &&
         err_set(&e, ERR_INVALID, "\"content\" must be a string") < 0)) {
        call_refuse(c, &e);
        return;
    }
    struct json_object *op = operation(c, "write", NULL);
    if (!op) return;
    json_set_flag(op, "append", append);
    json_set_flag(op, "parents", true);
    struct carry *x = carry_new(c);
    if (decode(&x->bytes, content, encoding, &e) < 0) {
        json_object_put(op);
        carry_free(x);
        call_refuse(c, &e);
        return;
    }
    if (begin(x, op, on_write)) pump(x);
}

/* ---- a directory ---- */

static void put_entry(struct buf *b, struct json_object *entry) {
    const char *path = json_object_get_string(json_field(entry, "path"));
    bool directory = json_object_get_boolean(json_field(entry, "is_dir"));
    buf_str(b, path ? path : "?");
    if (directory)
        buf_str(b, "/\n");
    else
        buf_printf(b, "  %lld bytes\n", (long long)json_object_get_int64(json_field(entry, "size")));
}

static void listed(void *arg, struct err *e, struct json_object *json) {
    struct call *c = arg;
    if (e) {
        call_fail(c, e);
        return;
    }
    struct json_object *listing = files_listing(json), *entries = json_field(listing, "entries");
    size_t n = json_object_array_length(entries);
    struct buf b = {0};
    for (size_t i = 0; i < n && i < LISTED_MAX; i++) put_entry(&b, json_object_array_get_idx(entries, i));
    if (n > LISTED_MAX) buf_printf(&b, "[%zu more are not shown]\n", n - LISTED_MAX);
    json_object_put(listing);
    call_finish(c, content_text(b.len ? b.data : "(empty)"));
    buf_free(&b);
}

void tool_list_files(struct call *c) {
    struct err e;
    long long depth = 1;
    if (json_get_int(c->arguments, "depth", 1, 16, &depth, &e) < 0) {
        call_refuse(c, &e);
        return;
    }
    struct json_object *op = operation(c, "list", "/workspace");
    if (!op) return;
    json_set_int(op, "depth", depth);
    files_call(c->cell, op, listed, c);
    json_object_put(op);
}
