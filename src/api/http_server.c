#include "api/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/http_internal.h"
#include "api/reply.h"
#include "base/cleanup.h"
#include "base/log.h"

/* Of a connection's 16 KiB half at first holds the request's head, the rest its growth and the response's head:
 * 8 KiB (13 MB for 1,000 idle connections) was too small for a 4 KiB path next to a proxy's headers. */
#define CONNECTION_MEMORY (16u * 1024)
/* libmicrohttpd runs at most this often in a row before other handles of the loop get their turn. */
#define RUNS_IN_A_ROW 8

void http_config_defaults(struct http_config *c) {
    *c = (struct http_config){
        .listen = "127.0.0.1:7070",
        .connections_max = 4096,
        .header_timeout_ms = 10000,
        .body_timeout_ms = 30000,
        .idle_timeout_ms = 75000,
        .write_timeout_ms = 600000, /* a reader that thinks for minutes between two lines is a use, not an attack */
    };
}

bool http_address_is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24) == 127;
    if (a->sa_family != AF_INET6) return false;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

int http_parse_listen(const char *text, struct sockaddr_storage *out, socklen_t *length, struct err *e) {
    char host[64];
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (!colon || !colon[1] || *end || port > 65535 || colon[1] == '-' || n >= sizeof host)
        return err_hint(e, ERR_INVALID, "write ADDR:PORT, for example 127.0.0.1:7070",
                        "\"%.64s\" is no address to listen on", text);
    memcpy(host, text, n);
    host[n] = 0;
    if (!strcmp(host, "localhost")) strcpy(host, "127.0.0.1");
    *out = (struct sockaddr_storage){0};
    struct sockaddr_in *four = (void *)out;
    struct sockaddr_in6 *six = (void *)out;
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = 0;
        if (inet_pton(AF_INET6, host + 1, &six->sin6_addr) == 1) {
            six->sin6_family = AF_INET6;
            six->sin6_port = htons((uint16_t)port);
            *length = sizeof *six;
            return 0;
        }
    } else if (inet_pton(AF_INET, n ? host : "0.0.0.0", &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        *length = sizeof *four;
        return 0;
    }
    return err_hint(e, ERR_INVALID, "names are not looked up: give the IP address", "\"%.64s\" is no IP address", host);
}

static int listen_on(struct http_server *s, struct err *e) {
    struct sockaddr_storage address;
    socklen_t length;
    if (http_parse_listen(s->config.listen, &address, &length, e) < 0) return -1;
    cleanup_close int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_sys(e, errno, "make a socket");
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
    if (bind(fd, (void *)&address, length) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (void *)&address, &length) < 0)
        return err_sys(e, errno, "listen on %s", s->config.listen);
    s->port = ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)(void *)&address)->sin_port
                                                 : ((struct sockaddr_in6 *)(void *)&address)->sin6_port);
    s->listen_fd = steal_fd(&fd);
    return 0;
}

static void library_log(void *arg, const char *fmt, va_list ap) {
    (void)arg;
    char text[512];
    (void)vsnprintf(text, sizeof text, fmt, ap);
    log_debug("http: %s", text);
}

/* The server decodes paths and queries itself (query.h): libmicrohttpd shall leave them alone. */
static size_t leave_escaped(void *arg, struct MHD_Connection *conn, char *text) {
    (void)arg;
    (void)conn;
    return strlen(text);
}

/* An active idle handle makes the loop look at its descriptors without waiting, and the check handle then runs
 * libmicrohttpd. That is what "kicked" needs: in external polling nothing else tells of a resumed connection. */
static void on_idle(uv_idle_t *idle) { (void)idle; }

static void idle_set(struct http_server *s, bool on) {
    if (s->idling == on) return;
    s->idling = on;
    if (on)
        uv_idle_start(&s->idle, on_idle);
    else
        uv_idle_stop(&s->idle);
}

