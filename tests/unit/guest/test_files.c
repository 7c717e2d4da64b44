/* File operations: contents, atomicity, identities, links, special files, limits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "harness.h"

#define OP(name, fields) "{\"op\":\"" name "\"," fields "}"
#define PATH(name, path) OP(name, "\"path\":\"" path "\"")

static struct channel_seen *write_text(struct guest *g, const char *fields, const char *text) {
    uint32_t ch = guest_open(g, OP("write", "%s"), fields);
    guest_data(g, ch, text, strlen(text), true);
    return guest_wait_end(g, ch);
}

static void read_and_write(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    struct channel_seen *c = write_text(g, "\"path\":\"a/b/c.txt\"", "hello");
    assert_int_equal(json_number(&c->end, "bytes"), 5);
    assert_string_equal(json_word(&c->end, "path"), "/workspace/a/b/c.txt");
    assert_string_equal(guest_sh(g, "user", "stat -c '%%a %%u %%g %%s' a/b/c.txt; stat -c %%a a/b"),
                        "644 1000 1000 5\n755\n");
    c = guest_run(g, PATH("read", "/workspace/a/b/c.txt"));
    assert_string_equal(c->out.data, "hello");
    assert_int_equal(json_number(&c->end, "bytes"), 5);
    assert_int_equal(json_number(&c->reply, "size"), 5);
    assert_int_equal(json_number(&c->reply, "mode"), 0644);
    assert_true(llabs(json_number(&c->reply, "mtime_ms") - wall_ms()) < 60000);
    c = guest_run(g, OP("read", "\"path\":\"a/b/c.txt\",\"offset\":1,\"length\":3"));
    assert_string_equal(c->out.data, "ell");
    assert_int_equal(guest_run(g, OP("read", "\"path\":\"a/b/c.txt\",\"offset\":100"))->out.len, 0);
    expect_ok(write_text(g, "\"path\":\"a/b/c.txt\",\"append\":true", " world"));
    assert_string_equal(guest_run(g, PATH("read", "a/b/c.txt"))->out.data, "hello world");
    expect_ok(write_text(g, "\"path\":\"empty\"", ""));
    assert_int_equal(json_number(&guest_run(g, PATH("read", "empty"))->end, "bytes"), 0);
    assert_string_equal(guest_run(g, PATH("read", "/proc/sys/kernel/ostype"))->out.data, "Linux\n");
    expect_error(write_text(g, "\"path\":\"x/y\",\"parents\":false", "z"), "not_found");
    expect_error(guest_run(g, PATH("read", "nothing")), "not_found");
    expect_error(guest_run(g, PATH("read", "a")), "is_a_directory");
    expect_error(guest_run(g, PATH("read", "a/b/c.txt/d")), "not_a_directory");
    expect_error(write_text(g, "\"path\":\"a\"", "z"), "is_a_directory");
    expect_error(write_text(g, "\"path\":\"new/\"", "z"), "is_a_directory");
    expect_error(guest_run(g, PATH("read", "")), "invalid_request");
    expect_error(guest_run(g, PATH("read", "a\\u0000b")), "invalid_request");
    expect_error(guest_run(g, OP("read", "\"path\":\"a\",\"offset\":-1")), "invalid_request");
    assert_string_equal(guest_sh(g, "user", "ls -A | tr '\\n' ' '"), "a empty ");
    guest_stop(g);
}

static void modes_and_owners(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    expect_ok(write_text(g, "\"path\":\"run.sh\",\"mode\":493", "#!/bin/sh\n"));
    expect_ok(write_text(g, "\"path\":\"run.sh\"", "#!/bin/sh\necho 2\n"));
    assert_string_equal(guest_sh(g, "user", "stat -c %%a run.sh; ./run.sh"), "755\n2\n"); /* the old mode stays */
    expect_error(guest_run(g, PATH("read", "/root/x")), "permission_denied");
    expect_error(write_text(g, "\"path\":\"/etc2/x\"", "z"), "permission_denied");
    expect_ok(write_text(g, "\"user\":\"root\",\"path\":\"secret\",\"mode\":384", "s"));
    assert_string_equal(guest_sh(g, "root", "stat -c '%%u %%a' ~/secret; test ! -e /workspace/secret && echo ok"),
                        "0 600\nok\n");
    expect_ok(write_text(g, "\"user\":\"root\",\"path\":\"/workspace/locked\",\"mode\":384", "s"));
    expect_error(guest_run(g, PATH("read", "locked")), "permission_denied");
    /* The directory is the user's, so a rename over it would work: the file itself says no. */
    expect_error(write_text(g, "\"path\":\"locked\"", "mine"), "permission_denied");
    expect_error(write_text(g, "\"path\":\"locked\",\"append\":true", "mine"), "permission_denied");
    /* Root writing over a user's file leaves it the user's. */
    expect_ok(write_text(g, "\"user\":\"root\",\"path\":\"/workspace/run.sh\"", "by root"));
    assert_string_equal(guest_sh(g, "user", "stat -c '%%u %%g %%a' run.sh"), "1000 1000 755\n");
    /* Root of the cell may write where it owns nothing and may read nothing special beyond. */
    expect_ok(guest_run(g, OP("read", "\"user\":\"root\",\"path\":\"/workspace/locked\"")));
    guest_stop(g);
}

