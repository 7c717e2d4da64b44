/* The pure parts of MCP: messages of JSON-RPC out of hostile bytes, and which protocol version asks for what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/mcp/rpc.h"
#include "api/mcp/version.h"
#include "base/buf.h"

static void parse(struct rpc_post *p, const char *text) {
    struct err e;
    if (rpc_parse(p, text, strlen(text), &e) < 0) fail_msg("%s: %s", text, e.text);
}

static void a_request(void **state) {
    (void)state;
    struct rpc_post p;
    parse(&p, "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"tools/call\",\"params\":{\"name\":\"x\",\"_meta\":{\"k\":1}}}");
    assert_int_equal(p.count, 1);
    assert_false(p.batch);
    struct rpc_message *m = p.messages;
    assert_int_equal(m->kind, RPC_REQUEST);
    assert_string_equal(m->method, "tools/call");
    assert_string_equal(json_object_get_string(m->id), "a");
    assert_non_null(json_object_object_get(m->params, "name"));
    assert_int_equal(json_object_get_int(json_object_object_get(m->meta, "k")), 1);
    rpc_free(&p);
    assert_null(p.document);
    rpc_free(&p); /* harmless */
}

static void kinds_of_messages(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum rpc_kind kind;
        int code;
    } cases[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"ping\"}", RPC_REQUEST, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":-7,\"method\":\"\"}", RPC_REQUEST, 0},
        {"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}", RPC_NOTIFICATION, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", RPC_RESPONSE, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1}}", RPC_RESPONSE, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":1}}", RPC_RESPONSE, 0},
        {"{\"jsonrpc\":\"2.0\",\"result\":{}}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", RPC_WRONG, RPC_INVALID},
        {"{\"id\":1,\"method\":\"ping\"}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":2.0,\"id\":1,\"method\":\"ping\"}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"ping\"}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"ping\"}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", RPC_WRONG, RPC_INVALID},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":[1]}", RPC_WRONG, RPC_PARAMS},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":\"x\"}", RPC_WRONG, RPC_PARAMS},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"_meta\":[]}}", RPC_WRONG, RPC_PARAMS},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":null}", RPC_REQUEST, 0},
        {"{}", RPC_WRONG, RPC_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rpc_post p;
        parse(&p, cases[i].text);
        assert_int_equal(p.count, 1);
        if (p.messages[0].kind != cases[i].kind || p.messages[0].code != cases[i].code)
            fail_msg("%s: kind %d, code %d", cases[i].text, (int)p.messages[0].kind, p.messages[0].code);
        assert_true((p.messages[0].kind == RPC_WRONG) == (p.messages[0].why != NULL));
        rpc_free(&p);
    }
}

/* A wrong request is answered to whoever asked: the id is kept where it could be told. */
static void wrong_ones_keep_their_id(void **state) {
    (void)state;
    struct rpc_post p;
    parse(&p, "{\"id\":\"mine\",\"method\":\"ping\"}");
    assert_string_equal(json_object_get_string(p.messages[0].id), "mine");
    rpc_free(&p);
    parse(&p, "{\"jsonrpc\":\"2.0\",\"id\":[],\"method\":\"ping\"}");
    assert_null(p.messages[0].id);
    rpc_free(&p);
}

static void lists_of_messages(void **state) {
    (void)state;
    struct rpc_post p;
    struct err e;
    parse(&p, "[]");
    assert_true(p.batch && p.count == 0);
    rpc_free(&p);
    parse(&p, "[{\"jsonrpc\":\"2.0\",\"method\":\"a\"}, 5, [], null, {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"b\"}]");
    assert_true(p.batch && p.count == 5);
    assert_int_equal(p.messages[0].kind, RPC_NOTIFICATION);
    for (int i = 1; i < 4; i++) assert_int_equal(p.messages[i].kind, RPC_WRONG);
    assert_int_equal(p.messages[4].kind, RPC_REQUEST);
    rpc_free(&p);
    for (int n = RPC_BATCH_MAX; n <= RPC_BATCH_MAX + 1; n++) {
        struct buf b = {0};
        for (int i = 0; i < n; i++) buf_str(&b, i ? ",{}" : "[{}");
        buf_str(&b, "]");
        int out = rpc_parse(&p, b.data, b.len, &e);
        assert_int_equal(out, n > RPC_BATCH_MAX ? -1 : 0);
        if (out < 0) assert_string_equal(e.code, ERR_INVALID);
        rpc_free(&p);
        buf_free(&b);
    }
}

