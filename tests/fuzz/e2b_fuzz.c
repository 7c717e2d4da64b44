/* What E2B's clients send to a sandbox's port before any handler does something with it: frames and base64 of its calls, forms, paths; and what a
 * cell says about files and processes on its way to them.
 *
 * Build and run, from the root of the repository:
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -I/usr/include/json-c \
 *     tests/fuzz/e2b_fuzz.c src/api/compat/e2b_rpc_wire.c src/api/compat/e2b_files_multipart.c \
 *     src/api/compat/e2b_filesystem_entry.c src/api/compat/e2b_process_end.c src/api/utf8.c src/api/json_text.c \
 *     src/base/buf.c src/base/err.c -ljson-c -o /tmp/e2b_fuzz
 *
 *   /tmp/e2b_fuzz -max_total_time=10 tests/fuzz/e2b_corpus
 *
 * The first byte of the input chooses the parser, the second how the rest is cut into pieces. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b_files_multipart.h"
#include "api/compat/e2b_filesystem_entry.h"
#include "api/compat/e2b_process_end.h"
#include "api/compat/e2b_rpc_wire.h"
#include "api/json_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int holds) {
    if (!holds) abort();
}

/* ---- frames: the same messages, however they are cut; every message can be sent again ---- */

static int read_frames(const char *bytes, size_t n, size_t piece, struct buf *out) {
    struct rpc_frames f = {0};
    struct json_object *message;
    struct err e;
    int got = 0;
    for (size_t at = 0; at < n && got >= 0; at += piece) {
        rpc_frames_feed(&f, bytes + at, n - at < piece ? n - at : piece);
        while ((got = rpc_frames_next(&f, &message, &e)) > 0) {
            struct buf text = {0};
            json_put(&text, message);
            rpc_put_frame(out, 0, text.data, text.len);
            buf_free(&text);
            json_object_put(message);
        }
        must(got == 0 || (!message && e.code && rpc_code(e.code) && rpc_status(e.code) >= 400));
    }
    buf_free(&f.bytes);
    return got;
}

static void fuzz_frames(const char *bytes, size_t n, size_t piece) {
    struct buf one = {0}, two = {0}, again = {0};
    int first = read_frames(bytes, n, n + 1, &one), second = read_frames(bytes, n, piece, &two);
    must(first == second && one.len == two.len && (!one.len || memcmp(one.data, two.data, one.len) == 0));
    if (one.len) {
        must(read_frames(one.data, one.len, piece, &again) == 0);
        must(again.len == one.len && memcmp(again.data, one.data, one.len) == 0);
    }
    buf_free(&one);
    buf_free(&two);
    buf_free(&again);
}

/* ---- base64: what is written can be read; what is read can be written ---- */

static void fuzz_base64(const char *bytes, size_t n) {
    struct buf text = {0}, back = {0};
    rpc_put_base64(&text, bytes, n);
    must(rpc_get_base64(text.data ? text.data : "", text.len, &back));
    must(back.len == n && (!n || memcmp(back.data, bytes, n) == 0));
    buf_clear(&back);
    if (!rpc_get_base64(bytes, n, &back)) must(back.len == 0);
    must(back.len <= n);
    buf_free(&text);
    buf_free(&back);
}

static void fuzz_errors(const char *text) {
    struct err e;
    struct buf b = {0};
    int64_t ms;
    struct json_object *parsed = NULL;
    if (rpc_timeout(text, &ms, &e) == 0) must(ms >= 0 && ms < 10000000000);
    err_set(&e, ERR_CONFLICT, "%.300s", text);
    rpc_put_end(&b, &e);
    must(json_parse_object(b.data, b.len, &parsed, &e) == 0 && json_field(parsed, "error"));
    json_object_put(parsed);
    buf_free(&b);
}

/* ---- forms: the same parts and data, however the body is cut and however slowly the data is taken ---- */

#define TYPE "multipart/form-data; boundary="

