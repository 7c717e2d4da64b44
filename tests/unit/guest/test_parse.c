/* What the guest takes apart without a process around it: OPEN requests, names in archives, environments. No root
 * needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/id.h"
#include "guest/env.h"
#include "guest/request.h"
#include "guest/sha256.h"
#include "guest/tar_name.h"

static struct request r;
static struct err e;

static int parse(const char *json) {
    request_free(&r);
    return request_parse(json, strlen(json), &r, &e);
}

static void exec_requests(void **state) {
    (void)state;
    assert_int_equal(
        parse(
            "{\"op\":\"exec\",\"argv\":[\"ls\",\"-l\"],\"cwd\":\"sub\",\"env\":{\"A\":\"1\",\"B\":null},\"stdin\":true,"
            "\"pty\":{\"rows\":7},\"user\":\"root\",\"unknown\":[1,2]}"),
        0);
    assert_int_equal(r.op, OP_EXEC);
    assert_string_equal(r.argv[0], "ls");
    assert_string_equal(r.argv[1], "-l");
    assert_null(r.argv[2]);
    assert_string_equal(r.cwd, "/root/sub");
    assert_string_equal(r.env.vars[0], "A=1");
    assert_string_equal(r.env.vars[1], "B");
    assert_true(r.with_stdin && r.pty && r.as_root);
    assert_int_equal(r.rows, 7);
    assert_int_equal(r.cols, 80);
    assert_int_equal(parse("{\"op\":\"exec\",\"cmd\":\"\xc3\xa4\"}"), 0);
    assert_string_equal(r.cmd, "\xc3\xa4");
    assert_null(r.cwd);
    assert_false(r.as_root);
}

static void file_requests(void **state) {
    (void)state;
    assert_int_equal(parse("{\"op\":\"read\",\"path\":\"a/../b\",\"offset\":5}"), 0);
    assert_string_equal(r.path, "/workspace/a/../b");
    assert_int_equal(r.offset, 5);
    assert_true(r.length == UINT64_MAX);
    assert_int_equal(r.mode, -1);
    assert_int_equal(parse("{\"op\":\"write\",\"path\":\"/x\",\"mode\":420}"), 0);
    assert_true(r.parents);
    assert_int_equal(r.mode, 0644);
    assert_int_equal(parse("{\"op\":\"move\",\"from\":\"a\",\"to\":\"/b\",\"overwrite\":true}"), 0);
    assert_string_equal(r.path, "/workspace/a");
    assert_string_equal(r.to, "/b");
    assert_true(r.overwrite);
    assert_false(r.parents);
}

static void refused_requests(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "null",
        "[]",
        "3",
        "\"exec\"",
        "{} {}",
        "{\"op\":3}",
        "{}",
        "{\"op\":\"exec\"}",
        "{\"op\":\"exec\",\"argv\":\"ls\"}",
        "{\"op\":\"exec\",\"argv\":[1]}",
        "{\"op\":\"exec\",\"argv\":[\"\"]}",
        "{\"op\":\"exec\",\"argv\":[null]}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"env\":[]}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"env\":{\"\":\"v\"}}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"env\":{\"A\":1}}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"stdin\":1}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"pty\":true}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"pty\":{\"rows\":65536}}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"user\":\"daemon\"}",
        "{\"op\":\"exec\",\"cmd\":\"x\",\"cwd\":\"\"}",
        "{\"op\":\"read\"}",
        "{\"op\":\"read\",\"path\":7}",
        "{\"op\":\"read\",\"path\":\"x\",\"length\":-1}",
        "{\"op\":\"read\",\"path\":\"x\",\"offset\":1.5}",
        "{\"op\":\"read\",\"path\":\"x\",\"offset\":\"1\"}",
        "{\"op\":\"write\",\"path\":\"x\",\"mode\":4096}",
        "{\"op\":\"list\",\"path\":\"x\",\"depth\":0}",
        "{\"op\":\"list\",\"path\":\"x\",\"depth\":100000}",
        "{\"op\":\"move\",\"from\":\"x\"}",
        "{\"op\":\"read\",\"path\":\"\xff\"}",
        "{\"op\":\"read\",\"path\":\"\xc0\xaf\"}",
        "{\"op\":\"read\",\"path\":\"a\\u0000\"}",
        "{'op':'disk'}",
        "{\"op\":\"disk\"",
        "{\"op\":\"disk\",}",
        "{\"a\":[[[[[[[[[[[[]]]]]]]]]]]]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (parse(bad[i]) == 0) fail_msg("taken: %s", bad[i]);
        assert_string_equal(e.code, ERR_INVALID);
        assert_null(r.path);
        assert_null(r.argv);
    }
    assert_int_equal(parse("{\"op\":\"nothing\"}"), -1);
    assert_string_equal(e.code, ERR_UNSUPPORTED);
    char path[8192];
    memset(path, 'a', sizeof path);
    (void)snprintf(path, 32, "{\"op\":\"read\",\"path\":\"aaaaaaaaa");
    path[31] = 'a';
    memcpy(path + sizeof path - 3, "\"}", 3);
    assert_int_equal(parse(path), -1);
}

/* Any byte of a good request changed, cut or doubled: an answer, never a crash (the sanitizers watch). */
static void damaged_requests(void **state) {
    (void)state;
    static const char good[] =
        "{\"op\":\"exec\",\"argv\":[\"a\",\"b\"],\"env\":{\"A\":\"b\"},\"cwd\":\"/x\",\"pty\":{\"rows\":3,\"cols\":4}}";
    for (int round = 0; round < 50000; round++) {
        char text[sizeof good];
        uint8_t dice[4];
        random_fill(dice, sizeof dice);
        memcpy(text, good, sizeof good);
        text[dice[0] % (sizeof good - 1)] = (char)dice[1];
        if (dice[3] & 1) text[dice[2] % (sizeof good - 1)] = (char)dice[3];
        size_t len = dice[3] & 2 ? dice[2] % sizeof good : sizeof good - 1;
        request_free(&r);
        if (request_parse(text, len, &r, &e) < 0) assert_non_null(e.code);
    }
    request_free(&r);
}

