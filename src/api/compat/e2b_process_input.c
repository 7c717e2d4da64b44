/* process.Process: what goes to a running process: SendInput, StreamInput, CloseStdin, SendSignal, Update. A call is answered when the
 * process's pipe has taken all of its bytes, so a client that waits for the answer cannot fill the daemon. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_process.h"
#include "api/handlers.h"

#define WAITING_MAX (32u << 20)        /* bytes that wait for one process, all clients together */
#define STREAM_WAITING_MAX (256u << 10) /* of one StreamInput, before its body is read no further */

/* A StreamInput. Lives until it is answered and nothing of it waits. */
struct input_stream {
    struct request *rq;
    char process[48]; /* "" before its first message */
    size_t waiting;
    bool ended, failed, over; /* over: answered, or the client left */
    struct err why;
};

struct e2b_input {
    struct e2b_input *next;
    struct request *rq;          /* to answer when it is taken; or NULL */
    struct input_stream *stream; /* or one of its messages */
    bool closes;                 /* EOF instead of bytes */
    struct buf bytes;
    size_t at;
};

/* ---- the queue ---- */

static void feed_settle(struct input_stream *s) {
    if (!s->over && s->ended && (s->failed || !s->waiting)) {
        s->over = true;
        if (s->failed)
            reply_err(s->rq, &s->why);
        else
            rpc_answer(s->rq, json_object_new_object());
    }
    if (s->over && !s->waiting) {
        request_release(s->rq);
        free(s);
    } else if (!s->ended) {
        request_sink_ready(s->rq);
    }
}

/* The first of the queue is done with. */
static void input_done(struct e2b_process *r, const struct err *e) {
    struct e2b_input *in = r->first;
    r->first = in->next;
    if (!r->first) r->last = &r->first;
    r->waiting -= in->bytes.len;
    if (in->rq && e)
        reply_err(in->rq, e);
    else if (in->rq)
        rpc_answer(in->rq, json_object_new_object());
    if (in->rq) request_release(in->rq);
    if (in->stream) {
        in->stream->waiting -= in->bytes.len;
        if (e && !in->stream->failed) {
            in->stream->failed = true;
            in->stream->why = *e;
        }
        feed_settle(in->stream);
    }
    buf_free(&in->bytes);
    free(in);
}

void e2b_input_more(struct e2b_process *r) {
    while (r->first) {
        struct e2b_input *in = r->first;
        if (in->closes) {
            process_stdin_close(r->view);
        } else if (in->at < in->bytes.len) {
            in->at += process_stdin(r->view, in->bytes.data + in->at, in->bytes.len - in->at);
            if (in->at < in->bytes.len) return; /* PROCESS_STDIN_DRAINED comes */
        }
        input_done(r, NULL);
    }
}

void e2b_input_drop(struct e2b_process *r) {
    struct err e;
    err_set(&e, ERR_NOT_FOUND, "the process ended before it took its input");
    while (r->first) input_done(r, &e);
}

static void enqueue(struct e2b_process *r, struct e2b_input *in) {
    bool idle = !r->first;
    *r->last = in;
    r->last = &in->next;
    r->waiting += in->bytes.len;
    if (in->closes) r->stdin_open = false;
    if (idle) e2b_input_more(r);
}

/* input {stdin: base64} or {pty: base64} for this process. NULL with *e. */
static struct e2b_input *input_of(struct e2b_process *r, struct json_object *message, struct err *e) {
    struct json_object *input;
    const char *name = r->pty ? "pty" : "stdin", *text;
    if (rpc_object(message, "input", &input, e) < 0 || rpc_text(input, name, &text, e) < 0) return NULL;
    if (json_field(input, r->pty ? "stdin" : "pty")) {
        err_set(e, ERR_CONFLICT, r->pty ? "the process has a terminal: send pty input" : "the process has no terminal: send stdin input");
        return NULL;
    }
    if (!r->stdin_open) {
        err_set(e, ERR_CONFLICT, "the stdin of the process is not open");
        return NULL;
    }
    struct e2b_input *in = calloc(1, sizeof *in);
    if (!in) abort();
    if (!rpc_get_base64(text, strlen(text), &in->bytes)) {
        err_set(e, ERR_INVALID, "\"%s\" is no base64", name);
    } else if (r->waiting + in->bytes.len > WAITING_MAX) {
        err_set(e, ERR_LIMIT, "the process does not read its input: %u bytes wait for it", WAITING_MAX);
    } else {
        return in;
    }
    buf_free(&in->bytes);
    free(in);
    return NULL;
}

/* ---- calls ---- */

static void send_input(struct request *rq, struct json_object *message) {
    struct err e;
    struct e2b_process *r = e2b_process_of(rq, message, &e);
    struct e2b_input *in = r ? input_of(r, message, &e) : NULL;
    if (!in) {
        reply_err(rq, &e);
        return;
    }
    in->rq = request_hold(rq);
    enqueue(r, in);
}
void e2b_process_send_input(struct request *rq) { rpc_unary(rq, send_input); }

