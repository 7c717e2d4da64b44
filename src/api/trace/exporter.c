#include "api/trace/exporter.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/json_text.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

#define ANSWER_TIMEOUT_MS 10000L
#define CLOSE_TIMEOUT_MS 2000L
#define TRIES 4           /* 1 + 3, with pauses of 1, 2 and 4 s: what a collector needs to start again */
#define COMPLAIN_MS 60000 /* one line in the log per minute */

struct exporter {
    pthread_t thread;
    pthread_mutex_t lock; /* everything below but what is said to be the thread's */
    pthread_cond_t wake;
    char *spans[EXPORT_QUEUE_MAX];
    size_t first, count;
    bool closing;
    struct exporter_numbers numbers;
    _Atomic int64_t give_up_ms; /* monotonic: a post that is under way then is broken off; 0: never. Without the lock */
    /* the thread's */
    CURL *curl;
    struct curl_slist *headers;
    char url[1024];
    bool down; /* the last batch did not get through */
    /* the loop's */
    int64_t complained_ms;
};

/* ---- the thread behind ---- */

static size_t ignore(char *bytes, size_t one, size_t n, void *arg) {
    (void)bytes, (void)one, (void)arg;
    return n;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    struct exporter *x = arg;
    (void)a, (void)b, (void)c, (void)d;
    int64_t until = atomic_load(&x->give_up_ms);
    return until && monotonic_ms() > until;
}

