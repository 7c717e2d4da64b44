/* Paths, places of `cp`, addresses, pid files, base64, the body of a create. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "cli/cell_options.h"
#include "cli/client.h"
#include "cli/cp.h"
#include "cli/exec_input.h"
#include "cli/figures.h"
#include "cli/pidfile.h"
#include "cli/services.h"

static void paths_are_encoded(void **state) {
    (void)state;
    struct buf path = {0};
    path_cell(&path, "../x", "/fs");
    path_query(&path, "path", "/a b/\xc3\xa4?&=#%");
    path_query(&path, "mode", "0644");
    assert_string_equal(path.data, "/v1/sandboxes/..%2Fx/fs?path=%2Fa%20b%2F%C3%A4%3F%26%3D%23%25&mode=0644");
    buf_free(&path);
}

static void places(void **state) {
    (void)state;
    struct cp_place p;
    cp_place_parse("sbx_1:/a:b", &p);
    assert_string_equal(p.cell, "sbx_1");
    assert_string_equal(p.path, "/a:b");
    cp_place_parse("sbx_1:", &p);
    assert_string_equal(p.cell, "sbx_1");
    assert_string_equal(p.path, ".");
    cp_place_parse("./a:b", &p);
    assert_string_equal(p.cell, "");
    assert_string_equal(p.path, "./a:b");
    cp_place_parse(":x", &p);
    assert_string_equal(p.cell, "");
    cp_place_parse("-", &p);
    assert_string_equal(p.path, "-");
    cp_place_parse("0123456789012345678901234567890123456789012345678901234567890123456789:x", &p);
    assert_string_equal(p.cell, ""); /* no id is that long */
}

static void addresses(void **state) {
    (void)state;
    char url[128];
    struct err e;
    assert_int_equal(services_url("127.0.0.1:7070", url, &e), 0);
    assert_string_equal(url, "http://127.0.0.1:7070");
    assert_int_equal(services_url("0.0.0.0:80", url, &e), 0);
    assert_string_equal(url, "http://127.0.0.1:80");
    assert_int_equal(services_url("[::]:80", url, &e), 0);
    assert_string_equal(url, "http://[::1]:80");
    static const char *const wrong[] = {"",           "7070",        ":7070",           "127.0.0.1",
                                        "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:7x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(services_url(wrong[i], url, &e), -1);
}

static void base64(void **state) {
    (void)state;
    struct buf out = {0};
    assert_int_equal(base64_decode("aGVs\nbG8=\n", 10, &out), 0);
    assert_int_equal(out.len, 5);
    assert_memory_equal(out.data, "hello", 5);
    buf_clear(&out);
    assert_int_equal(base64_decode("", 0, &out), 0);
    assert_int_equal(base64_decode("not base64!", 11, &out), -1);
    buf_free(&out);
}

static void whole_characters(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t whole;
        bool wrong;
    } cases[] = {{"abc", 3, false},
                 {"a\xc3\xa4", 3, false},
                 {"a\xc3", 1, false},
                 {"\xe2\x82\xac\xe2\x82", 3, false},
                 {"\xf0\x9f\x98\x80", 4, false},
                 {"\xf0\x9f\x98", 0, false},
                 {"a\xff", 1, true},
                 {"\xc0\x80", 0, true},
                 {"\xe0\x80\x80", 0, true},
                 {"\xed\xa0\x80", 0, true},
                 {"\xf4\x90\x80\x80", 0, true},
                 {"\x80", 0, true},
                 {"ab\xc3x", 2, true},
                 {"\xe2\x82x", 0, true},
                 {"\xf5", 0, true},
                 {"", 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool wrong;
        assert_int_equal(utf8_whole(cases[i].text, strlen(cases[i].text), &wrong), cases[i].whole);
        assert_int_equal(wrong, cases[i].wrong);
    }
}

static void pictures_become_files(void **state) {
    (void)state;
    char directory[] = "/tmp/cella-figures-XXXXXX", path[64];
    assert_non_null(mkdtemp(directory));
    struct json_object *bundle =
        json_tokener_parse("{\"image/png\":\"aGk=\",\"image/svg+xml\":\"<svg/>\",\"text/plain\":\"x\"}");
    struct json_object *text = json_tokener_parse("{\"text/plain\":\"x\"}"),
                       *bad = json_tokener_parse("{\"image/png\":\"!\"}");
    struct figures f = {.directory = directory};
    struct buf said = {0};
    struct err e;
    assert_int_equal(figures_in(bundle), 2);
    assert_int_equal(figures_in(text), 0);
    assert_int_equal(figures_save(&f, text, &said, &e), 0);
    assert_int_equal(f.count, 0);
    assert_int_equal(figures_save(&f, bundle, &said, &e), 0);
    assert_non_null(strstr(said.data, "figure-1.png"));
    (void)snprintf(path, sizeof path, "%s/figure-1.png", directory);
    char content[8] = "";
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, content, sizeof content), 2);
    assert_memory_equal(content, "hi", 2);
    close(fd);
    assert_int_equal(figures_save(&f, bad, &said, &e), -1);
    /* A link where the figure should be is replaced, not followed. */
    (void)unlink(path);
    assert_int_equal(symlink("/etc/hostname-that-must-not-change", path), 0);
    f.count = 0;
    assert_int_equal(figures_save(&f, bundle, &said, &e), 0);
    char target[64];
    assert_int_equal(readlink(path, target, sizeof target), -1);
    (void)unlink(path);
    (void)snprintf(path, sizeof path, "%s/figure-1.svg", directory);
    (void)unlink(path);
    assert_int_equal(rmdir(directory), 0);
    json_object_put(bundle), json_object_put(text), json_object_put(bad);
    buf_free(&said);
}

