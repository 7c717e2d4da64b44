/* version.h: the protocol versions of MCP that are spoken here, and what a request of the newest one must carry. Pure.
 *
 * The older ones begin with `initialize` and keep a session by its header. 2026-07-28 has neither: every request says
 * in params._meta which version it is, and repeats that, its method and its tool in headers. */
#pragma once
#include "api/mcp/rpc.h"

enum mcp_version { MCP_UNKNOWN, MCP_2025_03_26, MCP_2025_06_18, MCP_2025_11_25, MCP_2026_07_28 };

#define MCP_NEWEST_WITH_SESSIONS MCP_2025_11_25
#define MCP_META_VERSION "io.modelcontextprotocol/protocolVersion"
#define MCP_META_CAPABILITIES "io.modelcontextprotocol/clientCapabilities"
#define MCP_META_SERVER "io.modelcontextprotocol/serverInfo"

enum mcp_version mcp_version_of(const char *text); /* NULL: unknown */
const char *mcp_version_text(enum mcp_version);
/* The answer to an `initialize` that asks for this one: it, or the newest one of its kind. */
enum mcp_version mcp_version_agreed(const char *asked);
/* Only 2025-03-26 has lists of messages. */
bool mcp_version_batches(enum mcp_version);

/* Headers of a request as they came; NULL: missing. */
struct mcp_headers {
    const char *version, *method, *name;
};
/* Is it a request of 2026-07-28, or of a later one that works the same way? By its header or its _meta. */
bool mcp_is_stateless(const struct rpc_message *, const struct mcp_headers *);
/* Does it carry what it must? 0, or the error's code with a literal in *why. */
int mcp_stateless_check(const struct rpc_message *, const struct mcp_headers *, const char **why);
/* Does a header value name the same as text? It may be written =?base64?…?= . */
bool mcp_header_is(const char *header, const char *text);