static void own_memory_is_no_file(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    static const char *const users[] = {"user", "root"};
    for (size_t i = 0; i < 2; i++) {
        expect_error(guest_run(g, OP("read", "\"user\":\"%s\",\"path\":\"/proc/self/environ\""), users[i]),
                     "permission_denied");
        expect_error(guest_run(g, OP("read", "\"user\":\"%s\",\"path\":\"/proc/thread-self/mem\""), users[i]),
                     "permission_denied");
        expect_error(guest_run(g, OP("read", "\"user\":\"%s\",\"path\":\"/proc/1/mem\""), users[i]),
                     "permission_denied");
        struct channel_seen *c = guest_run(g, OP("read", "\"user\":\"%s\",\"path\":\"/proc/self/fd/3\""), users[i]);
        assert_true(json_has(&c->end, "error"));
        c = guest_run(g, OP("list", "\"user\":\"%s\",\"path\":\"/proc/self/root/\""), users[i]);
        assert_true(json_has(&c->end, "error")); /* a magic link */
        uint32_t ch =
            guest_open(g, OP("write", "\"user\":\"%s\",\"path\":\"/proc/self/mem\",\"append\":true"), users[i]);
        guest_data(g, ch, "x", 1, true);
        assert_true(json_has(&guest_wait_end(g, ch)->end, "error"));
    }
    guest_stop(g);
}

static void close_midway_leaves_the_old_file(void **state) {
    (void)state;
    static char half[100000];
    struct guest *g = guest_start(GUEST_IN_CELL);
    static const char *const how[] = {"\"path\":\"f\"", "\"path\":\"f\",\"append\":true", "\"path\":\"d/e/new\""};
    guest_put(g, "f", "old");
    for (size_t i = 0; i < 3; i++) {
        uint32_t ch = guest_open(g, OP("write", "%s"), how[i]);
        guest_data(g, ch, half, sizeof half, false);
        if (i == 1)
            guest_sh(g, "user",
                     "for i in $(seq 100); do test $(stat -c %%s f) -gt 3 && exit; sleep 0.02; done; exit 9");
        guest_close(g, ch);
        expect_error(guest_wait_end(g, ch), "conflict");
        assert_string_equal(guest_run(g, PATH("read", "f"))->out.data, "old");
    }
    assert_string_equal(guest_sh(g, "user", "find . -type f"), "./f\n"); /* no temporary file either */
    guest_stop(g);
}

