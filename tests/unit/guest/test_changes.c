/* What the guest tells about the cell's own layer: against layers made by hand, and against what a real overlay writes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/buf.h"
#include "harness.h"

static char top[64], upper[96], lower[96];

static void sh(const char *command) {
    char whole[2048];
    (void)snprintf(whole, sizeof whole, "set -e; cd %s; %s", top, command);
    if (system(whole)) fail_msg("%s", whole);
}

static int layers_make(void **state) {
    (void)state;
    (void)snprintf(top, sizeof top, "/tmp/cella-changes-XXXXXX");
    assert_non_null(mkdtemp(top));
    /* a tmpfs of its own: xattrs of users and device nodes whatever /tmp is */
    assert_int_equal(mount("layers", top, "tmpfs", 0, "mode=755"), 0);
    (void)snprintf(upper, sizeof upper, "%s/upper", top);
    (void)snprintf(lower, sizeof lower, "%s/lower", top);
    sh("mkdir upper lower");
    guest_layers[0] = upper;
    guest_layers[1] = lower;
    return 0;
}

static int layers_remove(void **state) {
    (void)state;
    assert_int_equal(umount2(top, MNT_DETACH), 0);
    assert_int_equal(rmdir(top), 0);
    guest_layers[0] = guest_layers[1] = NULL;
    return 0;
}

static void whiteout(const char *path) {
    char whole[256];
    (void)snprintf(whole, sizeof whole, "%s/%s", upper, path);
    assert_int_equal(mknod(whole, S_IFCHR, makedev(0, 0)), 0);
}

/* 0, or -1 where this file system takes no xattr of users. */
static int mark(const char *path, const char *name, const char *value) {
    char whole[256];
    (void)snprintf(whole, sizeof whole, "%s/%s", upper, path);
    return setxattr(whole, name, value, strlen(value), 0);
}

/* "added /a;changed /b;removed /c", in the order in which they came. */
static const char *said(const struct channel_seen *c) {
    static struct buf out;
    char *lines = strdup(c->out.data ? c->out.data : ""), *rest = lines, *line;
    long long n = 0;
    buf_clear(&out);
    buf_str(&out, "");
    while ((line = strsep(&rest, "\n")) && *line) {
        struct buf b = {.data = line};
        buf_printf(&out, "%s%s", n++ ? ";" : "", json_word(&b, "change"));
        buf_printf(&out, " %s", json_word(&b, "path"));
    }
    free(lines);
    expect_ok(c);
    assert_int_equal(json_number(&c->end, "entries"), n);
    return out.data;
}

/* The line about one path. */
static const struct buf *line_of(const struct channel_seen *c, const char *path) {
    static struct buf line;
    char key[256];
    (void)snprintf(key, sizeof key, "\"path\":\"%s\"", path);
    const char *at = strstr(c->out.data, key), *end;
    if (!at) fail_msg("nothing about %s", path);
    while (at > c->out.data && at[-1] != '\n') at--;
    end = strchr(at, '\n');
    buf_clear(&line);
    buf_append(&line, at, (size_t)(end - at));
    return &line;
}

static struct channel_seen *changes(struct guest *g) { return guest_run(g, "{\"op\":\"changes\"}"); }

static void nothing_changed(void **state) {
    (void)state;
    sh("mkdir -p lower/etc; echo x > lower/etc/passwd");
    struct guest *g = guest_start(GUEST_PLAIN);
    assert_string_equal(said(changes(g)), "");
    guest_stop(g);
}

