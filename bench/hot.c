/* hot: an HTTP client that costs next to nothing, so that what is measured is the daemon.
 *
 *   hot PORT execute N BODY PATH...     N requests on each path, one thread and one kept connection per path
 *   hot PORT create N PAUSE_MS KEEP     N times create -> first output, on one kept connection; PAUSE_MS between them (the pool
 *                                       refills); KEEP 1: the sandboxes are deleted only at the end, KEEP 0: after each
 *
 * Prints one line per sample: "execute MICROSECONDS", "create MICROSECONDS TOTAL_MICROSECONDS BOOT_MODE", and at the end
 * "elapsed MICROSECONDS". Any answer that is not the right one ends the program with status 1: a wrong answer has no time. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MAX 65536
#define CREATES_MAX 4096

struct client {
    int fd, port;
    size_t length;
    char answer[ANSWER_MAX]; /* head and body, NUL-terminated */
};

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void fail(const char *what, const char *detail) {
    (void)fprintf(stderr, "hot: %s: %.800s\n", what, detail);
    exit(1);
}

static void client_open(struct client *c, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->port = port;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0) fail("connect", "refused");
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static const char *body_of(const struct client *c) {
    const char *end = strstr(c->answer, "\r\n\r\n");
    return end ? end + 4 : NULL;
}

/* Bytes of the body that Content-Length announces, 0 without one (204). */
static size_t announced(const struct client *c) {
    const char *p = strcasestr(c->answer, "\r\ncontent-length:");
    return p ? strtoul(p + 17, NULL, 10) : 0;
}

static void receive(struct client *c) {
    c->length = 0;
    for (;;) {
        ssize_t n = recv(c->fd, c->answer + c->length, ANSWER_MAX - 1 - c->length, 0);
        if (n <= 0) fail("receive", "the daemon closed the connection");
        c->length += (size_t)n;
        c->answer[c->length] = 0;
        const char *body = body_of(c);
        if (body && c->length - (size_t)(body - c->answer) >= announced(c)) return;
        if (c->length >= ANSWER_MAX - 1) fail("receive", "the answer is too long");
    }
}

static void request(struct client *c, const char *method, const char *path, const char *body, int status) {
    char text[16384], wanted[16];
    int n = snprintf(text, sizeof text,
                     "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     method, path, c->port, strlen(body), body);
    if (n < 0 || (size_t)n >= sizeof text) fail("request", "too long");
    if (send(c->fd, text, (size_t)n, MSG_NOSIGNAL) != n) fail("send", "short");
    receive(c);
    (void)snprintf(wanted, sizeof wanted, " %d ", status);
    if (!strstr(c->answer, wanted) || strstr(c->answer, wanted) > c->answer + 12) fail(path, c->answer);
}

static void execute(struct client *c, const char *path, const char *body) {
    request(c, "POST", path, body, 200);
    if (!strstr(c->answer, "\"exit\":\"ok\"")) fail("execution", c->answer);
}

/* ---- execute ---- */

struct job {
    pthread_t thread;
    int port, n;
    const char *path, *body;
    double *samples;
};

static pthread_barrier_t together;

static void *work(void *arg) {
    struct job *job = arg;
    struct client *c = calloc(1, sizeof *c);
    if (!c) abort();
    client_open(c, job->port);
    for (int i = 0; i < 20; i++) execute(c, job->path, job->body); /* warm-up, not counted */
    (void)pthread_barrier_wait(&together);
    for (int i = 0; i < job->n; i++) {
        double start = now_us();
        execute(c, job->path, job->body);
        job->samples[i] = now_us() - start;
    }
    close(c->fd);
    free(c);
    return NULL;
}

static int run_execute(int port, int n, const char *body, char **paths, int count) {
    struct job *jobs = calloc((size_t)count, sizeof *jobs);
    if (!jobs || n < 1) return 2;
    (void)pthread_barrier_init(&together, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++) {
        jobs[i] = (struct job){.port = port, .n = n, .path = paths[i], .body = body, .samples = calloc((size_t)n, sizeof(double))};
        if (!jobs[i].samples || pthread_create(&jobs[i].thread, NULL, work, &jobs[i])) abort();
    }
    (void)pthread_barrier_wait(&together);
    double start = now_us();
    for (int i = 0; i < count; i++) (void)pthread_join(jobs[i].thread, NULL);
    double elapsed = now_us() - start;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < n; k++) (void)printf("execute %.2f\n", jobs[i].samples[k]);
    (void)printf("elapsed %.2f\n", elapsed);
    return 0;
}

/* ---- create ---- */

/* The value of a top-level string field, copied to out. */
static void field(const char *json, const char *name, char *out, size_t size) {
    char key[64];
    (void)snprintf(key, sizeof key, "\"%s\":\"", name);
    const char *p = strstr(json, key);
    size_t n = p ? strcspn(p + strlen(key), "\"") : size;
    if (n >= size) fail("no field", key);
    memcpy(out, p + strlen(key), n);
    out[n] = 0;
}

static int run_create(int port, int n, int pause_ms, bool keep) {
    static char ids[CREATES_MAX][64];
    struct client *c = calloc(1, sizeof *c);
    char path[160], mode[32];
    if (!c || n < 1 || n > CREATES_MAX) return 2;
    client_open(c, port);
    double first = now_us();
    for (int i = 0; i < n; i++) {
        double start = now_us();
        request(c, "POST", "/v1/sandboxes", "{\"ttl_seconds\":600}", 201);
        double created = now_us();
        field(c->answer, "id", ids[i], sizeof ids[i]);
        field(c->answer, "boot_mode", mode, sizeof mode);
        (void)snprintf(path, sizeof path, "/v1/sandboxes/%s/execute", ids[i]);
        execute(c, path, "{\"code\":\"print('ready')\"}");
        double end = now_us();
        if (!strstr(c->answer, "ready\\n")) fail("output", c->answer);
        (void)printf("create %.2f %.2f %s\n", created - start, end - start, mode);
        (void)snprintf(path, sizeof path, "/v1/sandboxes/%s", ids[i]);
        if (!keep) request(c, "DELETE", path, "", 204);
        if (pause_ms) (void)usleep((useconds_t)pause_ms * 1000);
    }
    (void)printf("elapsed %.2f\n", now_us() - first);
    for (int i = 0; keep && i < n; i++) {
        (void)snprintf(path, sizeof path, "/v1/sandboxes/%s", ids[i]);
        request(c, "DELETE", path, "", 204);
    }
    free(c);
    return 0;
}

int main(int argc, char **argv) {
    if (argc >= 6 && strcmp(argv[2], "execute") == 0)
        return run_execute(atoi(argv[1]), atoi(argv[3]), argv[4], argv + 5, argc - 5);
    if (argc == 6 && strcmp(argv[2], "create") == 0)
        return run_create(atoi(argv[1]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]) != 0);
    (void)fputs("usage: hot PORT execute N BODY PATH... | hot PORT create N PAUSE_MS KEEP\n", stderr);
    return 2;
}