static void bytes_that_are_no_message(void **state) {
    (void)state;
    static const char *const wrong[] = {"", "{", "{\"jsonrpc\":", "nonsense", "{} {}", "[{}", "{\"a\":\"\xff\"}", "\x00"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct rpc_post p;
        struct err e;
        if (rpc_parse(&p, wrong[i], strlen(wrong[i]), &e) == 0) fail_msg("taken: %s", wrong[i]);
        assert_string_equal(e.code, ERR_INVALID);
        rpc_free(&p);
    }
    /* Deeper than anybody writes: refused, and not a stack that overflows. */
    char *deep = malloc(200000);
    assert_non_null(deep);
    memset(deep, '[', 200000);
    struct rpc_post p;
    struct err e;
    assert_int_equal(rpc_parse(&p, deep, 200000, &e), -1);
    rpc_free(&p);
    free(deep);
}

static void answers(void **state) {
    (void)state;
    struct json_object *id = json_object_new_int(7);
    struct json_object *ok = rpc_result(id, json_object_new_object());
    assert_string_equal(json_object_to_json_string_ext(ok, JSON_C_TO_STRING_PLAIN), "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}");
    struct json_object *bad = rpc_error(NULL, RPC_PARSE, "no \"JSON\"", NULL);
    assert_string_equal(json_object_to_json_string_ext(bad, JSON_C_TO_STRING_PLAIN),
                        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"no \\\"JSON\\\"\"}}");
    struct json_object *more = rpc_error(id, RPC_VERSION, "x", json_object_new_array());
    assert_non_null(json_object_object_get(json_object_object_get(more, "error"), "data"));
    json_object_put(ok);
    json_object_put(bad);
    json_object_put(more);
    assert_int_equal(json_object_put(id), 1); /* borrowed: the answers had references of their own */
}

/* ---- versions ---- */

static void versions_by_name(void **state) {
    (void)state;
    for (int v = MCP_2025_03_26; v <= MCP_2026_07_28; v++)
        assert_int_equal(mcp_version_of(mcp_version_text((enum mcp_version)v)), v);
    static const char *const unknown[] = {NULL, "", "2024-11-05", "2025-06-18 ", "2025-06", "2027-01-01", "latest"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_int_equal(mcp_version_of(unknown[i]), MCP_UNKNOWN);
        assert_int_equal(mcp_version_agreed(unknown[i]), MCP_NEWEST_WITH_SESSIONS);
    }
    assert_int_equal(mcp_version_agreed("2025-03-26"), MCP_2025_03_26);
    assert_int_equal(mcp_version_agreed("2025-11-25"), MCP_2025_11_25);
    assert_int_equal(mcp_version_agreed("2026-07-28"), MCP_2025_11_25); /* that one has no initialize */
    assert_true(mcp_version_batches(MCP_2025_03_26));
    assert_false(mcp_version_batches(MCP_2025_06_18) || mcp_version_batches(MCP_2025_11_25) || mcp_version_batches(MCP_2026_07_28));
}

static void names_in_headers(void **state) {
    (void)state;
    assert_true(mcp_header_is("run_code", "run_code") && mcp_header_is("", ""));
    assert_false(mcp_header_is("run_code", "run_cod") || mcp_header_is("Run_code", "run_code") || mcp_header_is("", "x"));
    assert_true(mcp_header_is("=?base64?cnVuX2NvZGU=?=", "run_code") && mcp_header_is("=?base64?cnVuX2NvZGU?=", "run_code"));
    assert_true(mcp_header_is("=?base64?w7Y=?=", "\xc3\xb6") && mcp_header_is("=?base64?YWI=?=", "ab") && mcp_header_is("=?base64?YWJj?=", "abc"));
    assert_true(mcp_header_is("=?base64?" "?=", ""));
    assert_false(mcp_header_is("=?base64?cnVuX2NvZGU=?=", "run_codes") || mcp_header_is("=?base64?cnVuX2NvZGVz?=", "run_code"));
    assert_false(mcp_header_is("=?base64?cnVu*2NvZGU=?=", "run_code") || mcp_header_is("=?base64?=", "") || mcp_header_is("=?base64?", "x"));
    assert_true(mcp_header_is("=?base64?cnVu", "=?base64?cnVu")); /* without its end it is what it says */
}