static void a_pid_file_names_one_process(void **state) {
    (void)state;
    char path[] = "/tmp/cella-pid-XXXXXX";
    struct err e;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(pidfile_open(path, NULL), -1); /* empty */
    pid_t child = fork(), read_back = 0;
    if (child == 0)
        for (;;) pause();
    assert_int_equal(pidfile_write(path, child, &e), 0);
    int pidfd = pidfile_open(path, &read_back);
    assert_true(pidfd >= 0);
    assert_int_equal(read_back, child);
    assert_false(pidfd_wait(pidfd, 0));
    /* The same pid with another start time is another process. */
    char forged[64];
    int n = snprintf(forged, sizeof forged, "%d 1\n", (int)child);
    assert_int_equal(ftruncate(fd, 0), 0);
    int other = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(other, forged, (size_t)n), n);
    close(other);
    assert_int_equal(pidfile_open(path, NULL), -1);
    assert_true(pidfd_end(pidfd, 2000));
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(pidfd);
    close(fd);
    (void)unlink(path);
    assert_int_equal(pidfile_open(path, NULL), -1);
}

static void the_body_of_a_create(void **state) {
    (void)state;
    struct cell_options o = CELL_OPTIONS_INIT;
    struct err e;
    o.template = "python";
    o.env.word[o.env.count++] = "A=b=c";
    o.ttl = 60;
    o.cpus = 0.5;
    o.memory_mb = 512;
    struct json_object *body = cell_options_json(&o, &e);
    assert_string_equal(json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN),
                        "{\"template\":\"python\",\"env\":{\"A\":\"b=c\"},\"ttl_seconds\":60,"
                        "\"limits\":{\"memory_mb\":512,\"cpus\":0.5}}");
    json_object_put(body);
    struct cell_options kept = CELL_OPTIONS_INIT;
    kept.persistent = true;
    kept.on_timeout = "delete";
    kept.from_snapshot = "loaded";
    body = cell_options_json(&kept, &e); /* nothing that a snapshot has of its own */
    assert_string_equal(json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN),
                        "{\"from_snapshot\":\"loaded\",\"persistent\":true,\"on_timeout\":\"delete\"}");
    json_object_put(body);
    o.metadata.word[o.metadata.count++] = "nothing";
    assert_null(cell_options_json(&o, &e));
    assert_non_null(strstr(e.text, "--metadata"));
    o.metadata.word[0] = "=x";
    assert_null(cell_options_json(&o, &e));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(paths_are_encoded),
                                       cmocka_unit_test(places),
                                       cmocka_unit_test(addresses),
                                       cmocka_unit_test(base64),
                                       cmocka_unit_test(whole_characters),
                                       cmocka_unit_test(pictures_become_files),
                                       cmocka_unit_test(a_pid_file_names_one_process),
                                       cmocka_unit_test(the_body_of_a_create)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