static void full_disk(void **state) {
    (void)state;
    static char megabytes[2 << 20];
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_put(g, "/small/f", "old");
    static const char *const how[] = {"\"path\":\"/small/f\"", "\"path\":\"/small/f\",\"append\":true",
                                      "\"path\":\"/small/new\""};
    for (size_t i = 0; i < 3; i++) {
        uint32_t ch = guest_open(g, OP("write", "%s"), how[i]);
        guest_data(g, ch, megabytes, sizeof megabytes, true);
        expect_error(guest_wait_end(g, ch), "no_space");
    }
    assert_string_equal(guest_sh(g, "user", "cat /small/f; ls -A /small"), "oldf\n");
    struct channel_seen *c = guest_run(g, "{\"op\":\"disk\"}");
    assert_true(json_number(&c->reply, "total_bytes") >= json_number(&c->reply, "free_bytes"));
    guest_stop(g);
}

static void special_files_are_refused(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(
        g, "user",
        "mkfifo pipe; ln -s pipe topipe; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'");
    static const char *const paths[] = {"pipe", "topipe", "sock", "/dev/zero", "/dev/tty"};
    for (size_t i = 0; i < 5; i++) {
        int64_t start = monotonic_ms();
        expect_error(guest_run(g, OP("read", "\"path\":\"%s\""), paths[i]), "invalid_request");
        uint32_t ch = guest_open(g, OP("write", "\"path\":\"%s\""), paths[i]);
        guest_data(g, ch, "x", 1, true);
        expect_error(guest_wait_end(g, ch), "invalid_request");
        assert_true(monotonic_ms() - start < 2000);
    }
    assert_string_equal(json_word(&guest_run(g, PATH("stat", "pipe"))->reply, "type"), "other");
    assert_string_equal(json_word(&guest_run(g, PATH("stat", "/dev/null"))->reply, "type"), "other");
    guest_stop(g);
}

static void symlinks(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user",
             "mkdir real other; echo one > real/f; ln -s real/f link; ln -s real dir; ln -s new dangling; ln -s loop "
             "loop; ln -s ../other real/up");
    expect_ok(write_text(g, "\"path\":\"link\"", "two"));
    expect_ok(write_text(g, "\"path\":\"dir/g\"", "three"));
    expect_ok(write_text(g, "\"path\":\"dangling\"", "four"));
    expect_ok(write_text(g, "\"path\":\"dir/up/h\"", "five"));
    expect_error(write_text(g, "\"path\":\"loop\"", "x"), "invalid_request");
    assert_string_equal(guest_sh(g, "user", "cat real/f real/g new other/h; readlink link dangling"),
                        "twothreefourfivereal/f\nnew\n");
    struct channel_seen *c = guest_run(g, PATH("stat", "link"));
    assert_string_equal(json_word(&c->reply, "type"), "symlink");
    assert_string_equal(json_word(&c->reply, "target"), "real/f");
    assert_string_equal(json_word(&c->reply, "path"), "/workspace/link");
    assert_string_equal(json_word(&guest_run(g, PATH("stat", "dir/.."))->reply, "path"), "/workspace");
    /* Removing a link to a directory removes the link. */
    expect_ok(guest_run(g, OP("remove", "\"path\":\"dir\",\"recursive\":true")));
    guest_sh(g, "user",
             "mkdir tree; echo keep > keep; ln -s ../real tree/l; ln -s /workspace/keep tree/k; mkdir tree/sub; ln -s "
             "../.. tree/sub/up");
    expect_ok(guest_run(g, OP("remove", "\"path\":\"tree\",\"recursive\":true")));
    assert_string_equal(guest_sh(g, "user", "test ! -e tree; cat keep; ls real"), "keep\nf\ng\nup\n");
    /* A user's path through a link into root's realm is still the user's. */
    guest_sh(g, "user", "ln -s /root sneaky; ln -s /etc/shadow s");
    expect_error(write_text(g, "\"path\":\"sneaky/x\"", "x"), "permission_denied");
    expect_error(guest_run(g, PATH("read", "s")), "permission_denied");
    guest_stop(g);
}

