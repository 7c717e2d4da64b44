#include "cell/guest_link.h"

#include <endian.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/id.h"
#include "cell/guest_link_inside.h"
#include "cell/seqpacket.h"
#include "cell/text.h"
#include "wire/frame.h"
#include "wire/guest_proto.h"

/* ---- receiving ---- */

static void violated(struct guest_link *l, const char *why) {
    if (l->closed || l->lost) return;
    l->lost = true;
    l->events.on_lost(l->events.arg, why);
}

struct guest_channel *guest_link_channel(struct guest_link *l, uint32_t number) {
    for (struct guest_channel *c = l->channels[number % GUEST_BUCKETS]; c; c = c->next)
        if (c->number == number) return c;
    return NULL;
}

static void forget(struct guest_channel *c) {
    struct guest_link *l = c->link;
    struct guest_channel **at = &l->channels[c->number % GUEST_BUCKETS];
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    l->count--;
    l->joining -= c->join.len;
    buf_free(&c->join);
    free(c);
}

/* The words of base/err.h; any other word from a cell becomes "internal". */
static const char *known_code(const char *word) {
    static const char *const words[] = {ERR_INVALID,     ERR_PERMISSION, ERR_NOT_FOUND,    ERR_CONFLICT,
                                        ERR_EXISTS,      ERR_TOO_LARGE,  ERR_IS_DIRECTORY, ERR_NOT_DIRECTORY,
                                        ERR_UNSUPPORTED, ERR_LIMIT,      ERR_NO_SPACE,     ERR_UNAVAILABLE};
    for (size_t i = 0; word && i < sizeof words / sizeof *words; i++)
        if (strcmp(word, words[i]) == 0) return words[i];
    return ERR_INTERNAL;
}

static void end_channel(struct guest_channel *c, struct json_object *end) {
    struct err err;
    struct json_object *said;
    bool failed = json_object_object_get_ex(end, "error", &said);
    if (failed) {
        const char *text = json_object_get_string(said);
        size_t n = text ? strlen(text) : 0;
        if (n > 300) n = 300 - text_partial_tail(text, 300);
        err_set(&err, known_code(text_field(end, "code")), "%.*s", (int)n, text ? text : "");
    }
    if (c->events.on_end) c->events.on_end(c->arg, failed ? NULL : end, failed ? &err : NULL);
}

/* A whole REPLY or END. */
static void on_document(struct guest_channel *c, uint16_t type, const void *bytes, size_t n) {
    struct guest_link *l = c->link;
    struct json_object *doc = text_parse_object(bytes, n, GUEST_VALUES_MAX);
    if (!doc) {
        violated(l, "the guest sent something that is not JSON");
        return;
    }
    if (type == GUEST_REPLY) {
        if (c->events.on_reply) c->events.on_reply(c->arg, doc);
    } else {
        end_channel(c, doc);
        if (!l->closed) forget(c); /* a closed link ended and forgot it already */
    }
    json_object_put(doc);
}

static void on_json(struct guest_channel *c, const struct frame *f) {
    struct guest_link *l = c->link;
    if (c->join.len && c->join_type != f->type) {
        violated(l, "the guest mixed two unfinished messages");
        return;
    }
    if (!c->join.len && !(f->flags & FRAME_MORE)) {
        on_document(c, f->type, f->payload, f->length);
        return;
    }
    if (c->join.len + f->length > GUEST_REPLY_MAX || l->joining + f->length > GUEST_JOIN_MAX) {
        violated(l, "a message of the guest is too long");
        return;
    }
    c->join_type = f->type;
    buf_append(&c->join, f->payload, f->length);
    l->joining += f->length;
    if (f->flags & FRAME_MORE) return;
    struct buf whole = c->join;
    c->join = (struct buf){0};
    l->joining -= whole.len;
    on_document(c, f->type, whole.data, whole.len);
    buf_free(&whole);
}

