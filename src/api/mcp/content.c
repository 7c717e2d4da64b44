#include "api/mcp/content.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_text.h"
#include "api/utf8.h"
#include "base/buf.h"

struct json_object *content_new(void) {
    struct json_object *o = json_object_new_object();
    json_set(o, "content", json_object_new_array());
    return o;
}

static struct json_object *text_block(const char *text, size_t n) {
    struct json_object *block = json_object_new_object();
    json_set_text(block, "type", "text");
    json_set(block, "text", json_object_new_string_len(text, (int)n));
    return block;
}

void content_add_text(struct json_object *result, const char *text, size_t n) {
    if (n) json_object_array_add(json_field(result, "content"), text_block(text, n));
}

void content_add_image(struct json_object *result, const char *base64, const char *mime) {
    struct json_object *block = json_object_new_object();
    json_set_text(block, "type", "image");
    json_set_text(block, "data", base64);
    json_set_text(block, "mimeType", mime);
    json_object_array_add(json_field(result, "content"), block);
}

struct json_object *content_text(const char *text) {
    struct json_object *o = content_new();
    content_add_text(o, text, strlen(text));
    return o;
}

struct json_object *content_json(struct json_object *taken) {
    struct json_object *o =
        content_text(json_object_to_json_string_ext(taken, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_set(o, "structuredContent", taken);
    return o;
}

struct json_object *content_failed(const struct err *e) {
    struct buf b = {0};
    struct utf8_tail tail = {0};
    utf8_clean(&tail, e->text, strlen(e->text), true, &b);
    if (e->hint) buf_printf(&b, "\n%s", e->hint);
    struct json_object *o = content_new();
    content_add_text(o, b.data, b.len);
    json_set_flag(o, "isError", true);
    buf_free(&b);
    return o;
}

static void about(struct json_object *result, const char *name, const char *value) {
    struct json_object *meta = json_field(result, "_meta");
    if (!meta) json_set(result, "_meta", meta = json_object_new_object());
    json_set_text(meta, name, value);
}

void content_about_trace(struct json_object *result, const char *traceparent) {
    about(result, "traceparent", traceparent);
}

void content_about(struct json_object *result, const char *sandbox, bool made) {
    about(result, "cella/sandbox", sandbox);
    if (!made) return;
    struct buf b = {0};
    buf_printf(&b, "A new sandbox was made: %s. Give it as `sandbox` to go on in it.", sandbox);
    struct json_object *old = json_field(result, "content"), *all = json_object_new_array();
    json_object_array_add(all, text_block(b.data, b.len));
    for (size_t i = 0; i < json_object_array_length(old); i++)
        json_object_array_add(all, json_object_get(json_object_array_get_idx(old, i)));
    json_set(result, "content", all);
    buf_free(&b);
}

/* ---- executions ---- */

static const char *text_of(struct json_object *o, const char *name, size_t *n) {
    struct json_object *v = json_field(o, name);
    *n = json_object_is_type(v, json_type_string) ? (size_t)json_object_get_string_len(v) : 0;
    return *n ? json_object_get_string(v) : "";
}

static void add_stream(struct json_object *out, struct json_object *execution, const char *name, const char *head) {
    size_t n;
    const char *text = text_of(execution, name, &n);
    struct buf b = {0};
    if (n) {
        buf_str(&b, head);
        buf_append(&b, text, n);
    }
    struct json_object *cut = json_field(json_field(json_field(execution, "truncated"), name), "dropped_bytes");
    if (cut) buf_printf(&b, "\n[%s is cut: %lld bytes are missing]", name, (long long)json_object_get_int64(cut));
    content_add_text(out, b.data, b.len);
    buf_free(&b);
}

/* One value: its picture if there is one that models can see, else its text, else the first text there is. */
static void add_value(struct json_object *out, struct json_object *data) {
    static const char *const pictures[] = {"image/png", "image/jpeg", "image/gif", "image/webp"};
    static const char *const texts[] = {"text/plain", "text/markdown", "application/json",
                                        "text/latex", "text/html",     "image/svg+xml"};
    struct json_object *v;
    for (size_t i = 0; i < sizeof pictures / sizeof *pictures; i++)
        if (json_object_is_type(v = json_field(data, pictures[i]), json_type_string)) {
            content_add_image(out, json_object_get_string(v), pictures[i]);
            return;
        }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if ((v = json_field(data, texts[i]))) {
            const char *text = json_object_get_string(v);
            content_add_text(out, text, strlen(text));
            return;
        }
}

/* Without the colours that a terminal would show. */
static void put_plain(struct buf *b, const char *text) {
    while (*text) {
        size_t n = strcspn(text, "\033");
        buf_append(b, text, n);
        text += n;
        if (*text != '\033') break;
        text++;
        if (*text != '[') continue;
        text++;
        text += strspn(text, "0123456789;?");
        if (*text) text++;
    }
}

static void add_error(struct json_object *out, struct json_object *error) {
    struct json_object *trace = json_field(error, "traceback");
    struct buf b = {0};
    if (json_object_is_type(trace, json_type_array))
        for (size_t i = 0; i < json_object_array_length(trace); i++) {
            put_plain(&b, json_object_get_string(json_object_array_get_idx(trace, i)));
            buf_str(&b, "\n");
        }
    else if (trace)
        put_plain(&b, json_object_get_string(trace));
    if (!b.len) {
        const char *name = json_object_get_string(json_field(error, "name")),
                   *value = json_object_get_string(json_field(error, "value"));
        put_plain(&b, name ? name : "error");
        buf_str(&b, ": ");
        put_plain(&b, value ? value : "");
    }
    content_add_text(out, b.data, b.len);
    buf_free(&b);
}

static const char *meaning(const char *exit) {
    static const char *const table[][2] = {
        {"timeout",
         "The time limit was reached and the code was interrupted. Variables and files are as it left them."},
        {"interrupted", "The code was interrupted. Variables and files are as it left them."},
        {"oom", "The sandbox ran out of memory."},
        {"killed", "The code was killed."},
        {"lost", "The connection to the code was lost: whether it ended, and how, is not known."}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i][0], exit) == 0) return table[i][1];
    return "";
}