static void run(struct http_server *s) {
    if (s->in_run || !s->daemon) return;
    s->in_run = true;
    bool more = true;
    for (int i = 0; more && i < RUNS_IN_A_ROW; i++) {
        MHD_UNSIGNED_LONG_LONG wait;
        s->kicked = false;
        (void)MHD_run(s->daemon);
        more = s->kicked || (MHD_get_timeout(s->daemon, &wait) == MHD_YES && wait == 0);
    }
    s->in_run = false;
    s->kicked = more;
    idle_set(s, more);
}

static void on_epoll(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    run(poll->data);
}
static void on_check(uv_check_t *check) {
    struct http_server *s = check->data;
    if (s->kicked) run(s);
}
void http_server_kick(struct http_server *s) {
    s->kicked = true;
    if (!s->in_run) idle_set(s, true);
}

static void start_daemon(struct http_server *s) {
    const struct http_config *c = &s->config;
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_TURBO | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        request_access, s, MHD_OPTION_EXTERNAL_LOGGER, library_log, s, MHD_OPTION_LISTEN_SOCKET, s->listen_fd,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT, c->connections_max,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, c->per_address_max, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)(c->write_timeout_ms / 1000), MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK,
        leave_escaped, NULL, MHD_OPTION_URI_LOG_CALLBACK, request_first_line, s, MHD_OPTION_NOTIFY_COMPLETED,
        request_completed, s, MHD_OPTION_NOTIFY_CONNECTION, http_peer_notice, s, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_END);
}

struct http_server *http_server_open(const struct http_config *config, struct err *e) {
    struct http_server *s = calloc(1, sizeof *s);
    if (!s) abort();
    s->config = *config;
    s->listen_fd = -1;
    if (listen_on(s, e) < 0) {
        free(s);
        return NULL;
    }
    start_daemon(s);
    const union MHD_DaemonInfo *info = s->daemon ? MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        err_set(e, ERR_INTERNAL, "libmicrohttpd did not start");
        close_fd(&s->listen_fd);
        free(s);
        return NULL;
    }
    s->poll.data = s->check.data = s->idle.data = s->tick.data = s->watch.data = s;
    uv_poll_init(config->loop, &s->poll, info->epoll_fd);
    uv_poll_start(&s->poll, UV_READABLE, on_epoll);
    uv_check_init(config->loop, &s->check);
    uv_check_start(&s->check, on_check);
    uv_idle_init(config->loop, &s->idle);
    uv_timer_init(config->loop, &s->tick);
    uv_timer_init(config->loop, &s->watch);
    http_server_kick(s); /* puts the listening socket into libmicrohttpd's set */
    run(s);
    return s;
}

int http_server_port(const struct http_server *s) { return s->port; }
unsigned http_server_connections(const struct http_server *s) { return s->peers_count; }
bool http_server_closing(const struct http_server *s) { return s->closing; }

void http_server_close(struct http_server *s) {
    s->closing = true;
    websocket_close_all(s);
    for (struct http_peer *p = s->peers; p; p = p->next) {
        struct request *rq = p->request;
        if (!rq) continue;
        struct err stopping;
        err_hint(&stopping, ERR_UNAVAILABLE, "cells live on: ask again when the daemon is back",
                 "the daemon is stopping");
        if (rq->stream) {
            request_cut(rq);
            continue;
        }
        if (!rq->reply) request_tell_gone(rq);
        if (!rq->reply) reply_err(rq, &stopping);
    }
    for (int i = 0; i < 4; i++) (void)MHD_run(s->daemon); /* sends what fits without waiting */
    for (struct http_peer *p = s->peers; p; p = p->next)
        if (p->request) request_cut(p->request);
    linger_end_all(&s->lingering);
    struct MHD_Daemon *daemon = s->daemon;
    MHD_stop_daemon(daemon);
    s->daemon = NULL;
    uv_close((uv_handle_t *)&s->poll, NULL);
    uv_close((uv_handle_t *)&s->check, NULL);
    uv_close((uv_handle_t *)&s->idle, NULL);
    uv_close((uv_handle_t *)&s->tick, NULL);
    uv_close((uv_handle_t *)&s->watch, NULL);
}

void http_server_free(struct http_server *s) {
    while (s->requests) request_free(s->requests);
    free(s);
}