static void added_changed_removed(void **state) {
    (void)state;
    sh("mkdir -p lower/etc lower/opt/deep upper/etc upper/home/me; echo old > lower/etc/hosts; echo gone > "
       "lower/etc/gone;"
       "echo kept > lower/etc/kept; ln -s kept lower/etc/link; echo a > lower/opt/deep/a; echo b > lower/opt/b");
    sh("echo newer > upper/etc/hosts; echo hi > upper/home/me/f; ln -s other upper/etc/link; mkfifo upper/etc/pipe");
    whiteout("etc/gone");
    whiteout("opt");
    whiteout("never");
    struct guest *g = guest_start(GUEST_PLAIN);
    struct channel_seen *c = changes(g);
    assert_string_equal(
        said(c), "removed /etc/gone;changed /etc/hosts;changed /etc/link;added /etc/pipe;added /home;added /home/me;"
                 "added /home/me/f;removed /opt;removed /opt/b;removed /opt/deep;removed /opt/deep/a");
    const struct buf *hosts = line_of(c, "/etc/hosts");
    assert_int_equal(json_number(hosts, "size"), 6);
    assert_non_null(strstr(hosts->data, "\"before\":{\"type\":\"file\",\"size\":4,\"mode\":420,\"uid\":0,\"gid\":0}"));
    assert_false(json_has(hosts, "same_contents"));
    assert_true(json_number(hosts, "inode") > 0 && json_number(hosts, "ctime_ns") > 1000000000000000000 &&
                json_number(hosts, "mtime_ns") > 1000000000000000000);
    assert_non_null(strstr(line_of(c, "/etc/link")->data, "\"target\":\"other\""));
    assert_non_null(strstr(line_of(c, "/etc/link")->data, "\"target\":\"kept\"}"));
    assert_string_equal(json_word(line_of(c, "/opt/deep"), "type"), "directory");
    assert_int_equal(json_number(line_of(c, "/etc/gone"), "size"), 5);
    assert_false(json_has(line_of(c, "/etc/gone"), "inode"));
    guest_stop(g);
}

static void copied_up_is_no_change(void **state) {
    (void)state;
    sh("mkdir -p lower/d/e; echo same > lower/d/same; echo same > lower/d/mode; echo same > lower/d/owner; echo 1111 > "
       "lower/d/bytes;"
       "ln -s t lower/d/link; head -c 200000 /dev/zero > lower/d/big; head -c 200000 /dev/zero > lower/d/big2");
    sh("cp -a lower/d upper/d; touch upper/d/same; chmod 600 upper/d/mode; chown 1000 upper/d/owner; echo 2222 > "
       "upper/d/bytes;"
       "touch -r lower/d/bytes upper/d/bytes; chmod 700 upper/d/e; printf x >> upper/d/big2; truncate -s 200000 "
       "upper/d/big2; sync -f .;"
       "printf x | dd of=upper/d/big2 bs=1 seek=199999 conv=notrunc 2>/dev/null");
    struct guest *g = guest_start(GUEST_PLAIN);
    struct channel_seen *c = changes(g);
    assert_string_equal(said(c), "changed /d/big2;changed /d/bytes;changed /d/e;changed /d/mode;changed /d/owner");
    assert_true(json_has(line_of(c, "/d/mode"), "same_contents"));
    assert_true(json_has(line_of(c, "/d/owner"), "same_contents"));
    assert_false(json_has(line_of(c, "/d/bytes"), "same_contents"));
    assert_false(json_has(line_of(c, "/d/e"), "same_contents"));
    guest_stop(g);
}

static void opaque_directories(void **state) {
    (void)state;
    sh("mkdir -p lower/o/sub/x lower/o/left lower/clear upper/o/sub; echo 1 > lower/o/sub/x/f; echo 1 > lower/o/same; "
       "echo 1 > lower/o/left/l;"
       "echo 1 > lower/clear/c; echo 1 > upper/o/same; echo 2 > upper/o/sub/new; mkdir upper/clear");
    if (mark("o", "user.overlay.opaque", "y"))
        fail_msg("this tmpfs takes no xattr of users: the kernel is older than 6.6");
    struct guest *g = guest_start(GUEST_PLAIN);
    /* below the opaque one nothing shows through, also where the directory itself is not marked */
    assert_string_equal(said(changes(g)),
                        "removed /o/left;removed /o/left/l;added /o/sub/new;removed /o/sub/x;removed /o/sub/x/f");
    guest_stop(g);
}

static void whiteouts_that_are_xattrs(void **state) {
    (void)state;
    sh("mkdir -p lower/d upper/d upper/e; echo 1 > lower/d/gone; echo 1 > lower/d/here; echo 1 > lower/d/empty; : > "
       "upper/d/gone; : > upper/d/empty;"
       ": > upper/e/own");
    assert_int_equal(mark("d/gone", "user.overlay.whiteout", "y"), 0);
    assert_int_equal(mark("d", "user.overlay.opaque", "x"), 0);
    assert_int_equal(mark("e/own", "user.overlay.whiteout", "y"),
                     0); /* its directory is not marked: an ordinary file */
    struct guest *g = guest_start(GUEST_PLAIN);
    assert_string_equal(said(changes(g)), "changed /d/empty;removed /d/gone;added /e;added /e/own");
    guest_stop(g);
}

