/* A POST to /mcp, as far as it is read before any tool runs: the JSON-RPC messages, and the headers of the version
 * without sessions; and a traceparent, in the place of the third header.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c \
 *     tests/fuzz/mcp_fuzz.c src/api/mcp/rpc.c src/api/mcp/version.c src/api/trace/traceparent.c src/api/utf8.c src/api/json_text.c \
 *     src/base/buf.c src/base/err.c -ljson-c -o /tmp/mcp_fuzz
 *
 *   /tmp/mcp_fuzz -max_total_time=10 tests/fuzz/mcp_corpus
 *
 * The input is the three headers (version, method, name), one a line, then the body. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "api/mcp/rpc.h"
#include "api/mcp/version.h"
#include "api/trace/traceparent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int holds) {
    if (!holds) abort();
}

/* Every message is exactly one thing, and what a handler uses of it is there. */
static void check(const struct rpc_message *m, const struct mcp_headers *h) {
    const char *why = NULL;
    if (m->kind == RPC_WRONG) {
        must(m->why && (m->code == RPC_INVALID || m->code == RPC_PARAMS));
    } else if (m->kind != RPC_RESPONSE) {
        must(m->method && (m->kind == RPC_REQUEST) == (m->id != NULL));
        must(!m->params || json_object_is_type(m->params, json_type_object));
        must(!m->meta || json_object_is_type(m->meta, json_type_object));
        int code = mcp_stateless_check(m, h, &why);
        must(code == 0 || (why && (code == RPC_PARAMS || code == RPC_HEADERS || code == RPC_VERSION)));
        must(code != 0 || mcp_is_stateless(m, h));
        must(code != 0 || mcp_header_is(h->method, m->method));
    }
    /* An answer can be made and read again. */
    struct rpc_post again;
    struct err e;
    struct buf b = {0};
    struct json_object *o = rpc_error(m->id, -32000, "x", NULL);
    json_put(&b, o);
    must(rpc_parse(&again, b.data, b.len, &e) == 0 && again.count == 1 && !again.batch);
    must(again.messages[0].kind == RPC_RESPONSE);
    rpc_free(&again);
    json_object_put(o);
    buf_free(&b);
}

/* What was understood is written so that it is understood again. */
static void check_trace(const char *text) {
    struct traceparent one, two;
    char out[TRACEPARENT_SIZE];
    if (!traceparent_parse(text, &one)) return;
    traceparent_write(&one, out);
    must(strlen(out) == TRACEPARENT_SIZE - 1 && traceparent_parse(out, &two));
    must(strcmp(one.trace, two.trace) == 0 && strcmp(one.span, two.span) == 0 && one.sampled == two.sampled);
}

static char *line(char **rest) {
    char *text = *rest, *end = strchr(text, '\n');
    *rest = end ? end + 1 : text + strlen(text);
    if (end) *end = 0;
    return *text ? text : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct rpc_post p;
    struct err e;
    char *text = malloc(n + 1), *rest = text;
    if (!text) return 0;
    memcpy(text, data, n);
    text[n] = 0;
    struct mcp_headers h = {.version = line(&rest)};
    h.method = line(&rest);
    h.name = line(&rest);
    check_trace(h.name);
    if (rpc_parse(&p, rest, n - (size_t)(rest - text), &e) < 0)
        must(e.code && strcmp(e.code, ERR_INVALID) == 0);
    else
        for (size_t i = 0; i < p.count; i++) check(&p.messages[i], &h);
    must(mcp_version_agreed(h.version) >= MCP_2025_03_26 && mcp_version_agreed(h.version) <= MCP_NEWEST_WITH_SESSIONS);
    rpc_free(&p);
    free(text);
    return 0;
}
