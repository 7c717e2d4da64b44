/* tar_get and tar_put: round trips, hostile archives, cut and broken streams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define OP(name, fields) "{\"op\":\"" name "\"," fields "}"

/* A ustar header by hand: no library would write these names. */
static void tar_add(struct buf *tar, const char *name, char type, const char *link, const char *content,
                    unsigned mode) {
    char head[512] = {0};
    size_t size = content ? strlen(content) : 0;
    static const char zeros[512];
    (void)snprintf(head, 100, "%s", name);
    (void)snprintf(head + 100, 8, "%07o", mode);
    (void)snprintf(head + 108, 8, "%07o", 4242u);
    (void)snprintf(head + 116, 8, "%07o", 4242u);
    (void)snprintf(head + 124, 12, "%011zo", size);
    (void)snprintf(head + 136, 12, "%011o", 981173106u); /* 2001-02-03 */
    head[156] = type;
    if (link) (void)snprintf(head + 157, 100, "%s", link);
    memcpy(head + 257, "ustar\00000", 8);
    memset(head + 148, ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof head; i++) sum += (unsigned char)head[i];
    (void)snprintf(head + 148, 8, "%06o", sum);
    buf_append(tar, head, sizeof head);
    if (size) buf_append(tar, content, size);
    if (size % 512) buf_append(tar, zeros, 512 - size % 512);
}

static void tar_finish(struct buf *tar) {
    static const char zeros[1024];
    buf_append(tar, zeros, sizeof zeros);
}

static struct channel_seen *put(struct guest *g, const char *fields, const struct buf *tar) {
    uint32_t ch = guest_open(g, OP("tar_put", "%s"), fields);
    guest_data(g, ch, tar->data, tar->len, true);
    return guest_wait_end(g, ch);
}

/* One entry into /workspace/in; must be refused, and leave nothing. */
static void refuse(struct guest *g, const char *name, char type, const char *link) {
    struct buf tar = {0};
    tar_add(&tar, name, type, link, type == '0' ? "evil" : NULL, 0644);
    tar_finish(&tar);
    guest_sh(g, "user",
             "rm -rf /workspace/in; mkdir /workspace/in; ln -s ../out /workspace/in/lead; ln -s sub "
             "/workspace/in/near; mkdir /workspace/in/sub");
    struct channel_seen *c = put(g, "\"path\":\"/workspace/in\"", &tar);
    if (!json_has(&c->end, "code") || strcmp(json_word(&c->end, "code"), "invalid_request"))
        fail_msg("%s -> %s: %s", name, link ? link : "", c->end.data);
    assert_string_equal(
        guest_sh(g, "user",
                 "find /workspace/in -newer /workspace/in/sub -type f; find /workspace/out /tmp -mindepth 1; "
                 "test ! -e /workspace/evil && test ! -e /evil && ls -A /workspace/in"),
        "lead\nnear\nsub\n");
    buf_free(&tar);
}

static void hostile_entries(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user", "mkdir out");
    refuse(g, "../evil", '0', NULL);
    refuse(g, "a/../../evil", '0', NULL);
    refuse(g, "a/../evil", '0', NULL);
    refuse(g, "/tmp/evil", '0', NULL);
    refuse(g, "//tmp/evil", '0', NULL);
    refuse(g, "..", '5', NULL);
    refuse(g, "lead/evil", '0', NULL); /* through a link on disk that leads out */
    refuse(g, "lead/dir", '5', NULL);
    refuse(g, "link", '2', "/etc/passwd");
    refuse(g, "link", '2', "..");
    refuse(g, "link", '2', "../out");
    refuse(g, "link", '2', "sub/../../out");
    refuse(g, "link", '2', "near/../../out");
    refuse(g, "near/link", '2', "../x"); /* judged by name it stays inside: the way to it must be no link */
    refuse(g, "hard", '1', "../out/x");
    refuse(g, "hard", '1', "/etc/passwd");
    refuse(g, "hard", '1', "lead/x");
    refuse(g, "fifo", '6', NULL);
    refuse(g, "device", '3', NULL);
    guest_stop(g);
}

