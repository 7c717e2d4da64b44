#include "api/guard.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

#include "api/host_name.h"
#include "api/http_internal.h"
#include "base/log.h"
#include "tenant/keys.h"

static enum MHD_Result add_sizes(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    size_t *sum = arg;
    (void)kind;
    *sum += strlen(name) + (value ? strlen(value) : 0) + 4;
    return MHD_YES;
}

int guard_size(struct request *rq, unsigned *status, struct err *e) {
    size_t sum = 0;
    if (strlen(rq->uri) > URL_MAX) {
        *status = 414;
        return err_set(e, ERR_TOO_LARGE, "the URL is longer than %d bytes", URL_MAX);
    }
    MHD_get_connection_values(rq->conn, MHD_HEADER_KIND, add_sizes, &sum);
    if (sum > HEADERS_MAX) {
        *status = 431;
        return err_set(e, ERR_TOO_LARGE, "the headers are longer than %d bytes", HEADERS_MAX);
    }
    return 0;
}

/* The address this connection came to, as text: a browser cannot be talked into sending another literal. */
static bool is_own_address(struct request *rq, const char *host) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char text[INET6_ADDRSTRLEN] = "";
    if (!rq->peer || getsockname(rq->peer->fd, (void *)&a, &n) < 0) return false;
    if (a.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)&a)->sin_addr, text, sizeof text);
    else if (a.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)(void *)&a)->sin6_addr, text, sizeof text);
    return strcmp(text, host) == 0;
}

static bool host_allowed(struct request *rq, const char *host) {
    struct api *api = api_of(rq);
    if (host_is_loopback(host)) return true;
    host = host_behind_sandbox(host); /* who may be called NAME may be asked for {port}-{id}.NAME */
    for (unsigned i = 0; i < api->allowed_hosts_count; i++)
        if (strcasecmp(api->allowed_hosts[i], host) == 0) return true;
    return is_own_address(rq, host);
}

int guard_host(struct request *rq, struct err *e) {
    char host[256];
    int port;
    const char *text = request_header(rq, MHD_HTTP_HEADER_HOST), *origin = request_header(rq, MHD_HTTP_HEADER_ORIGIN);
    if (!text) { /* HTTP/1.0 only: libmicrohttpd refuses 1.1 without it. No browser sends that. */
        if (!origin) return 0;
        return err_set(e, ERR_FORBIDDEN, "an Origin without a Host is not accepted");
    }
    if (request_header_count(rq, MHD_HTTP_HEADER_HOST) > 1 || !host_split(text, host, &port))
        return err_set(e, ERR_INVALID, "the Host header is malformed");
    if (!host_allowed(rq, host))
        return err_hint(e, ERR_FORBIDDEN, "use 127.0.0.1 or localhost, or start the daemon with --allowed-host NAME",
                        "this daemon does not answer to the name \"%.100s\"", host);
    if (origin && !host_is_origin(origin, host, port))
        return err_hint(e, ERR_FORBIDDEN, "only pages of the daemon itself may call it from a browser",
                        "requests from web pages of another origin are refused");
    return 0;
}

/* X-API-Key, "Bearer KEY", or ?token= for WebSockets, whose clients in browsers can set no header. */
static const char *key_of(struct request *rq) {
    const char *authorization = request_header(rq, MHD_HTTP_HEADER_AUTHORIZATION), *key = request_header(rq, "X-API-Key");
    if (key) return key; /* first: some clients send a token of another service as Bearer besides */
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0) {
        authorization += 7;
        return authorization + strspn(authorization, " ");
    }
    return request_header(rq, MHD_HTTP_HEADER_UPGRADE) ? request_query(rq, "token") : NULL;
}

int guard_key(struct request *rq, enum route_auth auth, struct err *e) {
    struct api *api = api_of(rq);
    bool direct = rq->local && !request_header(rq, "Forwarded") && !request_header(rq, "X-Forwarded-For") &&
                  !request_header(rq, "Via");
    rq->local = direct;
    if (auth == AUTH_OPEN) return 0;
    if (auth == AUTH_LOCAL && !direct)
        return err_hint(e, ERR_FORBIDDEN, "run `cella key` on the daemon's own machine",
                        "keys are managed on the daemon's own machine only");
    /* A daemon that asks for keys and has none would be shut for ever: the first one is made without. */
    if (auth == AUTH_LOCAL && !keys_any(api->keys)) return 0;
    bool needed = api->require_key || (api->beyond_loopback && !direct) || (!direct && keys_any(api->keys));
    const char *key = key_of(rq);
    if (key && keys_check(api->keys, key, rq->key_id, sizeof rq->key_id)) return 0;
    if (key && !needed && !keys_any(api->keys)) return 0; /* clients that always send some key work out of the box */
    if (key) return err_hint(e, ERR_UNAUTHORIZED, "make one with `cella key create NAME`", "invalid api key");
    if (!needed) return 0;
    return err_hint(e, ERR_UNAUTHORIZED, "send Authorization: Bearer cella_…; make a key with `cella key create NAME`",
                    "this daemon asks for an API key");
}
