#include "api/mcp/version.h"

#include <string.h>

#include "api/json_text.h"

static const char *const texts[] = {
    [MCP_UNKNOWN] = "",
    [MCP_2025_03_26] = "2025-03-26",
    [MCP_2025_06_18] = "2025-06-18",
    [MCP_2025_11_25] = "2025-11-25",
    [MCP_2026_07_28] = "2026-07-28",
};

enum mcp_version mcp_version_of(const char *text) {
    for (int i = MCP_2025_03_26; text && i <= MCP_2026_07_28; i++)
        if (strcmp(texts[i], text) == 0) return (enum mcp_version)i;
    return MCP_UNKNOWN;
}

const char *mcp_version_text(enum mcp_version v) { return texts[v]; }

enum mcp_version mcp_version_agreed(const char *asked) {
    enum mcp_version v = mcp_version_of(asked);
    return v == MCP_UNKNOWN || v > MCP_NEWEST_WITH_SESSIONS ? MCP_NEWEST_WITH_SESSIONS : v;
}

bool mcp_version_batches(enum mcp_version v) { return v == MCP_2025_03_26; }

bool mcp_is_stateless(const struct rpc_message *m, const struct mcp_headers *h) {
    if (json_field(m->meta, MCP_META_VERSION)) return true;
    return h->version && mcp_version_of(h->version) == MCP_2026_07_28;
}

/* The 6 bits of a base64 character, or -1. */
static int sextet(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Is this base64 of exactly these bytes? */
static bool decodes_to(const char *encoded, size_t n, const char *text) {
    size_t length = strlen(text), at = 0;
    unsigned bits = 0, have = 0;
    while (n && encoded[n - 1] == '=') n--;
    for (size_t i = 0; i < n; i++) {
        int six = sextet(encoded[i]);
        if (six < 0) return false;
        bits = (bits << 6 | (unsigned)six) & 0xffff;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        if (at >= length || (char)(bits >> have & 0xff) != text[at]) return false;
        at++;
    }
    return at == length;
}

bool mcp_header_is(const char *header, const char *text) {
    static const char head[] = "=?base64?", tail[] = "?=";
    size_t n = strlen(header), h = sizeof head - 1, t = sizeof tail - 1;
    if (n >= h + t && strncmp(header, head, h) == 0 && strcmp(header + n - t, tail) == 0)
        return decodes_to(header + h, n - h - t, text);
    return strcmp(header, text) == 0;
}

static const char *text_field(struct json_object *o, const char *name) {
    struct json_object *v = json_field(o, name);
    return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

static int say(const char **why, int code, const char *text) {
    *why = text;
    return code;
}

int mcp_stateless_check(const struct rpc_message *m, const struct mcp_headers *h, const char **why) {
    const char *version = text_field(m->meta, MCP_META_VERSION), *name = text_field(m->params, "name");
    if (!version) return say(why, RPC_PARAMS, "params._meta must name the protocol version");
    if (!h->version || strcmp(h->version, version) != 0)
        return say(why, RPC_HEADERS, "the header MCP-Protocol-Version and params._meta must name the same version");
    if (mcp_version_of(version) != MCP_2026_07_28)
        return say(why, RPC_VERSION, "this protocol version is not supported");
    if (!json_object_is_type(json_field(m->meta, MCP_META_CAPABILITIES), json_type_object))
        return say(why, RPC_PARAMS, "params._meta must tell the client's capabilities");
    if (!h->method || !mcp_header_is(h->method, m->method))
        return say(why, RPC_HEADERS, "the header Mcp-Method must repeat the method");
    if (strcmp(m->method, "tools/call") == 0 && (!h->name || !name || !mcp_header_is(h->name, name)))
        return say(why, RPC_HEADERS, "the header Mcp-Name must repeat the name of the tool");
    return 0;
}
