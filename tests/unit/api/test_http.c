/* The HTTP core on a loop of its own, talked to over raw sockets: what a client may do wrong, how streams suspend and
 * resume, how hang-ups are noticed, and a WebSocket. No domain behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "api/http_server.h"
#include "api/reply.h"
#include "api/request.h"
#include "api/stream.h"
#include "api/websocket.h"
#include "base/clock.h"

/* ---- the server ---- */

static uv_loop_t loop;
static uv_async_t stop_it;
static struct http_server *server;
static pthread_t thread;
static int port;
static atomic_int gone_count, over_count, freed_count, opened_count;
static atomic_ullong sunk;

struct slow { /* a sink that takes a little and then wants time; a source that gives in steps */
    struct request *rq;
    struct stream *st;
    uv_timer_t timer;
    uint64_t left;
    size_t room;
    bool full, ended;
};

static void slow_closed(uv_handle_t *h) {
    struct slow *s = h->data;
    request_release(s->rq);
    free(s);
}

static void sink_more(uv_timer_t *t) {
    struct slow *s = t->data;
    s->room = 100000;
    request_sink_ready(s->rq);
}
static size_t sink_write(void *arg, const void *bytes, size_t n) {
    struct slow *s = arg;
    (void)bytes;
    if (n > s->room) n = s->room;
    s->room -= n;
    s->left += n;
    atomic_fetch_add(&sunk, n);
    if (!s->room) uv_timer_start(&s->timer, sink_more, 1, 0);
    return n;
}
static void sink_end(void *arg) {
    struct slow *s = arg;
    struct buf b = {0};
    buf_printf(&b, "%lu", s->left);
    reply_buf(s->rq, 200, "text/plain", &b);
    uv_close((uv_handle_t *)&s->timer, slow_closed);
}
static void sink_gone(void *arg) {
    struct slow *s = arg;
    atomic_fetch_add(&gone_count, 1);
    uv_close((uv_handle_t *)&s->timer, slow_closed);
}

static struct slow *slow_new(struct request *rq) {
    struct slow *s = calloc(1, sizeof *s);
    s->rq = request_hold(rq);
    uv_timer_init(&loop, &s->timer);
    s->timer.data = s;
    s->room = 100000;
    return s;
}

static void begin(struct request *rq) {
    struct err e;
    rq->body_policy = BODY_JSON;
    if (strcmp(rq->path, "/refuse") == 0) {
        err_set(&e, ERR_FORBIDDEN, "no");
        reply_err(rq, &e);
    }
    if (strcmp(rq->path, "/sink") == 0) {
        struct slow *s = slow_new(rq);
        rq->body_policy = BODY_STREAM;
        rq->sink = (struct body_sink){sink_write, sink_end, s};
        rq->gone = sink_gone;
        rq->gone_arg = s;
    }
}

static void give(uv_timer_t *t) {
    static char block[50000];
    struct slow *s = t->data;
    while (s->left && !stream_full(s->st)) {
        size_t n = s->left < sizeof block ? s->left : sizeof block;
        stream_write(s->st, block, n);
        s->left -= n;
    }
    if (s->left || s->ended) return;
    s->ended = true;
    stream_end(s->st);
    uv_close((uv_handle_t *)&s->timer, slow_closed);
}
static void give_drained(void *arg) { uv_timer_start(&((struct slow *)arg)->timer, give, 1, 0); }
static void give_gone(void *arg) {
    struct slow *s = arg;
    atomic_fetch_add(&gone_count, 1);
    uv_close((uv_handle_t *)&s->timer, slow_closed);
}
static const struct stream_ops give_ops = {.drained = give_drained, .gone = give_gone};

static void hold_gone(void *arg) {
    atomic_fetch_add(&gone_count, 1);
    reply_text(arg, 200, "text/plain", "too late");
}