static void listing(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user",
             "mkdir -p b/c/d closed; chmod 0 closed; echo x > a; ln -s a l; touch b/c/d/deep; touch $(printf "
             "'bad\\377name') 'q\"u\\o'");
    struct channel_seen *c = guest_run(g, PATH("list", "."));
    assert_int_equal(json_number(&c->end, "entries"), 6);
    assert_non_null(strstr(c->out.data, "{\"name\":\"a\",\"path\":\"/workspace/"
                                        "a\",\"type\":\"file\",\"size\":2,\"mode\":420,\"uid\":1000,\"gid\":1000,"));
    assert_non_null(strstr(c->out.data, "\"name\":\"bad\xef\xbf\xbdname\""));
    assert_non_null(strstr(c->out.data, "\"name\":\"q\\\"u\\\\o\""));
    assert_null(strstr(c->out.data, "\"c\""));
    c = guest_run(g, OP("list", "\"path\":\"/workspace\",\"depth\":10"));
    assert_int_equal(json_number(&c->end, "entries"), 9);
    assert_non_null(strstr(c->out.data, "\"path\":\"/workspace/b/c/d/deep\""));
    assert_non_null(strstr(c->out.data, "\"unreadable\":true")); /* said, not left out */
    expect_error(guest_run(g, PATH("list", "a")), "not_a_directory");
    expect_error(guest_run(g, PATH("list", "closed")), "permission_denied");
    expect_error(guest_run(g, PATH("list", "nowhere")), "not_found");
    guest_sh(g, "user", "mkdir many; cd many; seq 20000 | xargs touch");
    uint32_t ch = guest_open(g, PATH("list", "many"));
    g->channels[ch].discard = true;
    assert_int_equal(json_number(&guest_wait_end(g, ch)->end, "entries"), 20000);
    guest_stop(g);
}

static void mkdir_move_remove(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    assert_non_null(
        strstr(guest_run(g, OP("mkdir", "\"path\":\"a/b/c\",\"parents\":true,\"mode\":448"))->end.data, "true"));
    assert_string_equal(guest_sh(g, "user", "stat -c %%a a/b a/b/c"), "755\n700\n");
    assert_non_null(strstr(guest_run(g, PATH("mkdir", "a/b/c"))->end.data, "false"));
    expect_error(guest_run(g, PATH("mkdir", "x/y")), "not_found");
    guest_put(g, "f", "F");
    expect_error(guest_run(g, PATH("mkdir", "f")), "already_exists");
    expect_ok(guest_run(g, OP("move", "\"from\":\"f\",\"to\":\"a/f\"")));
    guest_put(g, "g", "G");
    expect_error(guest_run(g, OP("move", "\"from\":\"g\",\"to\":\"a/f\"")), "already_exists");
    expect_ok(guest_run(g, OP("move", "\"from\":\"g\",\"to\":\"a/f\",\"overwrite\":true")));
    assert_string_equal(guest_run(g, PATH("read", "a/f"))->out.data, "G");
    expect_error(guest_run(g, OP("move", "\"from\":\"a\",\"to\":\"a/b/a\"")), "invalid_request");
    expect_error(guest_run(g, OP("move", "\"from\":\"nothing\",\"to\":\"n\"")), "not_found");
    expect_error(guest_run(g, PATH("remove", "a")), "conflict");
    expect_ok(guest_run(g, OP("remove", "\"path\":\"a\",\"recursive\":true")));
    expect_error(guest_run(g, PATH("remove", "a")), "not_found");
    expect_error(guest_run(g, OP("remove", "\"path\":\"/\",\"recursive\":true")), "invalid_request");
    guest_put(g, "keep", "K");
    expect_error(guest_run(g, OP("remove", "\"path\":\"/workspace\",\"recursive\":true")), "permission_denied");
    assert_string_equal(guest_run(g, PATH("read", "keep"))->out.data, "K");
    guest_stop(g);
}