static void unpacking(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    struct buf tar = {0};
    tar_add(&tar, "./", '5', NULL, NULL, 0700);
    tar_add(&tar, "./d/", '5', NULL, NULL, 0555);
    tar_add(&tar, "./d/file", '0', NULL, "content", 04755);
    tar_add(&tar, "./d/link", '2', "file", NULL, 0777);
    tar_add(&tar, "./d/up", '2', "../made/by/parents", NULL, 0777);
    tar_add(&tar, "hard", '1', "d/file", NULL, 0644);
    tar_add(&tar, "made/by/parents", '0', NULL, "x", 0600);
    tar_finish(&tar);
    struct channel_seen *c = put(g, "\"path\":\"in\",\"parents\":true", &tar);
    expect_ok(c);
    assert_int_equal(json_number(&c->end, "entries"), 6);
    assert_string_equal(guest_sh(g, "user",
                                 "cd in; stat -c '%%a %%u' . d d/file made/by/parents; stat -c %%h hard; cat d/link "
                                 "d/up hard; date -r d/file +%%Y"),
                        "755 1000\n555 1000\n755 1000\n600 1000\n2\ncontentxcontent2001\n");
    /* Again over what is there. */
    guest_sh(g, "user", "chmod 755 in/d");
    expect_ok(put(g, "\"path\":\"in\"", &tar));
    assert_string_equal(guest_sh(g, "user", "find in -name '.cella*'"), "");
    /* A file where a directory stands, and the other way round. */
    struct buf clash = {0};
    tar_add(&clash, "made", '0', NULL, "x", 0644);
    tar_finish(&clash);
    expect_error(put(g, "\"path\":\"in\"", &clash), "is_a_directory");
    buf_free(&clash);
    expect_error(put(g, "\"path\":\"nowhere\"", &tar), "not_found");
    expect_error(put(g, "\"path\":\"/root\"", &tar), "permission_denied");
    buf_free(&tar);
    guest_stop(g);
}

static void compressed(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user", "mkdir src dst; seq 200000 > src/seq; tar -C src -czf t.tgz .");
    struct channel_seen *c = guest_run(g, OP("read", "\"path\":\"t.tgz\""));
    struct buf tar = {0};
    buf_append(&tar, c->out.data, c->out.len);
    expect_ok(put(g, "\"path\":\"dst\"", &tar));
    guest_sh(g, "user", "cmp src/seq dst/seq");
    /* Cut in the middle, and by a daemon that goes away: an error, and no half file. */
    guest_sh(g, "user", "rm dst/seq");
    struct buf cut = {.data = tar.data, .len = tar.len / 2};
    expect_error(put(g, "\"path\":\"dst\"", &cut), "invalid_request");
    uint32_t ch = guest_open(g, OP("tar_put", "\"path\":\"dst\""));
    guest_data(g, ch, tar.data, tar.len / 2, false);
    guest_close(g, ch);
    expect_error(guest_wait_end(g, ch), "conflict");
    assert_string_equal(guest_sh(g, "user", "ls -A dst"), "");
    /* A bomb is bounded by the disk. */
    guest_sh(g, "user", "head -c 30000000 /dev/zero > src/bomb; tar -C src -czf b.tgz bomb; rm src/bomb");
    c = guest_run(g, OP("read", "\"path\":\"b.tgz\""));
    struct buf bomb = {.data = c->out.data, .len = c->out.len};
    expect_error(put(g, "\"path\":\"/small\"", &bomb), "no_space");
    assert_string_equal(guest_sh(g, "user", "ls -A /small"), "");
    buf_free(&tar);
    guest_stop(g);
}

