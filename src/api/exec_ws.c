/* GET …/exec/ws: many commands over one WebSocket.
 *
 *   client  {"id","cmd",…fields of exec} start · {"id","stdin":"…"} · {"id","stdin_eof":true} ·
 * {"id","signal":"SIGINT"} ·
 *           {"id","cancel":true} kill
 *   daemon  {"id","stream":"stdout|stderr","data"} · {"id","exit":n|null,"signal","status","duration_ms"} ·
 * {"id","error"}
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/trace/trace.h"
#include "api/websocket.h"
#include "cell/process.h"

#define COMMANDS_MAX 64              /* at once on one connection */
#define STDIN_WAITING_MAX (2u << 20) /* bytes of all commands that their processes did not take yet */

struct hub;

struct command {
    struct command *next, *prev;
    struct hub *hub;
    struct process *process;
    char *id; /* the client's own, as JSON text */
    struct utf8_tail out, err;
    struct buf in; /* stdin that the process did not take yet */
    bool in_eof;
    struct span *span;  /* each command has its own */
    long long sizes[2]; /* bytes of stdout and stderr */
};

struct hub {
    struct request *rq;
    struct websocket *ws;
    struct command *commands;
    unsigned count;
};

static void command_free(struct command *c) {
    if (c->prev)
        c->prev->next = c->next;
    else
        c->hub->commands = c->next;
    if (c->next) c->next->prev = c->prev;
    c->hub->count--;
    span_end(c->span);
    buf_free(&c->in);
    free(c->id);
    free(c);
}

static void say(struct hub *h, struct buf *text) {
    if (h->ws) websocket_send(h->ws, true, text->data, text->len);
    buf_free(text);
}

static void say_error(struct hub *h, const char *id, const struct err *e) {
    struct buf b = {0};
    buf_printf(&b, "{\"id\":%s,\"error\":", id);
    json_put_text(&b, e->text, strlen(e->text));
    buf_printf(&b, ",\"code\":\"%s\"}", e->code);
    say(h, &b);
}

static void pause_all(struct hub *h, bool paused) {
    for (struct command *c = h->commands; c; c = c->next)
        if (c->process) process_pause(c->process, paused);
}

static void say_output(struct command *c, const char *stream, struct utf8_tail *tail, const void *bytes, size_t n,
                       bool last) {
    struct hub *h = c->hub;
    struct buf b = {0};
    buf_printf(&b, "{\"id\":%s,\"stream\":\"%s\",\"data\":", c->id, stream);
    if (!json_put_bytes(&b, tail, bytes, n, last)) {
        buf_free(&b);
        return;
    }
    buf_str(&b, "}");
    say(h, &b);
    if (websocket_full(h->ws)) pause_all(h, true);
}

static void say_exit(struct command *c, struct json_object *end) {
    static const char *const from[] = {"exit_code", "signal", "exit", "duration_ms", "truncated"};
    static const char *const to[] = {"exit", "signal", "status", "duration_ms", "truncated"};
    struct buf b = {0};
    buf_printf(&b, "{\"id\":%s", c->id);
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        buf_printf(&b, ",\"%s\":", to[i]);
        json_put(&b, json_field(end, from[i]));
    }
    buf_str(&b, "}");
    say(c->hub, &b);
}

/* Offer the process what waits; hold the client while there is too much of it. */
static void feed(struct command *c) {
    if (c->in.len) buf_consume(&c->in, process_stdin(c->process, c->in.data, c->in.len));
    if (!c->in.len && c->in_eof) {
        process_stdin_close(c->process);
        c->in_eof = false;
    }
    size_t all = 0;
    for (struct command *o = c->hub->commands; o; o = o->next) all += o->in.len;
    websocket_hold(c->hub->ws, all > STDIN_WAITING_MAX);
}

static void trace_outcome(struct command *c, struct json_object *end, const struct err *e) {
    if (e)
        span_fail(c->span, e->code);
    else
        span_process(c->span, end);
    span_number(c->span, "cella.stdout.bytes", c->sizes[0]);
    span_number(c->span, "cella.stderr.bytes", c->sizes[1]);
}

static void on_process(void *arg, struct process *p, enum process_event event, struct json_object *json,
                       const void *bytes, size_t n, struct err *e) {
    struct command *c = arg;
    (void)p;
    if (event == PROCESS_STDOUT || event == PROCESS_STDERR) c->sizes[event == PROCESS_STDERR] += (long long)n;
    switch (event) {
    case PROCESS_START: span_process(c->span, json); break;
    case PROCESS_STDOUT: say_output(c, "stdout", &c->out, bytes, n, false); break;
    case PROCESS_STDERR: say_output(c, "stderr", &c->err, bytes, n, false); break;
    case PROCESS_STDIN_DRAINED: feed(c); break;
    case PROCESS_END:
        trace_outcome(c, json, e);
        say_output(c, "stdout", &c->out, NULL, 0, true);
        say_output(c, "stderr", &c->err, NULL, 0, true);
        if (e)
            say_error(c->hub, c->id, e);
        else
            say_exit(c, json);
        buf_clear(&c->in);
        websocket_hold(c->hub->ws, false);
        command_free(c);
        break;
    }
}

