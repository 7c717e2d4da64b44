#include "api/trace/span.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "base/clock.h"
#include "base/id.h"

struct span {
    struct exporter *exporter;
    struct traceparent self;
    char parent[17];
    const char *name; /* a literal */
    int64_t began_ns, began_us;
    struct json_object *attributes;
    char why[128];
};

static void random_hex(char *out, size_t digits) {
    unsigned char bytes[16];
    do {
        random_fill(bytes, sizeof bytes);
        for (size_t i = 0; i < digits / 2; i++) (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    } while (strspn(out, "0") == digits);
}

struct span *span_begin(struct exporter *x, const char *name, const struct traceparent *parent) {
    if (!x || (parent && !parent->sampled)) return NULL;
    struct span *s = calloc(1, sizeof *s);
    if (!s) abort();
    *s = (struct span){.exporter = x,
                       .name = name,
                       .attributes = json_object_new_array(),
                       .began_ns = clock_ns(CLOCK_REALTIME),
                       .began_us = monotonic_us()};
    s->self.sampled = true;
    if (parent) {
        memcpy(s->self.trace, parent->trace, sizeof s->self.trace);
        memcpy(s->parent, parent->span, sizeof s->parent);
    } else {
        random_hex(s->self.trace, 32);
    }
    random_hex(s->self.span, 16);
    return s;
}

void span_write(const struct span *s, char out[static TRACEPARENT_SIZE]) {
    if (s) traceparent_write(&s->self, out);
}

static void add(struct span *s, const char *key, const char *type, struct json_object *value) {
    struct json_object *o = json_object_new_object(), *v = json_object_new_object();
    json_set_text(o, "key", key);
    json_set(v, type, value);
    json_set(o, "value", v);
    json_object_array_add(s->attributes, o);
}

void span_text(struct span *s, const char *key, const char *value) {
    if (s && value) add(s, key, "stringValue", json_object_new_string(value));
}

/* OTLP's JSON writes 64-bit numbers as text. */
void span_number(struct span *s, const char *key, long long value) {
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", value);
    if (s) add(s, key, "intValue", json_object_new_string(text));
}

void span_digest(struct span *s, const char *key, const void *bytes, size_t n) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    char hex[65] = "", name[64];
    unsigned length = 0;
    if (!s || !EVP_Digest(bytes, n, digest, &length, EVP_sha256(), NULL)) return;
    for (unsigned i = 0; i < 32; i++) (void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    (void)snprintf(name, sizeof name, "%s.sha256", key);
    span_text(s, name, hex);
    (void)snprintf(name, sizeof name, "%s.bytes", key);
    span_number(s, name, (long long)n);
}

void span_fail(struct span *s, const char *why) {
    if (s) (void)snprintf(s->why, sizeof s->why, "%s", why ? why : "failed");
}

static void put_time(struct json_object *o, const char *key, int64_t ns) {
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)ns);
    json_set_text(o, key, text);
}

void span_end(struct span *s) {
    if (!s) return;
    struct json_object *o = json_object_new_object(), *status = json_object_new_object();
    json_set_text(o, "traceId", s->self.trace);
    json_set_text(o, "spanId", s->self.span);
    if (s->parent[0]) json_set_text(o, "parentSpanId", s->parent);
    json_set_text(o, "name", s->name);
    json_set_int(o, "kind", 2); /* SPAN_KIND_SERVER */
    put_time(o, "startTimeUnixNano", s->began_ns);
    put_time(o, "endTimeUnixNano", s->began_ns + (monotonic_us() - s->began_us) * 1000);
    json_set(o, "attributes", s->attributes);
    if (s->why[0]) {
        json_set_int(status, "code", 2); /* STATUS_CODE_ERROR */
        json_set_text(status, "message", s->why);
    }
    json_set(o, "status", status);
    struct buf b = {0};
    json_put(&b, o);
    json_object_put(o);
    exporter_put(s->exporter, b.data);
    free(s);
}

/* ---- the usual attributes ---- */

static const char *text_of(struct json_object *o, const char *name) {
    struct json_object *v = json_field(o, name);
    return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

void span_code(struct span *s, struct json_object *body) {
    struct json_object *code = json_field(body, "code"), *cmd = json_field(body, "cmd");
    if (!s) return;
    if (!code) code = cmd;
    if (json_object_is_type(code, json_type_string))
        span_digest(s, "cella.code", json_object_get_string(code), (size_t)json_object_get_string_len(code));
    else if (json_object_is_type(code, json_type_array)) { /* a command in words: hashed as JSON */
        struct buf b = {0};
        json_put(&b, code);
        span_digest(s, "cella.code", b.data, b.len);
        buf_free(&b);
    }
    span_text(s, "cella.language", text_of(body, "language"));
}

static void number_of(struct span *s, const char *key, struct json_object *o, const char *name) {
    struct json_object *v = json_field(o, name);
    if (v) span_number(s, key, json_object_get_int64(v));
}

static void size_of(struct span *s, const char *key, struct json_object *o, const char *name) {
    struct json_object *v = json_field(o, name);
    if (json_object_is_type(v, json_type_string)) span_number(s, key, json_object_get_string_len(v));
}

static void outcome(struct span *s, struct json_object *o) {
    const char *exit = text_of(o, "exit");
    span_text(s, "cella.exit", exit);
    number_of(s, "cella.exit_code", o, "exit_code");
    number_of(s, "cella.duration_ms", o, "duration_ms");
    size_of(s, "cella.stdout.bytes", o, "stdout");
    size_of(s, "cella.stderr.bytes", o, "stderr");
    if (exit && strcmp(exit, "ok") != 0) span_fail(s, exit);
}

void span_execution(struct span *s, struct json_object *execution) {
    struct json_object *results = json_field(execution, "results");
    if (!s) return;
    span_text(s, "cella.execution.id", text_of(execution, "id"));
    span_text(s, "cella.context.id", text_of(execution, "context_id"));
    outcome(s, execution);
    if (json_object_is_type(results, json_type_array))
        span_number(s, "cella.results", (long long)json_object_array_length(results));
    span_text(s, "cella.error", text_of(json_field(execution, "error"), "name"));
}

void span_process(struct span *s, struct json_object *process) {
    if (!s) return;
    span_text(s, "cella.process.id", text_of(process, "id"));
    number_of(s, "cella.signal", process, "signal");
    outcome(s, process);
}