static void garbage(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    struct buf bytes = {0};
    buf_str(&bytes, "this is no archive");
    expect_error(put(g, "\"path\":\"/workspace\"", &bytes), "invalid_request");
    buf_clear(&bytes);
    expect_error(put(g, "\"path\":\"/workspace\"", &bytes), "invalid_request");
    for (int i = 0; i < 100000; i++) buf_printf(&bytes, "%d", i * 7919);
    expect_error(put(g, "\"path\":\"/workspace\"", &bytes), "invalid_request");
    buf_clear(&bytes);
    tar_finish(&bytes); /* an empty archive is one */
    struct channel_seen *c = put(g, "\"path\":\"/workspace\"", &bytes);
    expect_ok(c);
    assert_int_equal(json_number(&c->end, "entries"), 0);
    assert_string_equal(guest_sh(g, "user", "ls -A"), "");
    buf_free(&bytes);
    guest_stop(g);
}

static void round_trip(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user",
             "mkdir -p src/deep/er/empty; cd src; echo text > deep/file; chmod 640 deep/file; head -c 3000000 "
             "/dev/urandom > random; ln -s deep/file link; "
             "touch \"na\xc3\xafve \xe2\x82\xac\" $(printf 'bad\\377') $(printf 'x%%.0s' $(seq 200)); touch -d "
             "2001-02-03 deep/file; mkfifo pipe; echo > deep/er/x");
    struct channel_seen *c = guest_run(g, OP("tar_get", "\"path\":\"src\""));
    expect_ok(c);
    assert_int_equal(json_number(&c->end, "bytes"), c->out.len);
    assert_int_equal(json_number(&c->end, "skipped"), 1); /* the pipe */
    struct buf tar = {0};
    buf_append(&tar, c->out.data, c->out.len);
    expect_ok(put(g, "\"path\":\"dst\",\"parents\":true", &tar));
    guest_sh(g, "user",
             "rm src/pipe; diff -r src dst && test $(stat -c %%a dst/deep/file) = 640 && test $(date -r dst/deep/file "
             "+%%Y) = 2001 && test -d dst/deep/er/empty && readlink dst/link");
    /* Debian's own tar reads it too. */
    uint32_t ch =
        guest_open(g, "{\"op\":\"exec\",\"cmd\":\"mkdir gnu; tar -C gnu -xf - && diff -r src gnu\",\"stdin\":true}");
    guest_data(g, ch, tar.data, tar.len, true);
    assert_int_equal(json_number(&guest_wait_end(g, ch)->end, "exit_code"), 0);
    c = guest_run(g, OP("tar_get", "\"path\":\"src/link\""));
    struct buf one = {.data = c->out.data, .len = c->out.len};
    expect_ok(put(g, "\"path\":\"one\",\"parents\":true", &one));
    assert_string_equal(guest_sh(g, "user", "ls one; cat one/link"), "link\ntext\n");
    expect_error(guest_run(g, OP("tar_get", "\"path\":\"nothing\"")), "not_found");
    guest_sh(g, "user", "chmod 0 src/deep/file");
    expect_error(guest_run(g, OP("tar_get", "\"path\":\"src\"")), "permission_denied");
    buf_free(&tar);
    guest_stop(g);
}

/* An empty directory is an empty archive; a file that shrinks under the reader is an error, never a padded lie. */
static void true_or_error(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user", "mkdir empty; mkdir src; head -c 30000000 /dev/zero > src/big");
    assert_int_equal(json_number(&guest_run(g, OP("tar_get", "\"path\":\"empty\""))->end, "entries"), 0);
    uint32_t ch = guest_open(g, OP("tar_get", "\"path\":\"src\""));
    struct channel_seen *c = &g->channels[ch];
    c->discard = c->no_credit = true;
    while (c->out_total < GUEST_WINDOW) assert_true(guest_pump(g, WAIT_MS));
    guest_sh(g, "user", "truncate -s 1000 src/big");
    c->no_credit = false;
    uint32_t window = GUEST_WINDOW;
    guest_frame_send(g, GUEST_CREDIT, 0, ch, &window, sizeof window);
    expect_error(guest_wait_end(g, ch), "conflict");
    guest_stop(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_entries), cmocka_unit_test(unpacking),  cmocka_unit_test(compressed),
        cmocka_unit_test(garbage),         cmocka_unit_test(round_trip), cmocka_unit_test(true_or_error),
    };
    return guest_tests_main(argc, argv, "guest_tar", tests, sizeof tests / sizeof *tests);
}