static void put_head(struct buf *b) {
    const char *name = getenv("OTEL_SERVICE_NAME");
    buf_str(b,
            "{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":");
    if (!name || !*name || !utf8_valid(name, strlen(name))) name = "cella";
    json_put_text(b, name, strlen(name));
    buf_str(b, "}},{\"key\":\"service.version\",\"value\":{\"stringValue\":\"" CELLA_VERSION "\"}}]},"
               "\"scopeSpans\":[{\"scope\":{\"name\":\"cella\",\"version\":\"" CELLA_VERSION "\"},\"spans\":[");
}

/* Takes up to EXPORT_BATCH_MAX spans out of the queue, as a request's body. Locked. */
static size_t take(struct exporter *x, struct buf *body) {
    size_t n = x->count < EXPORT_BATCH_MAX ? x->count : EXPORT_BATCH_MAX;
    put_head(body);
    for (size_t i = 0; i < n; i++) {
        char *span = x->spans[x->first];
        if (i) buf_str(body, ",");
        buf_str(body, span);
        free(span);
        x->first = (x->first + 1) % EXPORT_QUEUE_MAX;
    }
    x->count -= n;
    buf_str(body, "]}]}]}");
    return n;
}

/* 0 taken; 1 try again; -1 refused for good. */
static int send_once(struct exporter *x, const struct buf *body, long timeout_ms) {
    long status = 0;
    curl_easy_setopt(x->curl, CURLOPT_POSTFIELDS, body->data);
    curl_easy_setopt(x->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
    curl_easy_setopt(x->curl, CURLOPT_TIMEOUT_MS, timeout_ms);
    CURLcode code = curl_easy_perform(x->curl);
    if (code == CURLE_OK) curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 200 && status < 300) {
        if (x->down) log_info("tracing: %s takes spans again", x->url);
        x->down = false;
        return 0;
    }
    if (!x->down) {
        if (code == CURLE_OK)
            log_warn("tracing: %s answered %ld", x->url, status);
        else
            log_warn("tracing: %s: %s", x->url, curl_easy_strerror(code));
    }
    x->down = true;
    return code != CURLE_OK || status == 429 || status == 502 || status == 503 || status == 504 ? 1 : -1;
}

/* Waits until the time, or until the exporter closes. Locked. */
static void rest(struct exporter *x, int64_t ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (!x->closing && pthread_cond_timedwait(&x->wake, &x->lock, &until) == 0) {}
}

/* Unlocked but for the rests. True: the collector has it. */
static bool deliver(struct exporter *x, const struct buf *body) {
    for (int i = 0; i < TRIES; i++) {
        pthread_mutex_lock(&x->lock);
        if (i) rest(x, 500L << i);
        bool closing = x->closing;
        pthread_mutex_unlock(&x->lock);
        int result = send_once(x, body, closing ? CLOSE_TIMEOUT_MS : ANSWER_TIMEOUT_MS);
        if (result <= 0) return result == 0;
        if (closing) return false;
    }
    return false;
}

static void *work(void *arg) {
    struct exporter *x = arg;
    struct timespec begun;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    pthread_mutex_lock(&x->lock);
    for (;;) {
        while (!x->count && !x->closing) pthread_cond_wait(&x->wake, &x->lock);
        if (!x->count) break;
        if (!x->closing && x->count < EXPORT_BATCH_MAX) rest(x, EXPORT_EVERY_MS); /* others may join */
        struct buf body = {0};
        bool last = x->closing;
        size_t n = take(x, &body);
        pthread_mutex_unlock(&x->lock);
        bool sent = deliver(x, &body);
        buf_free(&body);
        pthread_mutex_lock(&x->lock);
        if (sent)
            x->numbers.sent += n;
        else
            x->numbers.failed += n;
        if (last && !sent) break; /* nobody takes the rest either */
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

/* ---- the loop in front ---- */

void exporter_put(struct exporter *x, char *span) {
    pthread_mutex_lock(&x->lock);
    bool full = x->count == EXPORT_QUEUE_MAX || x->closing;
    if (full)
        x->numbers.dropped++;
    else
        x->spans[(x->first + x->count++) % EXPORT_QUEUE_MAX] = span;
    uint64_t dropped = x->numbers.dropped;
    if (x->count == 1) pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
    if (!full) return;
    free(span);
    int64_t now = monotonic_ms();
    if (x->complained_ms && now - x->complained_ms < COMPLAIN_MS) return;
    x->complained_ms = now;
    log_warn("tracing: the collector is too slow; %lu spans were dropped so far", (unsigned long)dropped);
}

struct exporter_numbers exporter_count(struct exporter *x) {
    pthread_mutex_lock(&x->lock);
    struct exporter_numbers n = x->numbers;
    pthread_mutex_unlock(&x->lock);
    return n;
}

static int check_endpoint(struct exporter *x, const char *endpoint, struct err *e) {
    size_t n = strlen(endpoint);
    bool http = strncmp(endpoint, "http://", 7) == 0 || strncmp(endpoint, "https://", 8) == 0;
    while (n && endpoint[n - 1] == '/') n--;
    if (!http || n > sizeof x->url - 16 || endpoint[strcspn(endpoint, " \t\r\n?#")])
        return err_hint(e, ERR_INVALID, "like http://127.0.0.1:4318",
                        "the address of the trace collector is no http:// or https:// URL");
    (void)snprintf(x->url, sizeof x->url, "%.*s/v1/traces", (int)n, endpoint);
    return 0;
}

/* "name=value,name=value" as the variable OTEL_EXPORTER_OTLP_HEADERS has them. */
static void add_headers(struct exporter *x, const char *headers) {
    x->headers = curl_slist_append(NULL, "Content-Type: application/json");
    while (headers && *headers) {
        size_t n = strcspn(headers, ",");
        const char *equals = memchr(headers, '=', n);
        struct buf line = {0};
        if (equals && equals > headers) {
            buf_append(&line, headers, (size_t)(equals - headers));
            buf_str(&line, ": ");
            buf_append(&line, equals + 1, n - (size_t)(equals - headers) - 1);
            if (!line.data[strcspn(line.data, "\r\n")]) x->headers = curl_slist_append(x->headers, line.data);
        }
        buf_free(&line);
        headers += n + (headers[n] == ',');
    }
}

static int start(struct exporter *x, struct err *e) {
    sigset_t all, before;
    pthread_condattr_t monotonic;
    pthread_mutex_init(&x->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&x->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&x->thread, NULL, work, x);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed ? err_sys(e, failed, "start the thread of the trace exporter") : 0;
}

struct exporter *exporter_open(const char *endpoint, const char *headers, struct err *e) {
    struct exporter *x = calloc(1, sizeof *x);
    if (!x) abort();
    if (check_endpoint(x, endpoint, e) < 0) {
        free(x);
        return NULL;
    }
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(x->curl = curl_easy_init())) {
        err_set(e, ERR_INTERNAL, "the HTTP library did not start");
        free(x);
        return NULL;
    }
    add_headers(x, headers);
    curl_easy_setopt(x->curl, CURLOPT_URL, x->url);
    curl_easy_setopt(x->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(x->curl, CURLOPT_HTTPHEADER, x->headers);
    curl_easy_setopt(x->curl, CURLOPT_USERAGENT, "cella/" CELLA_VERSION);
    curl_easy_setopt(x->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(x->curl, CURLOPT_WRITEFUNCTION, ignore);
    curl_easy_setopt(x->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(x->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(x->curl, CURLOPT_XFERINFODATA, x);
    if (start(x, e) == 0) return x;
    curl_easy_cleanup(x->curl);
    curl_slist_free_all(x->headers);
    free(x);
    return NULL;
}

void exporter_close(struct exporter *x) {
    atomic_store(&x->give_up_ms, monotonic_ms() + CLOSE_TIMEOUT_MS);
    pthread_mutex_lock(&x->lock);
    x->closing = true;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
    pthread_join(x->thread, NULL);
    if (x->count) log_warn("tracing: %zu spans were not sent", x->count);
    for (; x->count; x->count--, x->first = (x->first + 1) % EXPORT_QUEUE_MAX) free(x->spans[x->first]);
    curl_easy_cleanup(x->curl);
    curl_slist_free_all(x->headers);
    pthread_cond_destroy(&x->wake);
    pthread_mutex_destroy(&x->lock);
    free(x);
}