static void move_between_file_systems(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user",
             "mkdir -p t/sub/deep t/empty; chmod 700 t/sub; echo 1 > t/one; chmod 640 t/one; echo 2 > t/sub/deep/two; "
             "ln -s ../one t/sub/l; touch -d '2001-02-03' t/one t/empty");
    expect_ok(guest_run(g, OP("move", "\"from\":\"t\",\"to\":\"/small/t\"")));
    assert_string_equal(guest_sh(g, "user",
                                 "test ! -e t; cd /small; ls -A; cat t/one t/sub/deep/two t/sub/l; stat -c %%a t/one "
                                 "t/sub t/empty; date -r t/one +%%Y; date -r t/empty +%%Y"),
                        "t\n1\n2\n1\n640\n700\n755\n2001\n2001\n");
    guest_put(g, "f", "file");
    expect_error(guest_run(g, OP("move", "\"from\":\"f\",\"to\":\"/small/t/one\"")), "already_exists");
    expect_ok(guest_run(g, OP("move", "\"from\":\"f\",\"to\":\"/small/t/one\",\"overwrite\":true")));
    assert_string_equal(guest_sh(g, "user", "test ! -e f; cat /small/t/one"), "file");
    /* Does not fit: both sides as they were. */
    guest_sh(g, "user", "mkdir big; head -c 700000 /dev/zero > big/a; head -c 700000 /dev/zero > big/b");
    expect_error(guest_run(g, OP("move", "\"from\":\"big\",\"to\":\"/small/big\"")), "no_space");
    assert_string_equal(guest_sh(g, "user", "ls big; ls -A /small"), "a\nb\nt\n");
    guest_sh(g, "user", "mkfifo big/p; truncate -s 0 big/a big/b");
    expect_error(guest_run(g, OP("move", "\"from\":\"big\",\"to\":\"/small/big\"")), "unsupported");
    assert_string_equal(guest_sh(g, "user", "ls big; ls -A /small"), "a\nb\np\nt\n");
    guest_stop(g);
}

/* What lies in the template's layer is moved by copying (overlayfs says EXDEV), removed with whiteouts, written over.
 */
static void template_layer(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    expect_ok(guest_run(g, OP("move", "\"from\":\"/layered/dir\",\"to\":\"/layered/moved\"")));
    assert_string_equal(guest_sh(g, "user", "cd /layered; ls -A; cat moved/sub/file"), "moved\ntemplate\n");
    guest_stop(g);
    g = guest_start(GUEST_IN_CELL);
    expect_ok(write_text(g, "\"path\":\"/layered/dir/sub/file\",\"append\":true", "more"));
    expect_ok(write_text(g, "\"path\":\"/layered/dir/sub/new\"", "new"));
    assert_string_equal(guest_sh(g, "user", "cd /layered/dir/sub; cat file new"), "template\nmorenew");
    expect_ok(guest_run(g, OP("remove", "\"path\":\"/layered/dir\",\"recursive\":true")));
    expect_error(guest_run(g, PATH("stat", "/layered/dir")), "not_found");
    expect_ok(write_text(g, "\"path\":\"/layered/dir/again\"", "x"));
    assert_string_equal(guest_sh(g, "user", "cd /layered; find . -mindepth 1"), "./dir\n./dir/again\n");
    guest_stop(g);
}

static void deep_trees(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    /* 3,000 levels of 20-byte names: no path reaches the bottom, and no process has a descriptor for each. */
    guest_sh(
        g, "user",
        "python3 -c 'import os\nfor i in range(3000):\n os.mkdir(\"d\"*20); os.chdir(\"d\"*20)\nopen(\"x\",\"w\")'");
    expect_ok(guest_run(g, OP("remove", "\"path\":\"dddddddddddddddddddd\",\"recursive\":true")));
    assert_string_equal(guest_sh(g, "user", "ls -A"), "");
    guest_stop(g);
}