static void archive_names(void **state) {
    (void)state;
    static const char *const good[][2] = {
        {"a", "a"},     {"./a//b/", "a/b"},      {"./", ""}, {".", ""}, {"a/./b", "a/b"},
        {"...", "..."}, {"a..b/..c", "a..b/..c"}};
    static const char *const bad[] = {"", "/", "/a", "..", "../a", "a/..", "a/../b", "./..", "a/b/../../.."};
    char out[64];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(tar_name_clean(good[i][0], out, sizeof out));
        assert_string_equal(out, good[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(tar_name_clean(bad[i], out, sizeof out));
    assert_false(tar_name_clean("abcdefgh", out, 8));
    assert_true(tar_name_clean("abcdef", out, 8));
}

static void archive_links(void **state) {
    (void)state;
    assert_true(tar_link_inside("l", "a"));
    assert_true(tar_link_inside("d/l", "../a"));
    assert_true(tar_link_inside("d/e/l", "../../a/b"));
    assert_true(tar_link_inside("l", "./a/./b"));
    assert_false(tar_link_inside("l", ""));
    assert_false(tar_link_inside("l", "/a"));
    assert_false(tar_link_inside("l", ".."));
    assert_false(tar_link_inside("d/l", "../.."));
    assert_false(tar_link_inside("d/l", "./../../a"));
    assert_false(tar_link_inside("l", "a/.."));
    assert_false(tar_link_inside("d/l", "a/../../.."));
}

static void environments(void **state) {
    (void)state;
    char path[] = "/tmp/cella-test-env-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char text[] = "# comment\nTEMPLATE=one\n\nno line\n=x\nLANG=xx\nQ=a=b \"c\"\nLAST=end";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    env_template_load("/nowhere/at/all");
    env_template_load(path);
    unlink(path);
    struct env extra = {0}, request = {0};
    env_set(&extra, "TEMPLATE", "two");
    env_set(&extra, "CELL", "1");
    env_set(&request, "CELL", NULL);
    env_set(&request, "REQUEST", "");
    env_extra_set(&extra);
    struct env all = env_for_process(false, true, &request);
    assert_string_equal(env_get(&all, "TEMPLATE"), "two");
    assert_null(env_get(&all, "CELL"));
    assert_string_equal(env_get(&all, "REQUEST"), "");
    assert_string_equal(env_get(&all, "LANG"), "xx");
    assert_string_equal(env_get(&all, "Q"), "a=b \"c\"");
    assert_string_equal(env_get(&all, "LAST"), "end");
    assert_string_equal(env_get(&all, "TERM"), "xterm-256color");
    assert_string_equal(env_get(&all, "HOME"), "/workspace");
    assert_null(env_get(&all, "TEM"));
    assert_null(env_get(&all, "no line"));
    assert_null(all.vars[all.n]);
    env_free(&all);
    env_free(&request);
    struct env none = {0};
    env_extra_set(&none);
}

static void layer_requests(void **state) {
    (void)state;
    assert_int_equal(parse("{\"op\":\"changes\",\"user\":\"user\"}"), 0);
    assert_int_equal(r.op, OP_CHANGES);
    assert_true(r.as_root); /* whoever asks: the layer is nobody's */
    assert_int_equal(parse("{\"op\":\"digest\",\"paths\":[\"/a\",\"/b c\"]}"), 0);
    assert_string_equal(r.paths[1], "/b c");
    assert_null(r.paths[2]);
    assert_int_equal(parse("{\"op\":\"read\",\"path\":\"/a\"}"), 0);
    assert_int_equal(r.view, VIEW_FOLLOW);
    assert_int_equal(parse("{\"op\":\"read\",\"path\":\"/a\",\"view\":\"template\"}"), 0);
    assert_int_equal(r.view, VIEW_TEMPLATE);
    assert_int_equal(parse("{\"op\":\"read\",\"path\":\"/a\",\"view\":\"root\"}"), 0);
    assert_int_equal(r.view, VIEW_ROOT);
    static const char *const bad[] = {
        "{\"op\":\"read\",\"path\":\"/a\",\"view\":\"upper\"}", "{\"op\":\"read\",\"path\":\"/a\",\"view\":1}",
        "{\"op\":\"digest\",\"paths\":{}}",      "{\"op\":\"digest\",\"paths\":[\"a\"]}",
        "{\"op\":\"digest\",\"paths\":[null]}",  "{\"op\":\"digest\",\"paths\":[\"/a\\u0000b\"]}",
        "{\"op\":\"digest\",\"paths\":[[\"/a\"]]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(parse(bad[i]), -1);
    struct buf many = {0};
    buf_str(&many, "{\"op\":\"digest\",\"paths\":[\"/0\"");
    for (int i = 1; i < 1000; i++) buf_printf(&many, ",\"/%d\"", i);
    size_t n = many.len;
    buf_str(&many, "]}");
    assert_int_equal(parse(many.data), 0);
    many.len = n;
    buf_str(&many, ",\"/one too many\"]}");
    assert_int_equal(parse(many.data), -1);
    buf_free(&many);
}

/* Lengths around the ends of blocks, against the digests of another implementation, and cut into pieces of every size. */
static void sha256(void **state) {
    (void)state;
    static const struct {
        size_t n;
        const char *hex;
    } known[] = {
        {0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {1, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"},
        {55, "595615dbe4f0f407ae397d08b4c2cb870cb9b0e11937416f950c5160acf9c005"},
        {56, "784f623b787495078e93ff28a25b581df0584055a7e71d8cd90c454716b92f51"},
        {57, "808f0738aa4401bdee842e5a15a7baad5809f976d8eb6f9bd2683cebd2e8d671"},
        {63, "5ca3e1ef5207490eac01a795e5cc94d59582a5118bf9534665c8668d87aa647c"},
        {64, "2fcd5a0d60e4c941381fcc4e00a4bf8be422c3ddfafb93c809e8d1e2bfffae8e"},
        {65, "1b3cd1877ab2f2f19f7be001722554f336cb799df0329de0bb4c118dc6abc06d"},
        {119, "faef67da856d6fd9c8d12f9ed0a4fefd3cf0ce085ab43e2907418d457e3c354b"},
        {120, "c9512b08619c19fbb503c7da6b46ef20301e5f7a7a5f43989182398536f5c5c8"},
        {128, "6c05be2c4268843ae47e68e611277ce62c02153f2f4d2e1e2a1a4b44f766cf74"},
        {1000, "915e53a44c18b19bb06ba5b3f5fcaf1dc4651e8404c63425cfc6174e74659d87"},
    };
    static char text[1000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i % 26);
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        for (size_t piece = 1; piece <= 130; piece += 43) {
            struct sha256 s;
            char hex[2 * SHA256_BYTES + 1];
            sha256_begin(&s);
            for (size_t at = 0; at < known[k].n; at += piece) sha256_add(&s, text + at, known[k].n - at < piece ? known[k].n - at : piece);
            sha256_end(&s, hex);
            assert_string_equal(hex, known[k].hex);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exec_requests),    cmocka_unit_test(file_requests), cmocka_unit_test(refused_requests),
        cmocka_unit_test(damaged_requests), cmocka_unit_test(archive_names), cmocka_unit_test(archive_links),
        cmocka_unit_test(environments),     cmocka_unit_test(layer_requests), cmocka_unit_test(sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
