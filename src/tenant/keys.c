#include "tenant/keys.h"

#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "store/store.h"

#define CACHE_SIZE 256      /* keys that were used lately; direct-mapped by their hash */
#define USED_EVERY_MS 60000 /* "last used" is written at most this often per key */

struct known {
    char hash[65];
    char id[KEY_ID_SIZE];
    int64_t written_ms;
};

struct keys {
    struct store *store;
    bool any;
    struct known cache[CACHE_SIZE];
};

void key_hash(const char *text, char hex[static 65]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (EVP_Digest(text, strlen(text), digest, &n, EVP_sha256(), NULL) != 1 || n != 32) abort();
    for (unsigned i = 0; i < 32; i++) (void)snprintf(hex + 2 * (size_t)i, 3, "%02x", digest[i]);
}

void key_text(const unsigned char secret[static 32], char text[static KEY_TEXT + 1]) {
    char base64[48];
    EVP_EncodeBlock((unsigned char *)base64, secret, 32); /* 44 characters, the last is "=" */
    for (char *p = base64; *p; p++) {
        if (*p == '+') *p = '-';
        if (*p == '/') *p = '_';
    }
    (void)snprintf(text, KEY_TEXT + 1, KEY_PREFIX "%.43s", base64);
}

bool key_shaped(const char *text) {
    size_t n = strlen(KEY_PREFIX);
    if (strncmp(text, KEY_PREFIX, n) != 0 || strlen(text) != KEY_TEXT) return false;
    return strspn(text + n, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == KEY_TEXT - n;
}

struct keys *keys_open(struct store *store) {
    struct keys *k = calloc(1, sizeof *k);
    if (!k) abort();
    k->store = store;
    k->any = store_key_any(store);
    return k;
}

void keys_close(struct keys *k) { free(k); }
bool keys_any(struct keys *k) { return k->any; }

int keys_create(struct keys *k, const char *name, char id[static KEY_ID_SIZE], char text[static KEY_TEXT + 1],
                struct err *e) {
    unsigned char secret[32];
    char hash[65];
    size_t n = strlen(name);
    if (!n || n > KEY_NAME_MAX) return err_set(e, ERR_INVALID, "\"name\" must have 1 to %d bytes", KEY_NAME_MAX);
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) return err_set(e, ERR_INVALID, "\"name\" has control characters");
    random_fill(secret, sizeof secret);
    key_text(secret, text);
    explicit_bzero(secret, sizeof secret);
    key_hash(text, hash);
    id_make(id, "key_");
    if (store_key_add(k->store, id, name, hash, wall_ms(), e) < 0) {
        explicit_bzero(text, KEY_TEXT);
        return -1;
    }
    k->any = true;
    return 0;
}

static struct known *slot(struct keys *k, const char *hash) {
    char head[5] = {hash[0], hash[1], hash[2], hash[3]};
    return &k->cache[strtoul(head, NULL, 16) % CACHE_SIZE];
}

bool keys_check(struct keys *k, const char *text, char *id, size_t id_size) {
    char hash[65];
    int64_t now = wall_ms();
    if (!key_shaped(text)) return false;
    key_hash(text, hash);
    struct known *known = slot(k, hash);
    if (strcmp(known->hash, hash) != 0) {
        char found[KEY_ID_SIZE];
        if (store_key_find(k->store, hash, found, sizeof found) != 1) return false;
        memcpy(known->hash, hash, sizeof hash);
        memcpy(known->id, found, sizeof found);
        known->written_ms = 0;
    }
    if (now - known->written_ms > USED_EVERY_MS || now < known->written_ms) {
        known->written_ms = now;
        if (store_key_used(k->store, known->id, now) < 0) log_warn("the time of use of a key could not be stored");
    }
    (void)snprintf(id, id_size, "%s", known->id);
    return true;
}

int keys_delete(struct keys *k, const char *id, struct err *e) {
    if (!id_valid(id, "key_")) return err_set(e, ERR_NOT_FOUND, "there is no such key");
    for (size_t i = 0; i < CACHE_SIZE; i++)
        if (strcmp(k->cache[i].id, id) == 0) k->cache[i] = (struct known){0};
    if (store_key_delete(k->store, id, e) < 0) return -1;
    k->any = store_key_any(k->store);
    return 0;
}

static struct json_object *time_text(int64_t ms) {
    char text[40];
    time_t seconds = ms / 1000;
    struct tm tm;
    if (ms <= 0) return NULL;
    gmtime_r(&seconds, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_object_new_string(text);
}

static int add_row(void *arg, const char *id, const char *name, int64_t created_ms, int64_t last_used_ms) {
    struct json_object *row = json_object_new_object();
    json_object_object_add(row, "id", json_object_new_string(id));
    json_object_object_add(row, "name", json_object_new_string(name));
    json_object_object_add(row, "created_at", time_text(created_ms));
    json_object_object_add(row, "last_used_at", time_text(last_used_ms));
    return json_object_array_add(arg, row);
}

struct json_object *keys_list(struct keys *k, struct err *e) {
    struct json_object *list = json_object_new_array();
    if (store_key_each(k->store, add_row, list, e) == 0) return list;
    json_object_put(list);
    return NULL;
}