static void close_stdin(struct request *rq, struct json_object *message) {
    struct err e;
    struct e2b_process *r = e2b_process_of(rq, message, &e);
    if (r && r->pty) {
        err_set(&e, ERR_CONFLICT, "the process has a terminal: send it the character ^D");
        r = NULL;
    } else if (r && !r->stdin_open) {
        err_set(&e, ERR_CONFLICT, "the stdin of the process is not open");
        r = NULL;
    }
    if (!r) {
        reply_err(rq, &e);
        return;
    }
    struct e2b_input *in = calloc(1, sizeof *in);
    if (!in) abort();
    in->closes = true;
    in->rq = request_hold(rq);
    enqueue(r, in);
}
void e2b_process_close_stdin(struct request *rq) { rpc_unary(rq, close_stdin); }

/* An enumeration's value is its name or its number. */
static int signal_of(struct json_object *message, int *out, struct err *e) {
    struct json_object *field = json_field(message, "signal");
    const char *name = json_object_get_string(field);
    if (name && (strcmp(name, "SIGNAL_SIGKILL") == 0 || strcmp(name, "9") == 0)) return *out = SIGKILL, 0;
    if (name && (strcmp(name, "SIGNAL_SIGTERM") == 0 || strcmp(name, "15") == 0)) return *out = SIGTERM, 0;
    return err_set(e, ERR_INVALID, "\"signal\" must be SIGNAL_SIGTERM or SIGNAL_SIGKILL");
}

static void send_signal(struct request *rq, struct json_object *message) {
    struct err e;
    int signo = 0;
    struct e2b_process *r = e2b_process_of(rq, message, &e);
    if (!r || signal_of(message, &signo, &e) < 0 || process_signal(r->view, signo, &e) < 0)
        reply_err(rq, &e);
    else
        rpc_answer(rq, json_object_new_object());
}
void e2b_process_send_signal(struct request *rq) { rpc_unary(rq, send_signal); }

static int resize(struct e2b_process *r, struct json_object *message, struct err *e) {
    struct json_object *pty, *size;
    long long rows = 0, cols = 0;
    if (rpc_object(message, "pty", &pty, e) < 0 || rpc_object(pty, "size", &size, e) < 0 || json_get_int(size, "rows", 1, 4096, &rows, e) < 0 ||
        json_get_int(size, "cols", 1, 4096, &cols, e) < 0)
        return -1;
    if (!pty) return 0; /* nothing to change */
    if (!rows || !cols) return err_set(e, ERR_INVALID, "\"size\" needs rows and cols");
    return process_resize(r->view, (int)rows, (int)cols, e);
}

static void update(struct request *rq, struct json_object *message) {
    struct err e;
    struct e2b_process *r = e2b_process_of(rq, message, &e);
    if (!r || resize(r, message, &e) < 0)
        reply_err(rq, &e);
    else
        rpc_answer(rq, json_object_new_object());
}
void e2b_process_update(struct request *rq) { rpc_unary(rq, update); }

/* ---- StreamInput ---- */

static bool refuse(struct input_stream *s, const struct err *e) {
    s->over = s->ended = true;
    reply_err(s->rq, e);
    feed_settle(s);
    return false;
}

static int take_message(struct input_stream *s, struct json_object *message, struct err *e) {
    struct json_object *start, *data;
    if (rpc_object(message, "start", &start, e) < 0 || rpc_object(message, "data", &data, e) < 0) return -1;
    if (s->failed) {
        *e = s->why;
        return -1;
    }
    struct e2b_process *r = start ? e2b_process_of(s->rq, start, e) : s->process[0] ? e2b_process_by_id(s->process) : NULL;
    if (start && !r) return -1;
    if (start) memcpy(s->process, r->id, sizeof s->process);
    if (!data) return 0; /* keepalive */
    if (!s->process[0]) return err_set(e, ERR_INVALID, "the first message must be a start");
    if (!r) return err_set(e, ERR_NOT_FOUND, "the process ended");
    struct e2b_input *in = input_of(r, data, e);
    if (!in) return -1;
    in->stream = s;
    s->waiting += in->bytes.len;
    enqueue(r, in);
    return 0;
}

static bool feed_message(void *arg, struct json_object *message) {
    struct input_stream *s = arg;
    struct err e;
    return take_message(s, message, &e) == 0 || refuse(s, &e);
}

static bool feed_full(void *arg) {
    struct input_stream *s = arg;
    return s->waiting > STREAM_WAITING_MAX && !s->failed;
}

static void feed_end(void *arg) {
    struct input_stream *s = arg;
    s->ended = true;
    feed_settle(s);
}

static void feed_gone(void *arg) {
    struct input_stream *s = arg;
    s->ended = s->over = true;
    feed_settle(s);
}

void e2b_process_stream_input(struct request *rq) {
    struct input_stream *s = calloc(1, sizeof *s);
    if (!s) abort();
    s->rq = request_hold(rq);
    const struct rpc_input in = {feed_message, feed_full, feed_end, feed_gone, s};
    rpc_client_streaming(rq, &in);
}