static void another_type(void **state) {
    (void)state;
    sh("mkdir -p lower/was_dir/in lower/x upper/was_file upper/x; echo 1 > lower/was_dir/in/f; echo 1 > "
       "lower/was_file; echo 1 > upper/was_dir;"
       "echo 1 > upper/was_file/f; ln -s /etc upper/x/l; mkdir lower/x/l; echo 1 > lower/x/l/f");
    struct guest *g = guest_start(GUEST_PLAIN);
    struct channel_seen *c = changes(g);
    assert_string_equal(
        said(c),
        "changed /was_dir;removed /was_dir/in;removed /was_dir/in/f;changed /was_file;added /was_file/f;changed /x/l;"
        "removed /x/l/f");
    assert_non_null(strstr(line_of(c, "/was_dir")->data, "\"before\":{\"type\":\"directory\""));
    guest_stop(g);
}

static void order_and_odd_names(void **state) {
    (void)state;
    sh("mkdir -p upper/a upper/a.b lower; : > upper/a/f; : > upper/a.b/f; : > upper/a-; : > upper/$(printf 'bad\\377');"
       ": > upper/.cella-0123456789abcdef.tmp; : > upper/.cella-mine.tmp; : > \"upper/new\nline\"");
    struct guest *g = guest_start(GUEST_PLAIN);
    assert_string_equal(
        said(changes(g)),
        "added /.cella-mine.tmp;added /a;added /a/f;added /a-;added /a.b;added /a.b/f;added /bad\xef\xbf\xbd;"
        "added /new\nline");
    guest_stop(g);
}

/* More levels than a cell has descriptors, and more entries than the window holds at once. */
static void deep_and_many(void **state) {
    (void)state;
    sh("mkdir -p upper/$(printf 'd/%.0s' $(seq 1500)); mkdir -p lower/$(printf 'd/%.0s' $(seq 700)); mkdir upper/many; "
       "cd upper/many; seq 8000 | xargs touch");
    struct guest *g = guest_start(GUEST_PLAIN);
    struct channel_seen *c = changes(g);
    expect_ok(c);
    assert_int_equal(json_number(&c->end, "entries"), 800 + 1 + 8000);
    guest_stop(g);
}

/* Deeper than a path can say: told as an error, not left out. */
static void too_deep(void **state) {
    (void)state;
    sh("cd upper; for i in $(seq 30); do mkdir -p $(printf '0123456789/%.0s' $(seq 20)); cd -P $(printf "
       "'0123456789/%.0s' $(seq 20)); done");
    struct guest *g = guest_start(GUEST_PLAIN);
    struct channel_seen *c = changes(g);
    assert_true(json_has(&c->end, "error"));
    guest_stop(g);
}

static void no_layers(void **state) {
    (void)state;
    guest_layers[0] = guest_layers[1] = NULL;
    struct guest *g = guest_start(GUEST_PLAIN);
    expect_error(changes(g), "unsupported");
    expect_error(guest_run(g, "{\"op\":\"read\",\"path\":\"/etc/passwd\",\"view\":\"template\"}"), "unsupported");
    expect_ok(guest_run(g, "{\"op\":\"read\",\"path\":\"/etc/passwd\"}"));
    guest_stop(g);
}

/* In a cell: jailed, on read-only mounts attached nowhere, and with what the kernel's own overlay writes. */
static void a_real_overlay(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    assert_string_equal(said(changes(g)), "");
    guest_sh(g, "user", "cd /layered; cat dir/sub/file; exec 3<>dir/sub/file; touch dir");
    assert_string_equal(said(changes(g)), ""); /* copied up, as it was */
    guest_sh(g, "user", "cd /layered; echo more >> dir/sub/file; echo 1 > dir/new; chmod 000 dir/new");
    struct channel_seen *c = changes(g);
    assert_string_equal(said(c), "added /dir/new;changed /dir/sub/file");
    assert_int_equal(json_number(line_of(c, "/dir/sub/file"), "uid"), 1000);
    guest_sh(g, "user", "cd /layered; rm -rf dir; mkdir dir; echo 2 > dir/two");
    assert_string_equal(said(changes(g)), "removed /dir/sub;removed /dir/sub/file;added /dir/two");
    guest_sh(g, "user", "cd /layered; rm -r dir; ln -s /etc dir");
    assert_string_equal(said(changes(g)), "changed /dir;removed /dir/sub;removed /dir/sub/file");
    guest_sh(g, "user", "cd /layered; rm dir");
    assert_string_equal(said(changes(g)), "removed /dir;removed /dir/sub;removed /dir/sub/file");
    c = guest_run(g, "{\"op\":\"read\",\"path\":\"/dir/sub/file\",\"view\":\"template\"}");
    expect_ok(c);
    assert_string_equal(c->out.data, "template\n");
    guest_stop(g);
}

