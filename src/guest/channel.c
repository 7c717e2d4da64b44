#include "guest/channel.h"

#include <endian.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "guest/entry.h"
#include "guest/env.h"
#include "guest/loop.h"
#include "guest/proc.h"
#include "guest/request.h"
#include "guest/stream.h"
#include "guest/worker.h"
#include "wire/guest_proto.h"

#define CREDIT_STEP (GUEST_WINDOW / 4) /* give credit back in steps: fewer frames, and the sender never runs dry */
#define IDLE_TRIM_MS 1000
#define CREDIT_MAX (UINT64_C(1) << 40) /* more than a sane daemon ever has outstanding */

static struct channel *channels;
static unsigned channel_count;
static struct channel guest_channel = {.number = 0}; /* only its OPEN joining is used */

static struct channel *channel_find(uint32_t number) {
    for (struct channel *c = channels; c; c = c->next)
        if (c->number == number) return c;
    return NULL;
}

static struct channel *channel_new(uint32_t number) {
    struct channel *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (struct channel){.number = number, .credit = GUEST_WINDOW, .window = GUEST_WINDOW, .opening = true};
    c->next = channels;
    channels = c;
    channel_count++;
    return c;
}

/* Nothing has been open for a while: what a burst of work left in the heap goes back to the cell. */
static void idle_trim(void *arg) {
    (void)arg;
    if (!channel_count) (void)malloc_trim(0);
}

