#include "cell/tail.h"

#include <string.h>

#define HEAD 5
#define RECORD_MAX 4096 /* larger pieces are cut, so that dropping the oldest record drops little */

static uint32_t record_length(const char *p) {
    uint32_t n;
    memcpy(&n, p + 1, sizeof n);
    return n;
}

/* Drop the oldest records once there is an eighth more than is promised: one move per 32 KiB instead of one per append.
 */
static void trim(struct tail *t) {
    if (t->bytes <= TAIL_MAX + TAIL_MAX / 8) return;
    size_t at = 0;
    while (t->bytes > TAIL_MAX) {
        uint32_t n = record_length(t->records.data + at);
        at += HEAD + n;
        t->bytes -= n;
        t->dropped += n;
    }
    buf_consume(&t->records, at);
}

void tail_append(struct tail *t, int stream, const void *bytes, size_t n) {
    const char *p = bytes;
    while (n) {
        uint32_t part = n > RECORD_MAX ? RECORD_MAX : (uint32_t)n;
        char head[HEAD] = {(char)stream};
        memcpy(head + 1, &part, sizeof part);
        buf_append(&t->records, head, HEAD);
        buf_append(&t->records, p, part);
        t->bytes += part;
        p += part;
        n -= part;
        trim(t);
    }
}

void tail_each(const struct tail *t, void (*each)(void *arg, int stream, const void *bytes, size_t n), void *arg) {
    for (size_t at = 0; at < t->records.len;) {
        const char *p = t->records.data + at;
        uint32_t n = record_length(p);
        each(arg, p[0], p + HEAD, n);
        at += HEAD + n;
    }
}

void tail_copy(const struct tail *t, int stream, struct buf *out) {
    for (size_t at = 0; at < t->records.len;) {
        const char *p = t->records.data + at;
        uint32_t n = record_length(p);
        if (stream < 0 || p[0] == (char)stream) buf_append(out, p + HEAD, n);
        at += HEAD + n;
    }
}

void tail_free(struct tail *t) {
    buf_free(&t->records);
    *t = (struct tail){0};
}
