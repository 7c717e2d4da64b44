#include "cli/mcp_message.h"

#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"

#define META_VERSION "io.modelcontextprotocol/protocolVersion"

static struct json_object *parse(const char *text, size_t n) {
    struct json_tokener *t = json_tokener_new_ex(64);
    if (!t) abort();
    struct json_object *o = json_tokener_parse_ex(t, text, (int)n);
    json_tokener_free(t);
    return o;
}

static struct json_object *member(struct json_object *o, const char *name) {
    struct json_object *v = NULL;
    if (json_object_is_type(o, json_type_object)) json_object_object_get_ex(o, name, &v);
    return v;
}

void mcp_message_read(struct mcp_message *m, const char *line, size_t n) {
    *m = (struct mcp_message){.document = parse(line, n)};
    struct json_object *params = member(m->document, "params");
    m->method = json_text(m->document, "method", NULL);
    m->id = m->method ? member(m->document, "id") : NULL;
    m->request = m->id || json_object_is_type(m->document, json_type_array) || !m->document;
    m->initialize = m->method && strcmp(m->method, "initialize") == 0;
    m->version = json_text(member(params, "_meta"), META_VERSION, NULL);
    m->name = m->method && strcmp(m->method, "tools/call") == 0 ? json_text(params, "name", NULL) : NULL;
}

void mcp_message_free(struct mcp_message *m) {
    json_object_put(m->document);
    *m = (struct mcp_message){0};
}

static bool plain(const char *value) {
    size_t n = strlen(value);
    for (size_t i = 0; i < n; i++)
        if (value[i] < 0x20 || value[i] > 0x7e) return false;
    return n && value[0] != ' ' && value[n - 1] != ' ' && strncmp(value, "=?base64?", 9) != 0;
}

void mcp_header(struct buf *line, const char *name, const char *value) {
    buf_printf(line, "%s: ", name);
    if (plain(value)) {
        buf_str(line, value);
        return;
    }
    size_t n = strlen(value);
    char *text = malloc(n / 3 * 4 + 8);
    if (!text) abort();
    (void)EVP_EncodeBlock((unsigned char *)text, (const unsigned char *)value, (int)n);
    buf_printf(line, "=?base64?%s?=", text);
    free(text);
}

void mcp_error(struct buf *out, struct json_object *id, int code, const char *text) {
    struct json_object *o = json_object_new_object(), *error = json_object_new_object();
    json_object_object_add(o, "jsonrpc", json_object_new_string("2.0"));
    json_object_object_add(o, "id", json_object_get(id));
    json_object_object_add(error, "code", json_object_new_int(code));
    json_object_object_add(error, "message", json_object_new_string(text));
    json_object_object_add(o, "error", error);
    buf_str(out, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

void mcp_agreed(const char *answer, size_t n, char *out, size_t room) {
    struct json_object *o = parse(answer, n);
    (void)snprintf(out, room, "%s", json_text(member(o, "result"), "protocolVersion", ""));
    json_object_put(o);
}
