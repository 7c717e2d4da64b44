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

#include "base/id.h"
#include "guest/env.h"
#include "guest/request.h"
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exec_requests),    cmocka_unit_test(file_requests), cmocka_unit_test(refused_requests),
        cmocka_unit_test(damaged_requests), cmocka_unit_test(archive_names), cmocka_unit_test(archive_links),
        cmocka_unit_test(environments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
