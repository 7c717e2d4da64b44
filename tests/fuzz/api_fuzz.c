/* What a client's bytes reach before any handler does: JSON bodies, queries, paths, Host and Origin, UTF-8.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c \
 *     tests/fuzz/api_fuzz.c src/api/utf8.c src/api/query.c src/api/router.c src/api/json_text.c \
 *     src/api/files_json.c src/api/host_name.c src/base/buf.c src/base/err.c -ljson-c -o /tmp/api_fuzz
 *
 *   /tmp/api_fuzz -max_total_time=10 tests/fuzz/api_corpus
 *
 * The first byte of the input chooses the parser. Beyond "does not crash" each one has a property that must hold. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/files_json.h"
#include "api/host_name.h"
#include "api/json_text.h"
#include "api/query.h"
#include "api/router.h"
#include "api/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int holds) {
    if (!holds) abort();
}

static void nothing(struct request *rq) { (void)rq; }
static const struct route table[] = {
    {"GET", "/v1/sandboxes", nothing, BODY_NONE, AUTH_KEY, SCOPE_HOST, ""},
    {"POST", "/v1/sandboxes/{id}/execute", nothing, BODY_JSON, AUTH_KEY, SCOPE_CELL, ""},
    {"GET", "/v1/sandboxes/{id}/executions/{eid}", nothing, BODY_NONE, AUTH_KEY, SCOPE_CELL, ""},
    {"*", "/v1/sandboxes/{id}/proxy/{port}/{rest...}", nothing, BODY_NONE, AUTH_KEY, SCOPE_CELL, ""},
};

/* What was taken can be written, and taken again as the same. */
static void fuzz_json(const char *text, size_t n) {
    struct err e;
    struct json_object *value = NULL, *again = NULL;
    if (json_parse_object(text, n, &value, &e) < 0) {
        must(!value && e.code && strcmp(e.code, ERR_INVALID) == 0);
        return;
    }
    if (!value) return;
    struct buf b = {0};
    json_put(&b, value);
    must(utf8_valid(b.data, b.len));
    must(json_parse_object(b.data, b.len, &again, &e) == 0 && again);
    json_object_put(again);
    struct json_object *listing = files_listing(value);
    json_object_put(listing);
    json_object_put(value);
    buf_free(&b);
}

static void fuzz_query(const char *text) {
    struct err e;
    struct query q;
    long long number;
    bool bad = false;
    if (query_parse(&q, text, &e) == 0)
        for (size_t i = 0; i < q.count; i++) {
            must(utf8_valid(q.fields[i].name, strlen(q.fields[i].name)));
            must(utf8_valid(q.fields[i].value, strlen(q.fields[i].value)));
            must(query_get(&q, q.fields[i].name) != NULL);
            (void)query_flag(&q, q.fields[i].name, &bad);
            if (query_number(&q, q.fields[i].name, -5, 100, 0, &number, &e) == 0) must(number >= -5 && number <= 100);
        }
    query_free(&q);
}

static void fuzz_route(char *path) {
    struct err e;
    struct route_match m;
    char allow[64];
    const char *end = path + strlen(path);
    if (route_find(table, sizeof table / sizeof *table, "GET", path, &m, allow, &e) < 0) {
        must(e.code != NULL);
        return;
    }
    for (size_t i = 0; i < m.count; i++)
        must(m.params[i] >= path && m.params[i] <= end && utf8_valid(m.params[i], strlen(m.params[i])));
}

static void fuzz_host(const char *text) {
    char host[256];
    int port;
    if (host_split(text, host, &port)) {
        must(strlen(host) > 0 && strlen(host) < 256 && port >= -1 && port <= 65535);
        (void)host_is_loopback(host);
    }
    (void)host_is_origin(text, "localhost", 7070);
}

/* However a stream is cut, the same text comes out. */
static void fuzz_utf8(const char *bytes, size_t n, size_t cut) {
    struct utf8_tail one = {0}, two = {0};
    struct buf whole = {0}, parts = {0};
    if (cut > n) cut = n;
    utf8_clean(&one, bytes, n, true, &whole);
    utf8_clean(&two, bytes, cut, false, &parts);
    utf8_clean(&two, bytes + cut, n - cut, true, &parts);
    must(whole.len == parts.len && (!whole.len || memcmp(whole.data, parts.data, whole.len) == 0));
    must(utf8_valid(whole.data, whole.len));
    buf_free(&whole);
    buf_free(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2 || n > (1u << 20)) return 0;
    char *text = malloc(n); /* without the two choosing bytes, NUL-terminated */
    if (!text) return 0;
    memcpy(text, data + 2, n - 2);
    text[n - 2] = 0;
    switch (data[0] % 5) {
    case 0: fuzz_json(text, n - 2); break;
    case 1: fuzz_query(text); break;
    case 2: fuzz_route(text); break;
    case 3: fuzz_host(text); break;
    default: fuzz_utf8(text, n - 2, data[1]);
    }
    free(text);
    return 0;
}