/* A layer's descriptors are the guest's alone. */
static void not_handed_on(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    assert_string_equal(
        guest_sh(g, "root", "cd /proc/self/fd; for i in *; do [ $i -gt 9 ] && [ -e $i ] && echo $i; done; true"), "");
    guest_stop(g);
}

static void digests(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "root",
             "cd /tmp; printf abc > abc; : > empty; head -c 1000000 /dev/zero | tr '\\0' a > million; chmod 000 abc; "
             "mkfifo pipe;"
             "ln -s abc link; mkdir d; printf abc > d/abc; ln -s d e");
    struct channel_seen *c = guest_run(g, "{\"op\":\"digest\",\"paths\":[\"/tmp/abc\",\"/tmp/empty\",\"/tmp/"
                                          "million\",\"/tmp/pipe\",\"/tmp/link\",\"/tmp\","
                                          "\"/tmp/nothing\",\"/tmp/d/abc\",\"/tmp/e/abc\",\"/proc/self/environ\",\"/"
                                          "dev/null\",\"/tmp/d/../../../etc/passwd\"]}");
    expect_ok(c);
    /* FIPS 180-4 examples; the others are no regular files, or behind a link or a mount */
    assert_string_equal(c->reply.data,
                        "{\"digests\":[\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\","
                        "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\","
                        "\"cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0\",null,null,null,null,"
                        "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\",null,null,null,null]}");
    assert_string_equal(guest_run(g, "{\"op\":\"digest\",\"paths\":[]}")->reply.data, "{\"digests\":[]}");
    expect_error(guest_run(g, "{\"op\":\"digest\"}"), "invalid_request");
    expect_error(guest_run(g, "{\"op\":\"digest\",\"paths\":[\"relative\"]}"), "invalid_request");
    expect_error(guest_run(g, "{\"op\":\"digest\",\"paths\":[1]}"), "invalid_request");
    guest_stop(g);
}

static void exact_reads(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "root", "cd /tmp; mkdir d; echo secret > d/f; chmod 700 d; chmod 600 d/f; ln -s d l");
    struct channel_seen *c =
        guest_run(g, "{\"op\":\"read\",\"path\":\"/tmp/d/f\",\"view\":\"root\",\"user\":\"root\"}");
    expect_ok(c);
    assert_string_equal(c->out.data, "secret\n");
    assert_true(json_has(
        &guest_run(g, "{\"op\":\"read\",\"path\":\"/tmp/l/f\",\"view\":\"root\",\"user\":\"root\"}")->end, "error"));
    expect_ok(guest_run(g, "{\"op\":\"read\",\"path\":\"/tmp/l/f\",\"user\":\"root\"}"));
    expect_error(guest_run(g, "{\"op\":\"read\",\"path\":\"/tmp/d/f\",\"view\":\"root\"}"), "permission_denied");
    expect_error(guest_run(g, "{\"op\":\"read\",\"path\":\"/tmp/d/f\",\"view\":\"other\"}"), "invalid_request");
    guest_stop(g);
}

int main(int argc, char **argv) {
#define LAYERED(test) cmocka_unit_test_setup_teardown(test, layers_make, layers_remove)
    const struct CMUnitTest tests[] = {
        LAYERED(nothing_changed),
        LAYERED(added_changed_removed),
        LAYERED(copied_up_is_no_change),
        LAYERED(opaque_directories),
        LAYERED(whiteouts_that_are_xattrs),
        LAYERED(another_type),
        LAYERED(order_and_odd_names),
        LAYERED(deep_and_many),
        LAYERED(too_deep),
        cmocka_unit_test(no_layers),
        cmocka_unit_test(a_real_overlay),
        cmocka_unit_test(not_handed_on),
        cmocka_unit_test(digests),
        cmocka_unit_test(exact_reads),
    };
    return guest_tests_main(argc, argv, "changes", tests, sizeof tests / sizeof *tests);
}