/* 64 MiB each way, binary, while the guest stays small. */
static void large_file(void **state) {
    (void)state;
    enum { PIECES = 64, PIECE = 1 << 20 };
    struct guest *g = guest_start(GUEST_IN_CELL);
    uint8_t *bytes = malloc(PIECE);
    assert_non_null(bytes);
    uint32_t hash = HASH_START, ch = guest_open(g, PATH("write", "big"));
    long most = 0;
    for (int i = 0; i < PIECES; i++) {
        random_fill(bytes, PIECE);
        hash = hash_more(hash, bytes, PIECE);
        guest_data(g, ch, bytes, PIECE, i == PIECES - 1);
        if (guest_memory_kib(g) > most) most = guest_memory_kib(g);
    }
    assert_int_equal(json_number(&guest_wait_end(g, ch)->end, "bytes"), (long long)PIECES * PIECE);
    ch = guest_open(g, PATH("read", "big"));
    struct channel_seen *c = &g->channels[ch];
    c->discard = true;
    for (int i = 0; !c->ended; i++) {
        assert_true(guest_pump(g, WAIT_MS));
        if (i % 50 == 0 && guest_memory_kib(g) > most) most = guest_memory_kib(g);
    }
    assert_int_equal(json_number(&c->end, "bytes"), (long long)PIECES * PIECE);
    assert_int_equal(c->out_total, (long long)PIECES * PIECE);
    assert_int_equal(c->hash, hash);
    assert_in_range(most, 1, 2048 * MEMORY_SCALE);
    free(bytes);
    guest_stop(g);
}

/* A reader that takes nothing holds up nobody and costs one window. */
static void slow_reader(void **state) {
    (void)state;
    struct guest *g = guest_start(GUEST_IN_CELL);
    guest_sh(g, "user", "head -c 20000000 /dev/zero > zeros");
    uint32_t slow[20];
    for (size_t i = 0; i < 20; i++) {
        slow[i] = guest_open(g, PATH("read", "zeros"));
        g->channels[slow[i]].no_credit = g->channels[slow[i]].discard = true;
    }
    for (size_t i = 0; i < 20; i++)
        while (g->channels[slow[i]].out_total < GUEST_WINDOW) assert_true(guest_pump(g, WAIT_MS));
    (void)guest_pump(g, 100);
    for (size_t i = 0; i < 20; i++) assert_int_equal(g->channels[slow[i]].out_total, GUEST_WINDOW);
    expect_memory_below(g, 4096);
    assert_string_equal(guest_sh(g, "user", "echo quick"), "quick\n");
    /* Single bytes of credit are honoured to the byte. */
    uint32_t one = 1;
    guest_frame_send(g, GUEST_CREDIT, 0, slow[0], &one, sizeof one);
    assert_true(guest_pump(g, WAIT_MS));
    assert_int_equal(g->channels[slow[0]].out_total, GUEST_WINDOW + 1);
    for (size_t i = 0; i < 20; i++) {
        guest_close(g, slow[i]);
        expect_error(guest_wait_end(g, slow[i]), "conflict");
    }
    guest_stop(g);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_and_write),
        cmocka_unit_test(modes_and_owners),
        cmocka_unit_test(own_memory_is_no_file),
        cmocka_unit_test(close_midway_leaves_the_old_file),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(special_files_are_refused),
        cmocka_unit_test(symlinks),
        cmocka_unit_test(listing),
        cmocka_unit_test(mkdir_move_remove),
        cmocka_unit_test(move_between_file_systems),
        cmocka_unit_test(template_layer),
        cmocka_unit_test(deep_trees),
        cmocka_unit_test(large_file),
        cmocka_unit_test(slow_reader),
    };
    return guest_tests_main(argc, argv, "guest_files", tests, sizeof tests / sizeof *tests);
}