struct json_object *content_execution(struct json_object *execution) {
    struct json_object *out = content_new(), *results = json_field(execution, "results"),
                       *error = json_field(execution, "error");
    struct json_object *meta = json_object_new_object(), *code = json_field(execution, "exit_code");
    const char *exit = json_object_get_string(json_field(execution, "exit"));
    if (!exit) exit = "lost";
    add_stream(out, execution, "stdout", "");
    add_stream(out, execution, "stderr", "stderr:\n");
    for (size_t i = 0; i < json_object_array_length(results); i++)
        add_value(out, json_field(json_object_array_get_idx(results, i), "data"));
    if (error) add_error(out, error);
    content_add_text(out, meaning(exit), strlen(meaning(exit)));
    if (code && json_object_get_int(code) != 0) {
        char text[48];
        content_add_text(out, text, (size_t)snprintf(text, sizeof text, "exit code %d", json_object_get_int(code)));
    }
    if (json_object_get_boolean(json_field(execution, "context_restarted"))) {
        static const char said[] = "The interpreter was started again: its variables are gone, files are still there.";
        content_add_text(out, said, sizeof said - 1);
    }
    if (!json_object_array_length(json_field(out, "content"))) content_add_text(out, "(no output)", 11);
    bool failed = strcmp(exit, "ok") != 0 || error || (code && json_object_get_int(code) != 0);
    if (failed) json_set_flag(out, "isError", true);
    json_set_text(meta, "cella/exit", exit);
    json_set(out, "_meta", meta);
    return out;
}

/* ---- files ---- */

static const char *picture_type(const unsigned char *p, size_t n) {
    if (n > 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0) return "image/png";
    if (n > 3 && memcmp(p, "\xff\xd8\xff", 3) == 0) return "image/jpeg";
    if (n > 6 && (memcmp(p, "GIF87a", 6) == 0 || memcmp(p, "GIF89a", 6) == 0)) return "image/gif";
    if (n > 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0) return "image/webp";
    return NULL;
}

static char *base64(const void *bytes, size_t n) {
    char *text = malloc(n / 3 * 4 + 8);
    if (!text) abort();
    text[EVP_EncodeBlock((unsigned char *)text, bytes, (int)n)] = 0;
    return text;
}

static struct json_object *blob(const char *path, const void *bytes, size_t n) {
    struct json_object *out = content_new(), *block = json_object_new_object(), *resource = json_object_new_object();
    struct buf uri = {0};
    char *text = base64(bytes, n);
    buf_str(&uri, path[0] == '/' ? "file://" : "file:///workspace/");
    for (const unsigned char *p = (const unsigned char *)path; *p; p++)
        if (*p > 0x20 && *p < 0x7f && !strchr("%\"<>\\^`{|}#?", *p))
            buf_append(&uri, p, 1);
        else
            buf_printf(&uri, "%%%02X", *p);
    json_set_text(resource, "uri", uri.data);
    json_set_text(resource, "mimeType", "application/octet-stream");
    json_set_text(resource, "blob", text);
    json_set_text(block, "type", "resource");
    json_set(block, "resource", resource);
    json_object_array_add(json_field(out, "content"), block);
    buf_free(&uri);
    free(text);
    return out;
}

struct json_object *content_file(const char *path, const void *bytes, size_t n, long long offset, bool more) {
    struct json_object *out;
    const char *picture = offset || more ? NULL : picture_type(bytes, n);
    size_t whole = n; /* a character that the limit cut waits for the next part */
    for (size_t i = 0; more && i < 3 && whole && !utf8_valid(bytes, whole); i++) whole--;
    if (picture) {
        char *text = base64(bytes, n);
        out = content_new();
        content_add_image(out, text, picture);
        free(text);
        return out;
    }
    if (utf8_valid(bytes, whole) && (!whole || !memchr(bytes, 0, whole))) {
        out = content_new();
        content_add_text(out, bytes, whole);
        if (!whole) content_add_text(out, "(empty)", 7);
        n = whole;
    } else {
        out = blob(path, bytes, n);
    }
    if (!more) return out;
    char text[128];
    content_add_text(
        out, text,
        (size_t)snprintf(text, sizeof text, "[the file goes on: read it with offset %lld]", offset + (long long)n));
    return out;
}
