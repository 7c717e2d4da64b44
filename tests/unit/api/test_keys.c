/* API keys over a real store: made, checked, deleted; only hashes at rest. Settings of the daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/options.h"
#include "base/cleanup.h"
#include "store/store.h"
#include "tenant/keys.h"

static char directory[] = "/tmp/cella-keys-XXXXXX";
static char path[64];

static int setup(void **state) {
    struct err e;
    if (!mkdtemp(directory)) return -1;
    (void)snprintf(path, sizeof path, "%s/db", directory);
    *state = store_open(path, &e);
    return *state ? 0 : -1;
}
static int teardown(void **state) {
    char other[80];
    store_close(*state);
    unlink(path);
    (void)snprintf(other, sizeof other, "%s-wal", path);
    unlink(other);
    (void)snprintf(other, sizeof other, "%s-shm", path);
    unlink(other);
    return rmdir(directory);
}

static void a_known_hash(void **state) {
    (void)state;
    char hex[65];
    key_hash("abc", hex); /* FIPS 180-2, the first example */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void the_form_of_a_key(void **state) {
    (void)state;
    unsigned char zero[32] = {0}, ones[32];
    char text[KEY_TEXT + 1];
    memset(ones, 0xff, sizeof ones);
    key_text(zero, text);
    assert_string_equal(text, "cella_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_true(key_shaped(text));
    key_text(ones, text);
    assert_int_equal(strspn(text + 6, "_"), 42);
    assert_string_equal(text + 48, "8");
    assert_false(key_shaped("") || key_shaped("cella_") ||
                 key_shaped("cella_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA+"));
    assert_false(key_shaped("cella_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
}

static void keys_live_and_die(void **state) {
    struct err e;
    struct keys *keys = keys_open(*state);
    char id[KEY_ID_SIZE], text[KEY_TEXT + 1], found[64] = "";
    assert_false(keys_any(keys));
    assert_int_equal(keys_create(keys, "", id, text, &e), -1);
    assert_int_equal(keys_create(keys, "a\nb", id, text, &e), -1);
    assert_int_equal(keys_create(keys, "ci", id, text, &e), 0);
    assert_true(keys_any(keys) && key_shaped(text));
    for (int i = 0; i < 2; i++) { /* from the store, then remembered */
        assert_true(keys_check(keys, text, found, sizeof found));
        assert_string_equal(found, id);
    }
    char wrong[KEY_TEXT + 1];
    memcpy(wrong, text, sizeof wrong);
    wrong[20] = wrong[20] == 'A' ? 'B' : 'A';
    assert_false(keys_check(keys, wrong, found, sizeof found));
    struct json_object *list = keys_list(keys, &e);
    assert_int_equal(json_object_array_length(list), 1);
    assert_null(strstr(json_object_to_json_string(list), text + 6));
    json_object_put(list);
    assert_int_equal(keys_delete(keys, "key_nothing", &e), -1);
    assert_string_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(keys_delete(keys, id, &e), 0);
    assert_false(keys_check(keys, text, found, sizeof found));
    assert_false(keys_any(keys));
    keys_close(keys);
}

static void settings_are_checked(void **state) {
    (void)state;
    struct err e;
    struct daemon_options o;
    options_defaults(&o);
    char *good[] = {"cellad",
                    "--state",
                    "/x",
                    "--listen=127.0.0.1:1",
                    "--require-key",
                    "--memory-mb",
                    "100",
                    "--memory-mb-max=200",
                    "--allowed-host",
                    "a",
                    "--allowed-host=b",
                    "--header-timeout",
                    "3",
                    "--driver",
                    "microvm",
                    "--microvm-memory-mb=512",
                    "--microvm-vcpus=3",
                    "--microvm-bake-seconds=90"};
    assert_int_equal(options_parse(&o, sizeof good / sizeof *good, good, &e), 0);
    assert_string_equal(o.state_dir, "/x");
    assert_true(o.require_key && o.allowed_hosts_count == 2);
    assert_int_equal(o.world.limits_default.memory_bytes, 100 << 20);
    assert_int_equal(o.world.limits_max.memory_bytes, 200 << 20);
    assert_int_equal(o.http.header_timeout_ms, 3000);
    assert_int_equal(o.driver, CHOICE_MICROVM);
    assert_int_equal(o.microvm_memory_bytes, 512 << 20);
    assert_int_equal(o.microvm_vcpus, 3);
    assert_int_equal(o.microvm_bake_ms, 90000);
    char *wrong[][3] = {{"cellad", "--nothing", "x"},      {"cellad", "--cells-max", "many"},
                        {"cellad", "--cells-max", "0"},    {"cellad", "state", "x"},
                        {"cellad", "--warm=x", "--state"}, {"cellad", "--log-level", "loud"},
                        {"cellad", "--driver", "docker"},  {"cellad", "--microvm-vcpus", "9"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(options_parse(&o, 3, wrong[i], &e), -1);
        assert_string_equal(e.code, ERR_INVALID);
    }
}

static void settings_come_from_a_file(void **state) {
    (void)state;
    struct err e;
    struct daemon_options o;
    char name[80];
    (void)snprintf(name, sizeof name, "%s/conf", directory);
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    fputs("# a comment\n\n  listen = 127.0.0.1:9 \nwarm = \"\"\nrequire-key = true\ncells-max=7\n", f);
    assert_int_equal(fclose(f), 0);
    options_defaults(&o);
    char *words[] = {"cellad", "--cells-max", "8", "--config", name}; /* the command line has the last word */
    assert_int_equal(options_parse(&o, 5, words, &e), 0);
    assert_string_equal(o.http.listen, "127.0.0.1:9");
    assert_string_equal(o.warm, "");
    assert_true(o.require_key);
    assert_int_equal(o.world.cells_max, 8);
    f = fopen(name, "w");
    assert_non_null(f);
    fputs("cells-max = 7\nnonsense\n", f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(options_read_file(&o, name, &e), -1);
    assert_non_null(strstr(e.text, "line 2"));
    unlink(name);
    options_free(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_known_hash),
        cmocka_unit_test(the_form_of_a_key),
        cmocka_unit_test(keys_live_and_die),
        cmocka_unit_test(settings_are_checked),
        cmocka_unit_test(settings_come_from_a_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