static int check(const char *body, struct mcp_headers h, bool *stateless) {
    struct rpc_post p;
    const char *why = NULL;
    parse(&p, body);
    assert_int_equal(p.messages[0].kind, RPC_REQUEST);
    *stateless = mcp_is_stateless(&p.messages[0], &h);
    int out = mcp_stateless_check(&p.messages[0], &h, &why);
    assert_true((out == 0) == (why == NULL));
    rpc_free(&p);
    return out;
}

#define META(version) "\"_meta\":{\"" MCP_META_VERSION "\":\"" version "\",\"" MCP_META_CAPABILITIES "\":{}}"
#define ASK(method, params) "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"" method "\",\"params\":{" params "}}"

static void a_request_without_a_session(void **state) {
    (void)state;
    static const char v[] = "2026-07-28", call[] = ASK("tools/call", "\"name\":\"run_code\"," META("2026-07-28"));
    static const char list[] = ASK("tools/list", META("2026-07-28"));
    bool stateless;
    assert_int_equal(check(call, (struct mcp_headers){v, "tools/call", "run_code"}, &stateless), 0);
    assert_true(stateless);
    assert_int_equal(check(call, (struct mcp_headers){v, "=?base64?dG9vbHMvY2FsbA==?=", "=?base64?cnVuX2NvZGU=?="}, &stateless), 0);
    assert_int_equal(check(list, (struct mcp_headers){v, "tools/list", NULL}, &stateless), 0);
    assert_int_equal(check(call, (struct mcp_headers){v, "tools/call", NULL}, &stateless), RPC_HEADERS);
    assert_int_equal(check(call, (struct mcp_headers){v, "tools/call", "other"}, &stateless), RPC_HEADERS);
    assert_int_equal(check(call, (struct mcp_headers){v, "tools/list", "run_code"}, &stateless), RPC_HEADERS);
    assert_int_equal(check(call, (struct mcp_headers){v, NULL, "run_code"}, &stateless), RPC_HEADERS);
    assert_int_equal(check(call, (struct mcp_headers){NULL, "tools/call", "run_code"}, &stateless), RPC_HEADERS);
    assert_true(stateless); /* by its _meta */
    assert_int_equal(check(call, (struct mcp_headers){"2025-06-18", "tools/call", "run_code"}, &stateless), RPC_HEADERS);
    assert_int_equal(check(ASK("tools/call", META("2026-07-28")), (struct mcp_headers){v, "tools/call", "run_code"}, &stateless), RPC_HEADERS);
    assert_int_equal(check(ASK("tools/call", "\"name\":5," META("2026-07-28")), (struct mcp_headers){v, "tools/call", "5"}, &stateless), RPC_HEADERS);
    /* A later version: told apart from a wrong one. */
    assert_int_equal(check(ASK("tools/list", META("2027-01-01")), (struct mcp_headers){"2027-01-01", "tools/list", NULL}, &stateless), RPC_VERSION);
    assert_true(stateless);
}

static void what_meta_must_say(void **state) {
    (void)state;
    struct mcp_headers h = {"2026-07-28", "tools/list", NULL};
    bool stateless;
    assert_int_equal(check(ASK("tools/list", ""), h, &stateless), RPC_PARAMS);
    assert_true(stateless); /* by its header */
    assert_int_equal(check(ASK("tools/list", "\"_meta\":{\"" MCP_META_VERSION "\":7}"), h, &stateless), RPC_PARAMS);
    assert_int_equal(check(ASK("tools/list", "\"_meta\":{\"" MCP_META_VERSION "\":\"2026-07-28\"}"), h, &stateless), RPC_PARAMS);
    assert_int_equal(check(ASK("tools/list", "\"_meta\":{\"" MCP_META_VERSION "\":\"2026-07-28\",\"" MCP_META_CAPABILITIES "\":[]}"), h, &stateless), RPC_PARAMS);
    h.version = "2025-06-18";
    (void)check(ASK("tools/list", ""), h, &stateless);
    assert_false(stateless); /* a request of a session */
    h.version = NULL;
    (void)check("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", h, &stateless);
    assert_false(stateless);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request),
        cmocka_unit_test(kinds_of_messages),
        cmocka_unit_test(wrong_ones_keep_their_id),
        cmocka_unit_test(lists_of_messages),
        cmocka_unit_test(bytes_that_are_no_message),
        cmocka_unit_test(answers),
        cmocka_unit_test(versions_by_name),
        cmocka_unit_test(names_in_headers),
        cmocka_unit_test(a_request_without_a_session),
        cmocka_unit_test(what_meta_must_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