static void note(struct buf *log, const struct multipart *m, enum multipart_event event) {
    if (event == MULTIPART_PART) buf_printf(log, "<%s|%s>", m->name, m->filename ? m->filename : "-");
    if (event == MULTIPART_PART_END) buf_str(log, "</>");
    if (event == MULTIPART_END) buf_str(log, "END");
    if (event == MULTIPART_BAD) buf_str(log, "BAD");
}

static bool over(enum multipart_event event) { return event == MULTIPART_END || event == MULTIPART_BAD; }

static void read_form(const char *type, const char *bytes, size_t n, size_t piece, size_t sip, struct buf *log) {
    struct multipart m;
    struct err e;
    enum multipart_event event = multipart_open(&m, type, &e) < 0 ? MULTIPART_BAD : MULTIPART_MORE;
    for (size_t at = 0, end = 0; at < n && !over(event);) {
        end = end + piece < n ? end + piece : n;
        do {
            size_t used;
            event = multipart_next(&m, bytes + at, end - at, &used, &e);
            must(used <= end - at);
            at += used;
            note(log, &m, event);
            if (event == MULTIPART_DATA) {
                size_t take = m.size < sip ? m.size : sip;
                must(m.size > 0);
                buf_append(log, m.data, take);
                at += multipart_took(&m, take);
            }
            must(event != MULTIPART_MORE || at == end);
        } while (event != MULTIPART_MORE && !over(event));
    }
    multipart_close(&m);
}

static void fuzz_form(char *text, size_t n, size_t piece) {
    char type[sizeof TYPE + MULTIPART_BOUNDARY_MAX + 20];
    struct buf one = {0}, two = {0};
    char *line = memchr(text, '\n', n);
    size_t head = line ? (size_t)(line - text) + 1 : 0;
    if (!head || head > MULTIPART_BOUNDARY_MAX + 10) return; /* the first line is the boundary */
    (void)snprintf(type, sizeof type, TYPE "%.*s", (int)(head - 1), text);
    read_form(type, text + head, n - head, n + 1, n + 1, &one);
    read_form(type, text + head, n - head, piece, 1 + piece % 3, &two);
    must(one.len == two.len && (!one.len || memcmp(one.data, two.data, one.len) == 0));
    buf_free(&one);
    buf_free(&two);
}

/* ---- paths and entries ---- */

static void fuzz_path(const char *text) {
    struct err e;
    char *path = e2b_path(text[0] & 1 ? "root" : "user", text, &e);
    if (!path) return;
    must(path[0] == '/' && !strstr(path, "//") && !strstr(path, "/../") && !strstr(path, "/./"));
    char *again = e2b_path("user", path, &e);
    must(!again || strcmp(again, path) == 0); /* NULL: the home made it too long */
    must(*e2b_path_name(path));
    free(again);
    free(path);
}

static void fuzz_told(const char *text, size_t n) {
    struct err e;
    struct json_object *value = NULL;
    if (json_parse_object(text, n, &value, &e) < 0 || !value) return;
    struct json_object *entry = e2b_entry(value, json_field(value, "target")), *plain = e2b_entry(value, NULL);
    struct json_object *end = e2b_process_end(value, true, &e);
    must(json_field(entry, "type") && json_field(plain, "modifiedTime") && (!end || json_field(end, "status")));
    json_object_put(entry);
    json_object_put(plain);
    json_object_put(end);
    json_object_put(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2 || n > (1u << 16)) return 0;
    char *text = malloc(n); /* without the two choosing bytes, NUL-terminated */
    if (!text) return 0;
    memcpy(text, data + 2, n - 2);
    text[n - 2] = 0;
    size_t piece = 1 + data[1] % 17;
    switch (data[0] % 6) {
    case 0: fuzz_frames(text, n - 2, piece); break;
    case 1: fuzz_base64(text, n - 2); break;
    case 2: fuzz_errors(text); break;
    case 3: fuzz_form(text, n - 2, piece); break;
    case 4: fuzz_path(text); break;
    default: fuzz_told(text, n - 2);
    }
    free(text);
    return 0;
}