static void channel_drop(struct channel *c) {
    for (struct channel **p = &channels; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    channel_count--;
    buf_free(&c->open);
    loop_free(c);
    static struct loop_timer idle = {.fire = idle_trim};
    if (!channel_count) loop_after(&idle, IDLE_TRIM_MS);
}

void channel_send(struct channel *c, uint16_t type, const void *data, size_t n) {
    c->credit -= n;
    stream_frame(type, 0, c->number, data, n);
}

void channel_reply(struct channel *c, const char *json, size_t n) { stream_text(GUEST_REPLY, c->number, json, n); }

void channel_consumed(struct channel *c, size_t n) {
    c->owed += (uint32_t)n;
    if (c->owed < CREDIT_STEP) return;
    uint32_t bytes = htole32(c->owed);
    c->window += c->owed;
    c->owed = 0;
    stream_frame(GUEST_CREDIT, 0, c->number, &bytes, sizeof bytes);
}

static void send_end(uint32_t number, json_object *o) {
    size_t n = 0;
    const char *text =
        json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
    stream_text(GUEST_END, number, text, n);
    json_object_put(o);
}

json_object *err_json(const struct err *e) {
    json_object *o = json_object_new_object();
    json_object_object_add(o, "error", entry_text(e->text)); /* it may name a file of the cell */
    json_object_object_add(o, "code", json_object_new_string(e->code));
    if (e->hint) json_object_object_add(o, "hint", json_object_new_string(e->hint));
    return o;
}

void channel_end(struct channel *c, const char *json, size_t n) {
    stream_text(GUEST_END, c->number, json, n);
    channel_drop(c);
}

void channel_fail(struct channel *c, const struct err *e) {
    send_end(c->number, err_json(e));
    channel_drop(c);
}

void channels_flow(void) {
    for (struct channel *c = channels, *next; c; c = next) {
        next = c->next;
        if (!c->opening) c->ops->flow(c);
    }
}

void channels_forget(void) {
    while (channels) {
        struct channel *c = channels;
        if (!c->opening) c->ops->forget(c);
        channel_drop(c);
    }
    buf_free(&guest_channel.open);
    guest_channel.opening = guest_channel.open_too_long = false;
}

void channel_hello(void) {
    char text[32];
    int n = snprintf(text, sizeof text, "{\"version\":%d}", GUEST_PROTO_VERSION);
    stream_frame(GUEST_HELLO, 0, 0, text, (size_t)n);
}

/* A whole OPEN of the guest itself. */
static void open_guest(struct request *r) {
    if (r->op == OP_RESET) {
        channels_forget();
        stream_drop();
        channel_hello();
        return;
    }
    env_extra_set(&r->env);
    send_end(0, json_object_new_object());
}

static void open_channel(struct channel *c, struct request *r) {
    c->opening = false;
    buf_free(&c->open);
    if (r->op == OP_EXEC)
        proc_start(c, r);
    else
        worker_start(c, r);
}

static void open_whole(struct channel *c) {
    struct err e;
    struct request r = {0};
    bool own = c == &guest_channel;
    int rc = c->open_too_long ? err_set(&e, ERR_TOO_LARGE, "the request is longer than %u bytes", GUEST_OPEN_MAX)
                              : request_parse(c->open.data ? c->open.data : "", c->open.len, &r, &e);
    if (rc == 0 && own != (r.op == OP_RESET || r.op == OP_ENVIRONMENT))
        rc =
            err_set(&e, ERR_INVALID, own ? "channel 0 knows only reset and environment" : "that is for channel 0 only");
    if (own) { /* before the operation: reset clears it too */
        buf_free(&c->open);
        c->opening = c->open_too_long = false;
    }
    if (rc == 0)
        own ? open_guest(&r) : open_channel(c, &r);
    else if (own)
        send_end(0, err_json(&e));
    else
        channel_fail(c, &e);
    request_free(&r);
}

static void take_open(struct channel *c, const struct frame *f) {
    bool more = f->flags & FRAME_MORE;
    if (c && c != &guest_channel && !c->opening) {
        stream_break("OPEN on an open channel");
        return;
    }
    if (!c) {
        if (channel_count >= GUEST_CHANNELS_MAX) {
            struct err e;
            if (more) return; /* the last piece gets the answer */
            err_set(&e, ERR_LIMIT, "%d operations are open in this cell already", GUEST_CHANNELS_MAX);
            send_end(f->channel, err_json(&e));
            return;
        }
        c = channel_new(f->channel);
    }
    c->opening = true;
    if (c->open.len + f->length > GUEST_OPEN_MAX)
        c->open_too_long = true;
    else
        buf_append(&c->open, f->payload, f->length);
    if (!more) open_whole(c);
}

static void take_data(struct channel *c, const struct frame *f) {
    if (f->length > c->window) {
        stream_break("DATA beyond the window");
        return;
    }
    c->window -= f->length;
    bool eof = f->flags & FRAME_EOF;
    if (c->data_ended) {
        if (f->length) stream_break("DATA after its end");
        return;
    }
    c->data_ended = eof;
    c->ops->data(c, f->payload, f->length, eof);
}

static void take_control(struct channel *c, const struct frame *f) {
    if (!c->ops->control) return;
    json_tokener *t = json_tokener_new_ex(4);
    if (!t) abort();
    json_object *o = json_tokener_parse_ex(t, (const char *)f->payload, (int)f->length);
    if (o && json_object_is_type(o, json_type_object))
        c->ops->control(c, o);
    else
        log_warn("channel %u: a CONTROL that is no JSON object was ignored", c->number);
    json_object_put(o);
    json_tokener_free(t);
}

static void take_credit(struct channel *c, const struct frame *f) {
    uint32_t bytes;
    if (f->length != sizeof bytes) {
        stream_break("CREDIT of a wrong size");
        return;
    }
    memcpy(&bytes, f->payload, sizeof bytes);
    c->credit += le32toh(bytes);
    if (c->credit > CREDIT_MAX) c->credit = CREDIT_MAX;
    c->ops->flow(c);
}

void channel_frame(const struct frame *f) {
    struct channel *c = f->channel ? channel_find(f->channel) : &guest_channel;
    if (f->type == GUEST_OPEN) {
        take_open(c, f);
        return;
    }
    /* Frames for a channel that has just ended cross its END on the way: not an error. */
    if (!c || c == &guest_channel) return;
    if (c->opening) {
        stream_break("a frame before the end of OPEN");
        return;
    }
    switch (f->type) {
    case GUEST_DATA: take_data(c, f); break;
    case GUEST_CONTROL: take_control(c, f); break;
    case GUEST_CLOSE: c->ops->close(c); break;
    case GUEST_CREDIT: take_credit(c, f); break;
    default: stream_break("unknown frame type");
    }
}