static struct command *find(struct hub *h, const char *id) {
    for (struct command *c = h->commands; c; c = c->next)
        if (strcmp(c->id, id) == 0) return c;
    return NULL;
}

static int start(struct hub *h, const char *id, struct json_object *message, struct err *e) {
    if (find(h, id)) return err_set(e, ERR_CONFLICT, "a command with this id is running");
    if (h->count >= COMMANDS_MAX)
        return err_set(e, ERR_LIMIT, "%d commands run on this connection already", COMMANDS_MAX);
    struct command *c = calloc(1, sizeof *c);
    if (!c) abort();
    c->hub = h;
    c->id = strdup(id);
    if (!c->id) abort();
    c->next = h->commands;
    if (c->next) c->next->prev = c;
    h->commands = c;
    h->count++;
    c->span = trace_part(h->rq, "cella.exec");
    span_code(c->span, message);
    c->process = process_start(h->rq->cell, message, on_process, c, e);
    if (c->process) return 0;
    span_fail(c->span, e->code);
    command_free(c);
    return -1;
}

static int signal_number(const char *name) {
    if (!strcmp(name, "SIGINT")) return SIGINT;
    if (!strcmp(name, "SIGKILL")) return SIGKILL;
    if (!strcmp(name, "SIGHUP")) return SIGHUP;
    return strcmp(name, "SIGTERM") ? -1 : SIGTERM;
}

static int control(struct hub *h, const char *id, struct json_object *message, struct err *e) {
    struct command *c = find(h, id);
    struct json_object *in = json_field(message, "stdin"), *name = json_field(message, "signal");
    if (!c) return err_set(e, ERR_NOT_FOUND, "no command with this id is running");
    if (json_object_get_boolean(json_field(message, "cancel"))) return process_signal(c->process, SIGKILL, e);
    if (name) {
        int signo = json_object_is_type(name, json_type_string) ? signal_number(json_object_get_string(name)) : -1;
        if (signo < 0) return err_set(e, ERR_INVALID, "\"signal\" must be SIGINT, SIGTERM, SIGHUP or SIGKILL");
        return process_signal(c->process, signo, e);
    }
    if (json_object_is_type(in, json_type_string))
        buf_append(&c->in, json_object_get_string(in), (size_t)json_object_get_string_len(in));
    if (json_object_get_boolean(json_field(message, "stdin_eof"))) c->in_eof = true;
    feed(c);
    return 0;
}

static void on_message(void *arg, struct websocket *ws, bool text, const uint8_t *bytes, size_t n) {
    struct hub *h = arg;
    struct err e;
    struct json_object *message = NULL;
    struct buf id = {0};
    (void)ws;
    int bad = text ? json_parse_object((const char *)bytes, n, &message, &e)
                   : err_set(&e, ERR_INVALID, "messages must be text");
    struct json_object *name = json_field(message, "id");
    if (name && (json_object_is_type(name, json_type_string) || json_object_is_type(name, json_type_int)))
        json_put(&id, name);
    else
        buf_str(&id, "null");
    if (!bad && !message)
        bad = err_set(&e, ERR_INVALID, "the message is empty");
    else if (!bad && (!name || id.len > 200))
        bad = err_set(&e, ERR_INVALID, "\"id\" must be a short string or a number");
    else if (!bad && json_field(message, "cmd"))
        bad = start(h, id.data, message, &e);
    else if (!bad)
        bad = control(h, id.data, message, &e);
    if (bad) say_error(h, id.data, &e);
    cell_touch(h->rq->cell);
    buf_free(&id);
    json_object_put(message);
}

static void on_opened(void *arg, struct websocket *ws) {
    struct hub *h = arg;
    h->ws = ws;
}

static void on_drained(void *arg, struct websocket *ws) {
    (void)ws;
    pause_all(arg, false);
}

static void on_closed(void *arg) {
    struct hub *h = arg;
    bool kill_them = !request_stopping(h->rq);
    h->ws = NULL;
    while (h->commands) {
        span_fail(h->commands->span, kill_them ? "the client hung up" : "the daemon stopped");
        process_detach(h->commands->process, kill_them);
        command_free(h->commands);
    }
    request_release(h->rq);
    free(h);
}

void handle_exec_ws(struct request *rq) {
    static const struct websocket_ops ops = {
        .opened = on_opened, .message = on_message, .drained = on_drained, .closed = on_closed};
    struct hub *h = calloc(1, sizeof *h);
    if (!h) abort();
    h->rq = request_hold(rq);
    if (websocket_accept(rq, &ops, h)) return;
    request_release(rq);
    free(h);
}