static void ws_opened(void *arg, struct websocket *ws) {
    (void)arg;
    (void)ws;
    atomic_fetch_add(&opened_count, 1);
}
static void ws_message(void *arg, struct websocket *ws, bool text, const uint8_t *bytes, size_t n) {
    (void)arg;
    if (n == 3 && memcmp(bytes, "bye", 3) == 0)
        websocket_finish(ws, 1000, "bye");
    else
        websocket_send(ws, text, bytes, n);
}
static void ws_closed(void *arg) {
    (void)arg;
    atomic_fetch_add(&gone_count, 1);
}
static const struct websocket_ops ws_ops = {ws_opened, ws_message, NULL, ws_closed};

static void run(struct request *rq) {
    if (strncmp(rq->path, "/give/", 6) == 0 || strncmp(rq->path, "/short/", 7) == 0) {
        bool cheat = rq->path[1] == 's';
        struct slow *s = slow_new(rq);
        s->left = strtoull(strrchr(rq->path, '/') + 1, NULL, 10);
        s->st = stream_open(rq, 200, "application/octet-stream", cheat ? s->left + 1 : UINT64_MAX, &give_ops, s);
        uv_timer_start(&s->timer, give, 1, 0);
    } else if (strcmp(rq->path, "/hold") == 0) {
        request_on_gone(rq, hold_gone, rq);
    } else if (strcmp(rq->path, "/dry") == 0) { /* a stream that says one thing and waits */
        struct slow *s = slow_new(rq);
        s->st = stream_open(rq, 200, "text/plain", UINT64_MAX, &give_ops, s);
        stream_write(s->st, "hello\n", 6);
    } else if (strcmp(rq->path, "/ws") == 0) {
        (void)websocket_accept(rq, &ws_ops, NULL);
    } else {
        struct json_object *out = json_object_new_object();
        json_object_object_add(out, "path", json_object_new_string(rq->path));
        json_object_object_add(out, "body", json_object_get(rq->body));
        reply_json(rq, 200, out);
    }
}

static void over(struct request *rq) {
    (void)rq;
    atomic_fetch_add(&over_count, 1);
}
static void freed(struct request *rq) {
    (void)rq;
    atomic_fetch_add(&freed_count, 1);
}

static void on_stop(uv_async_t *a) {
    http_server_close(server);
    uv_close((uv_handle_t *)a, NULL);
}
static void *serve(void *arg) {
    (void)arg;
    uv_run(&loop, UV_RUN_DEFAULT);
    return NULL;
}

static int setup(void **state) {
    (void)state;
    struct http_config c;
    struct err e;
    http_config_defaults(&c);
    uv_loop_init(&loop);
    uv_async_init(&loop, &stop_it, on_stop);
    c.loop = &loop;
    c.listen = "127.0.0.1:0";
    c.header_timeout_ms = 600;
    c.body_timeout_ms = 900;
    c.idle_timeout_ms = 1500;
    c.begin = begin;
    c.run = run;
    c.over = over;
    c.freed = freed;
    server = http_server_open(&c, &e);
    if (!server) return -1;
    port = http_server_port(server);
    return pthread_create(&thread, NULL, serve, NULL);
}

static int teardown(void **state) {
    (void)state;
    uv_async_send(&stop_it);
    pthread_join(thread, NULL);
    http_server_free(server);
    return uv_loop_close(&loop); /* every handle was closed */
}

/* ---- the client ---- */