static void on_data(struct guest_channel *c, const struct frame *f) {
    if (f->length > c->receive_window) {
        violated(c->link, "the guest sent more than it may");
        return;
    }
    c->receive_window -= f->length;
    if (c->events.on_data && f->length)
        c->events.on_data(c->arg, f->type == GUEST_DATA_ERR, f->payload, f->length);
    else
        guest_channel_consumed(c, f->length);
}

static void on_credit(struct guest_channel *c, const struct frame *f) {
    uint32_t n;
    if (f->length != sizeof n) {
        violated(c->link, "a malformed credit");
        return;
    }
    memcpy(&n, f->payload, sizeof n);
    n = le32toh(n);
    if (n > GUEST_WINDOW - c->send_window) {
        violated(c->link, "credit for bytes that were never sent");
        return;
    }
    c->send_window += n;
    guest_channel_room(c);
}

static void on_frame(struct guest_link *l, const struct frame *f) {
    if (f->channel == 0) {
        if (f->type == GUEST_HELLO) {
            bool first = !l->greeted;
            l->greeted = true;
            if (first && l->events.on_hello) l->events.on_hello(l->events.arg);
        } else if (l->greeted && f->type != GUEST_END && f->type != GUEST_REPLY)
            violated(l, "an unknown message on channel 0");
        return;
    }
    if (!l->greeted) {
        if (!l->taken_over) violated(l, "the guest spoke before its greeting");
        return;
    }
    struct guest_channel *c = guest_link_channel(l, f->channel);
    if (!c) {
        if (!l->taken_over) violated(l, "a message on a channel that is not open");
        return;
    }
    switch (f->type) {
    case GUEST_DATA:
    case GUEST_DATA_ERR: on_data(c, f); break;
    case GUEST_CREDIT: on_credit(c, f); break;
    case GUEST_REPLY:
    case GUEST_END: on_json(c, f); break;
    default: violated(l, "a message of an unknown type");
    }
}

static void on_packet(void *arg, const uint8_t *packet, size_t n) {
    struct guest_link *l = arg;
    struct frame f;
    size_t at = 0;
    int got = 0;
    l->busy++;
    while (!l->closed && !l->lost && (got = frame_next(packet, n, &at, &f)) == 1) on_frame(l, &f);
    if (got < 0) violated(l, "a malformed packet");
    if (--l->busy == 0 && l->closed) free(l);
}

static void on_stream_end(void *arg, const char *why) { violated(arg, why ? why : "the guest's stream ended"); }

static void on_drained(void *arg) {
    struct guest_link *l = arg;
    l->busy++;
    for (size_t i = 0; i < GUEST_BUCKETS && !l->closed; i++)
        for (struct guest_channel *c = l->channels[i], *next; c && !l->closed; c = next) {
            next = c->next; /* on_room never removes a channel: only END and closing the link do */
            guest_channel_room(c);
        }
    if (--l->busy == 0 && l->closed) free(l);
}

/* ---- opening and closing the link ---- */

struct guest_link *guest_link_open(uv_loop_t *loop, int fd, bool taken_over, const struct guest_link_events *events) {
    struct guest_link *l = calloc(1, sizeof *l);
    if (!l) abort();
    l->events = *events;
    l->taken_over = taken_over;
    /* Numbers of a dead daemon's channels must not meet ours. */
    if (taken_over) random_fill(&l->last_number, sizeof l->last_number);
    l->stream = seqpacket_open(loop, fd, &(struct seqpacket_events){on_packet, on_stream_end, on_drained, l});
    if (taken_over) guest_link_frame(l, GUEST_OPEN, 0, 0, "{\"op\":\"reset\"}", 14);
    return l;
}

void guest_link_close(struct guest_link *l, const char *why) {
    if (l->closed) return;
    l->closed = true;
    l->busy++;
    seqpacket_close(l->stream);
    for (size_t i = 0; i < GUEST_BUCKETS; i++)
        while (l->channels[i]) {
            struct guest_channel *c = l->channels[i];
            struct err err;
            err_set(&err, ERR_LOST, "%s", why);
            struct guest_channel_events events = c->events;
            void *arg = c->arg;
            forget(c);
            if (events.on_end) events.on_end(arg, NULL, &err);
        }
    if (--l->busy == 0) free(l);
}
