#include "cli/websocket.h"

#include <curl/curl.h>
#include <errno.h>
#include <json-c/json.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <wslay/wslay.h>

#include "base/clock.h"
#include "base/id.h"
#include "cli/client.h"

#define HANDSHAKE_MAX 16384
#define HANDSHAKE_MS 10000
#define MESSAGE_MAX (1u << 20)
#define PROTOCOL_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455, section 1.3 */

struct websocket {
    CURL *curl;
    curl_socket_t fd;
    wslay_event_context_ptr frames;
    struct buf early; /* bytes that came with the handshake's answer */
    size_t early_used;
    bool ended;
    char hint[256];
    void (*on_message)(void *arg, bool text, const char *bytes, size_t n);
    void *arg;
};

/* ---- wslay's callbacks ---- */

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *to, size_t room, int flags, void *arg) {
    struct websocket *w = arg;
    (void)flags;
    size_t n = w->early.len - w->early_used;
    if (n > 0) {
        if (n > room) n = room;
        memcpy(to, w->early.data + w->early_used, n);
        w->early_used += n;
        return (ssize_t)n;
    }
    CURLcode code = curl_easy_recv(w->curl, to, room, &n);
    if (code == CURLE_OK && n > 0) return (ssize_t)n;
    if (code != CURLE_AGAIN) w->ended = true;
    wslay_event_set_error(ctx, code == CURLE_AGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *bytes, size_t n, int flags, void *arg) {
    struct websocket *w = arg;
    size_t sent = 0;
    (void)flags;
    CURLcode code = curl_easy_send(w->curl, bytes, n, &sent);
    if (code == CURLE_OK) return (ssize_t)sent;
    if (code != CURLE_AGAIN) w->ended = true;
    wslay_event_set_error(ctx, code == CURLE_AGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static int on_mask(wslay_event_context_ptr ctx, uint8_t *bytes, size_t n, void *arg) {
    (void)ctx, (void)arg;
    random_fill(bytes, n);
    return 0;
}

static void on_whole(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m, void *arg) {
    struct websocket *w = arg;
    (void)ctx;
    if (!wslay_is_ctrl_frame(m->opcode))
        w->on_message(w->arg, m->opcode == WSLAY_TEXT_FRAME, (const char *)m->msg, m->msg_length);
}

/* ---- handshake ---- */

static void base64(const unsigned char *bytes, int n, char *out) { EVP_EncodeBlock((unsigned char *)out, bytes, n); }

static void accept_of(const char *key, char out[32]) {
    struct buf joined = {0};
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    buf_printf(&joined, "%s" PROTOCOL_GUID, key);
    EVP_Digest(joined.data, joined.len, digest, &length, EVP_sha1(), NULL);
    base64(digest, (int)length, out);
    buf_free(&joined);
}

static int send_all(struct websocket *w, const struct buf *request, struct err *e) {
    for (size_t done = 0; done < request->len;) {
        size_t sent = 0;
        CURLcode code = curl_easy_send(w->curl, request->data + done, request->len - done, &sent);
        if (code != CURLE_OK && code != CURLE_AGAIN)
            return err_set(e, ERR_LOST, "the connection broke: %s", curl_easy_strerror(code));
        done += sent;
        struct pollfd p = {.fd = w->fd, .events = POLLOUT};
        if (code == CURLE_AGAIN) poll(&p, 1, 1000);
    }
    return 0;
}

/* The end of the answer's header in w->early, or NULL; reads until then. */
static char *read_header(struct websocket *w, struct err *e) {
    int64_t until = monotonic_ms() + HANDSHAKE_MS;
    while (w->early.len < HANDSHAKE_MAX) {
        char *end = w->early.data ? strstr(w->early.data, "\r\n\r\n") : NULL;
        if (end) return end + 4;
        char piece[4096];
        size_t n = 0;
        CURLcode code = curl_easy_recv(w->curl, piece, sizeof piece, &n);
        if (code == CURLE_OK && n > 0) {
            buf_append(&w->early, piece, n);
            continue;
        }
        if (code != CURLE_AGAIN || monotonic_ms() > until) break;
        struct pollfd p = {.fd = w->fd, .events = POLLIN};
        poll(&p, 1, 1000);
    }
    (void)err_set(e, ERR_LOST, "the daemon did not answer the upgrade to a WebSocket");
    return NULL;
}

/* The daemon said no: its error is JSON after the header. */
static int refused(struct websocket *w, size_t header, struct err *e) {
    for (int tries = 0; tries < 20; tries++) { /* the body may come a moment later */
        char piece[4096];
        size_t n = 0;
        CURLcode code = curl_easy_recv(w->curl, piece, sizeof piece, &n);
        if (code == CURLE_OK && n == 0) break;
        if (code == CURLE_OK) buf_append(&w->early, piece, n);
        if (code != CURLE_OK && code != CURLE_AGAIN) break;
        if (w->early.len > header && w->early.data[w->early.len - 1] == '}') break;
        struct pollfd p = {.fd = w->fd, .events = POLLIN};
        poll(&p, 1, 100);
    }
    int status = 0;
    (void)sscanf(w->early.data, "HTTP/1.%*d %d", &status);
    return client_error_of(w->early.data + header, status, w->hint, sizeof w->hint, e);
}

static int handshake(struct websocket *w, const struct cli *cli, const char *path, struct err *e) {
    unsigned char nonce[16];
    char key[32], expected[32];
    random_fill(nonce, sizeof nonce);
    base64(nonce, sizeof nonce, key);
    accept_of(key, expected);
    const char *host = strstr(cli->url, "://");
    host = host ? host + 3 : cli->url;
    struct buf request = {0};
    buf_printf(&request,
               "GET %s HTTP/1.1\r\nHost: %.*s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: "
               "13\r\nSec-WebSocket-Key: %s\r\n",
               path, (int)strcspn(host, "/"), host, key);
    if (cli->key) buf_printf(&request, "Authorization: Bearer %s\r\n", cli->key);
    buf_str(&request, "\r\n");
    int result = send_all(w, &request, e);
    buf_free(&request);
    char *end = result == 0 ? read_header(w, e) : NULL;
    if (!end) return -1;
    size_t header = (size_t)(end - w->early.data);
    if (strncmp(w->early.data, "HTTP/1.1 101", 12) != 0) return refused(w, header, e);
    const char *accepted = strcasestr(w->early.data, "\r\nsec-websocket-accept:");
    if (!accepted || accepted >= end ||
        strncmp(accepted + 23 + strspn(accepted + 23, " "), expected, strlen(expected)) != 0)
        return err_set(e, ERR_INTERNAL, "the daemon's answer to the WebSocket upgrade is wrong");
    w->early_used = header;
    return 0;
}

static int connect_to(struct websocket *w, const struct cli *cli, struct err *e) {
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(w->curl = curl_easy_init()))
        return err_set(e, ERR_INTERNAL, "the HTTP library did not start");
    curl_easy_setopt(w->curl, CURLOPT_URL, cli->url);
    curl_easy_setopt(w->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(w->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(w->curl, CURLOPT_SSL_ENABLE_ALPN, 0L);
    curl_easy_setopt(w->curl, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(w->curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(w->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(w->curl, CURLOPT_TCP_NODELAY, 1L);
    CURLcode code = curl_easy_perform(w->curl);
    if (code != CURLE_OK)
        return err_hint(e, CLI_UNREACHABLE, "start it with `sudo cella up -d`, or set CELLA_URL to where it runs",
                        "no daemon answers at %s (%s)", cli->url, curl_easy_strerror(code));
    curl_easy_getinfo(w->curl, CURLINFO_ACTIVESOCKET, &w->fd);
    return 0;
}

struct websocket *websocket_open(const struct cli *cli, const char *path, struct err *e) {
    static const struct wslay_event_callbacks callbacks = {.recv_callback = on_recv,
                                                           .send_callback = on_send,
                                                           .genmask_callback = on_mask,
                                                           .on_msg_recv_callback = on_whole};
    struct websocket *w = calloc(1, sizeof *w);
    if (!w) abort();
    if (client_url_check(cli, e) < 0 || connect_to(w, cli, e) < 0 || handshake(w, cli, path, e) < 0) {
        static char hint[256]; /* outlives the socket whose answer it was */
        if (e->hint == w->hint) e->hint = strcpy(hint, w->hint);
        websocket_close(w);
        return NULL;
    }
    wslay_event_context_client_init(&w->frames, &callbacks, w);
    wslay_event_config_set_max_recv_msg_length(w->frames, MESSAGE_MAX);
    return w;
}

int websocket_fd(const struct websocket *w) { return w->fd; }
bool websocket_wants_write(const struct websocket *w) { return wslay_event_want_write(w->frames); }

int websocket_send(struct websocket *w, bool text, const void *bytes, size_t n, struct err *e) {
    struct wslay_event_msg message = {
        .opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, .msg = bytes, .msg_length = n};
    return wslay_event_queue_msg(w->frames, &message) == 0 ? 0 : err_set(e, ERR_LOST, "the connection is closing");
}

int websocket_turn(struct websocket *w, void (*on_message)(void *arg, bool text, const char *bytes, size_t n),
                   void *arg, struct err *e) {
    w->on_message = on_message;
    w->arg = arg;
    if (wslay_event_want_write(w->frames) && wslay_event_send(w->frames) != 0 && !w->ended)
        return err_set(e, ERR_LOST, "the WebSocket broke");
    if (wslay_event_want_read(w->frames) && wslay_event_recv(w->frames) != 0 && !w->ended)
        return err_set(e, ERR_LOST, "the WebSocket broke");
    return w->ended || wslay_event_get_close_received(w->frames) ? 1 : 0;
}

void websocket_close(struct websocket *w) {
    if (w->frames) wslay_event_context_free(w->frames);
    if (w->curl) curl_easy_cleanup(w->curl);
    buf_free(&w->early);
    free(w);
}