static int dial(void) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (void *)&a, sizeof a), 0);
    return fd;
}
static void put(int fd, const char *text) {
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Everything until the server closes; returns the length. */
static size_t all(int fd, char *out, size_t room) {
    size_t n = 0;
    ssize_t got;
    while (n < room - 1 && (got = recv(fd, out + n, room - 1 - n, 0)) > 0) n += (size_t)got;
    out[n] = 0;
    close(fd);
    return n;
}
static const char *ask(const char *request) {
    static char answer[65536];
    int fd = dial();
    put(fd, request);
    all(fd, answer, sizeof answer);
    return answer;
}
static void wait_for(atomic_int *what, int value) {
    for (int i = 0; i < 400 && atomic_load(what) < value; i++) usleep(10000);
    assert_true(atomic_load(what) >= value);
}
#define STATUS(answer, code) assert_memory_equal(answer, "HTTP/1.1 " code, sizeof "HTTP/1.1 " code - 1)
#define HEAD "Host: localhost\r\n"
#define LAST HEAD "Connection: close\r\n\r\n"

static void plain_requests(void **state) {
    (void)state;
    const char *a = ask("GET /a%20b?x=1 HTTP/1.1\r\n" LAST);
    STATUS(a, "200");
    assert_non_null(strstr(a, "{\"path\":\"/a%20b?x=1\",\"body\":null}"));
    a = ask("POST /x HTTP/1.1\r\nContent-Length: 7\r\n" HEAD "Connection: close\r\n\r\n{\"a\":1}");
    STATUS(a, "200");
    assert_non_null(strstr(a, "\"body\":{\"a\":1}"));
    a = ask("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n" HEAD
            "\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n");
    STATUS(a, "200");
    assert_non_null(strstr(a, "\"body\":{\"a\":1}"));
    a = ask("POST /x HTTP/1.1\r\nContent-Length: 3\r\n" HEAD "Connection: close\r\n\r\n{a}");
    STATUS(a, "400");
    assert_non_null(strstr(a, "line 1, column 2"));
    a = ask("GET /one HTTP/1.1\r\n" HEAD "\r\nGET /two HTTP/1.1\r\n" LAST); /* pipelined */
    assert_non_null(strstr(a, "/one"));
    assert_non_null(strstr(a, "/two"));
}

static void smuggling_is_refused(void **state) {
    (void)state;
    const char *a = ask("POST /x HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n" HEAD
                        "\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n" LAST);
    STATUS(a, "400");
    assert_null(strstr(a, "smuggled"));
    a = ask("POST /x HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n" HEAD
            "\r\nabcdeGET /smuggled HTTP/1.1\r\n" LAST);
    STATUS(a, "400");
    assert_null(strstr(a, "smuggled"));
    a = ask("POST /x HTTP/1.1\r\nContent-Length: -1\r\n" HEAD "\r\n");
    STATUS(a, "400");
}

static void a_refused_body_is_read_away(void **state) {
    (void)state;
    int fd = dial();
    static char block[1 << 16];
    char answer[4096];
    memset(block, 'x', sizeof block);
    put(fd, "PUT /refuse HTTP/1.1\r\nContent-Length: 4194304\r\n" HEAD "Connection: close\r\n\r\n");
    for (int i = 0; i < 64; i++) assert_int_equal(send(fd, block, sizeof block, MSG_NOSIGNAL), sizeof block);
    all(fd, answer, sizeof answer);
    STATUS(answer, "403");
    const char *a = ask("PUT /refuse HTTP/1.1\r\nContent-Length: 4194304\r\nExpect: 100-continue\r\n" HEAD "\r\n");
    STATUS(a, "403"); /* asked first: told before a byte of the body */
}

static void large_json_is_413(void **state) {
    (void)state;
    const char *a = ask("POST /x HTTP/1.1\r\nContent-Length: 99999999\r\n" HEAD "\r\n");
    STATUS(a, "413");
    int fd = dial();
    static char block[1 << 16], answer[4096];
    memset(block, 'x', sizeof block);
    put(fd, "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n" HEAD "\r\n");
    for (int i = 0; i < 160; i++) {
        put(fd, "10000\r\n");
        assert_int_equal(send(fd, block, sizeof block, MSG_NOSIGNAL), sizeof block);
        put(fd, "\r\n");
    }
    put(fd, "0\r\n\r\n");
    all(fd, answer, sizeof answer);
    STATUS(answer, "413");
}

static void uploads_wait_for_their_sink(void **state) {
    (void)state;
    static char block[1 << 16], answer[4096];
    int fd = dial();
    put(fd, "PUT /sink HTTP/1.1\r\nContent-Length: 6553600\r\nConnection: close\r\n" HEAD "\r\n");
    for (int i = 0; i < 100; i++) assert_int_equal(send(fd, block, sizeof block, MSG_NOSIGNAL), sizeof block);
    all(fd, answer, sizeof answer);
    STATUS(answer, "200");
    assert_non_null(strstr(answer, "\r\n\r\n6553600"));
}

static void an_upload_cut_off_is_noticed(void **state) {
    (void)state;
    int before = atomic_load(&gone_count), fd = dial();
    put(fd, "PUT /sink HTTP/1.1\r\nContent-Length: 1000\r\n" HEAD "\r\nhalf");
    usleep(50000);
    close(fd);
    wait_for(&gone_count, before + 1);
}

static void downloads_are_whole(void **state) {
    (void)state;
    static char answer[4 << 20];
    int fd = dial();
    put(fd, "GET /give/3000000 HTTP/1.1\r\n" LAST);
    size_t n = all(fd, answer, sizeof answer);
    STATUS(answer, "200");
    assert_non_null(strstr(answer, "Transfer-Encoding: chunked"));
    assert_true(n > 3000000);
    assert_memory_equal(answer + n - 5, "0\r\n\r\n", 5);
}

static void a_short_stream_is_cut(void **state) {
    (void)state;
    const char *a = ask("GET /short/5 HTTP/1.1\r\n" LAST); /* promises 6 bytes */
    STATUS(a, "200");
    assert_non_null(strstr(a, "Content-Length: 6"));
    const char *body = strstr(a, "\r\n\r\n") + 4;
    (void)body; /* the connection ended before the promised length: ask() came back */
}

static void hangups_are_noticed(void **state) {
    (void)state;
    int before = atomic_load(&gone_count), fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" HEAD "\r\n");
    usleep(50000);
    close(fd);
    wait_for(&gone_count, before + 1);
    fd = dial();
    char text[512];
    put(fd, "GET /dry HTTP/1.1\r\n" HEAD "\r\n");
    assert_true(recv(fd, text, sizeof text, 0) > 0);
    usleep(50000);
    close(fd);
    wait_for(&gone_count, before + 2);
}

static void slow_clients_get_408(void **state) {
    (void)state;
    int64_t start = monotonic_ms();
    STATUS(ask("GET /x HT"), "408");
    STATUS(ask("GET /x HTTP/1.1\r\nX-Slow: "), "408");
    STATUS(ask("POST /x HTTP/1.1\r\nContent-Length: 100\r\n" HEAD "\r\n{"), "408");
    assert_true(monotonic_ms() - start < 9000);
    int fd = dial(), n = 0; /* one byte at a time is no progress either */
    put(fd, "GET /x HTTP/1.1\r\nX: ");
    char c;
    while (n++ < 40 && send(fd, "a", 1, MSG_NOSIGNAL) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
        usleep(100000);
    assert_true(n < 40);
    close(fd);
    char text[64];
    assert_int_equal(all(dial(), text, sizeof text), 0); /* said nothing: closed without a word */
}

static void garbage_hurts_nobody(void **state) {
    (void)state;
    static const char *const lines[] = {"\r\n\r\n",
                                        "G\r\n\r\n",
                                        "GET\r\n\r\n",
                                        "GET / HTTP/9.9\r\n" LAST,
                                        "GET / HTTP/1.1\r\n\r\n",
                                        "\x16\x03\x01\x02\x00\x01\x00",
                                        "GET / HTTP/1.1\r\nno colon\r\n\r\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) (void)ask(lines[i]);
    STATUS(ask("GET /still HTTP/1.1\r\n" LAST), "200");
}

/* ---- WebSocket ---- */

static int upgrade(void) {
    static const char request[] =
        "GET /ws HTTP/1.1\r\n" HEAD "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    char text[1024];
    int fd = dial();
    size_t n = 0;
    put(fd, request);
    while (n < sizeof text - 1 && (n < 4 || memcmp(text + n - 4, "\r\n\r\n", 4) != 0)) {
        assert_int_equal(recv(fd, text + n, 1, 0), 1);
        n++;
    }
    text[n] = 0;
    STATUS(text, "101");
    assert_non_null(strstr(text, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")); /* the example of RFC 6455 */
    return fd;
}
static void send_frame(int fd, uint8_t opcode, const char *payload, size_t n, uint64_t claim) {
    uint8_t head[14] = {(uint8_t)(0x80 | opcode), 0x80 | 126, (uint8_t)(n >> 8), (uint8_t)n, 1, 2, 3, 4};
    size_t length = 8;
    if (claim > 65535) {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (uint8_t)(claim >> (56 - 8 * i));
        memset(head + 10, 1, 4);
        length = 14;
    } else if (n < 126) {
        head[1] = (uint8_t)(0x80 | n);
        memcpy(head + 2, "\1\2\3\4", 4);
        length = 6;
    }
    assert_int_equal(send(fd, head, length, MSG_NOSIGNAL), length);
    const uint8_t *mask = head + length - 4;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)payload[i] ^ mask[i % 4];
        assert_int_equal(send(fd, &c, 1, MSG_NOSIGNAL), 1);
    }
}

static void websockets_echo_and_close(void **state) {
    (void)state;
    int before = atomic_load(&gone_count), fd = upgrade();
    uint8_t text[16];
    send_frame(fd, 1, "hi \xc3\xa9", 5, 0);
    assert_int_equal(recv(fd, text, 7, MSG_WAITALL), 7);
    assert_memory_equal(text, "\x81\x05hi \xc3\xa9", 7);
    send_frame(fd, 1, "bye", 3, 0);
    assert_int_equal(recv(fd, text, 7, MSG_WAITALL), 7);
    assert_memory_equal(text,
                        "\x88\x05\x03\xe8"
                        "bye",
                        7);
    send_frame(fd, 8, "\x03\xe8", 2, 0);
    assert_int_equal(recv(fd, text, 1, 0), 0);
    close(fd);
    wait_for(&gone_count, before + 1);
}

static void websockets_refuse_giants_and_hangups(void **state) {
    (void)state;
    int before = atomic_load(&gone_count), fd = upgrade();
    uint8_t text[4];
    send_frame(fd, 2, "x", 1, 1u << 30);
    assert_int_equal(recv(fd, text, 4, MSG_WAITALL), 4);
    assert_int_equal(text[0], 0x88);
    assert_int_equal(text[2] << 8 | text[3], 1009);
    close(fd);
    close(upgrade());
    wait_for(&gone_count, before + 2);
    STATUS(ask("GET /ws HTTP/1.1\r\n" LAST), "426");
}

static void nothing_is_left_over(void **state) {
    (void)state;
    for (int i = 0; i < 300 && http_server_connections(server); i++) usleep(10000);
    assert_int_equal(http_server_connections(server), 0);
    assert_int_equal(atomic_load(&over_count), atomic_load(&freed_count));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_requests),
        cmocka_unit_test(smuggling_is_refused),
        cmocka_unit_test(a_refused_body_is_read_away),
        cmocka_unit_test(large_json_is_413),
        cmocka_unit_test(uploads_wait_for_their_sink),
        cmocka_unit_test(an_upload_cut_off_is_noticed),
        cmocka_unit_test(downloads_are_whole),
        cmocka_unit_test(a_short_stream_is_cut),
        cmocka_unit_test(hangups_are_noticed),
        cmocka_unit_test(slow_clients_get_408),
        cmocka_unit_test(garbage_hurts_nobody),
        cmocka_unit_test(websockets_echo_and_close),
        cmocka_unit_test(websockets_refuse_giants_and_hangups),
        cmocka_unit_test(nothing_is_left_over),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
