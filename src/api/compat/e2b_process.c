/* process.Process: Start, Connect and List. */
#include "api/compat/e2b_process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_filesystem_entry.h"
#include "api/compat/e2b_process_end.h"
#include "api/handlers.h"
#include "api/trace/trace.h"

#define YEAR_MS (365LL * 24 * 3600 * 1000) /* the longest timeout of a process */

struct e2b_process *e2b_processes;

/* ---- records ---- */

static void record_free(struct e2b_process *r) {
    struct e2b_process **at = &e2b_processes;
    while (*at && *at != r) at = &(*at)->next;
    if (*at) *at = r->next;
    e2b_input_drop(r);
    json_object_put(r->config);
    free(r->tag);
    free(r);
}

static void on_record(void *arg, struct process *p, enum process_event event, struct json_object *json, const void *bytes, size_t n,
                      struct err *e) {
    struct e2b_process *r = arg;
    (void)p, (void)bytes, (void)n, (void)e;
    if (event == PROCESS_START) r->pid = json_object_get_int64(json_field(json, "pid"));
    if (event == PROCESS_STDIN_DRAINED) e2b_input_more(r);
    if (event == PROCESS_END) record_free(r);
}

struct e2b_process *e2b_process_by_id(const char *id) {
    struct e2b_process *r = e2b_processes;
    while (r && strcmp(r->id, id) != 0) r = r->next;
    return r;
}

struct e2b_process *e2b_process_of(struct request *rq, struct json_object *message, struct err *e) {
    struct json_object *selector;
    long long pid = 0;
    const char *tag;
    if (rpc_object(message, "process", &selector, e) < 0 || json_get_int(selector, "pid", 0, INT32_MAX, &pid, e) < 0 ||
        rpc_text(selector, "tag", &tag, e) < 0)
        return NULL;
    for (struct e2b_process *r = e2b_processes; r; r = r->next) {
        bool named = pid ? r->pid == pid : r->tag && *tag && strcmp(r->tag, tag) == 0;
        if (named && r->cell == rq->cell) return r;
    }
    if (pid)
        err_set(e, ERR_NOT_FOUND, "process with pid %lld not found", pid);
    else
        err_set(e, ERR_NOT_FOUND, "process with tag \"%.100s\" not found", tag);
    return NULL;
}

/* ---- somebody who watches ---- */

struct follower {
    struct process *view; /* NULL: over */
    struct rpc_stream *st;
    struct request *rq; /* held */
    long long sizes[2]; /* bytes of stdout and stderr */
    bool starter, pty;
};

static void follower_free(struct follower *f) {
    request_release(f->rq);
    free(f);
}

/* The span is of the one who started it. */
static struct span *span_of(struct follower *f) { return f->starter ? trace_span(f->rq) : NULL; }

static void send_event(struct follower *f, const char *kind, struct json_object *taken) {
    struct buf b = {0};
    buf_printf(&b, "{\"event\":{\"%s\":", kind);
    json_put(&b, taken);
    buf_str(&b, "}}");
    rpc_send(f->st, b.data, b.len);
    buf_free(&b);
    json_object_put(taken);
}

static void send_start(struct follower *f, struct json_object *start) {
    struct json_object *out = json_object_new_object();
    span_process(span_of(f), start);
    json_set_int(out, "pid", json_object_get_int64(json_field(start, "pid")));
    send_event(f, "start", out);
}

static void send_data(struct follower *f, const char *name, const void *bytes, size_t n) {
    struct buf b = {0};
    buf_printf(&b, "{\"event\":{\"data\":{\"%s\":\"", name);
    rpc_put_base64(&b, bytes, n);
    buf_str(&b, "\"}}}");
    rpc_send(f->st, b.data, b.len);
    buf_free(&b);
    if (rpc_full(f->st)) process_pause(f->view, true);
}

static void send_end(struct follower *f, struct json_object *json, struct err *failed) {
    struct err e;
    struct json_object *end = failed ? NULL : e2b_process_end(json, f->starter, &e);
    f->view = NULL;
    if (!failed) span_process(span_of(f), json);
    span_number(span_of(f), "cella.stdout.bytes", f->sizes[0]);
    span_number(span_of(f), "cella.stderr.bytes", f->sizes[1]);
    if (failed) {
        e = *failed;
        span_fail(span_of(f), e.code);
        /* What the client named is missing (the program, the directory), not what it asked about. */
        if (strcmp(e.code, ERR_NOT_FOUND) == 0) e.code = ERR_INVALID;
    }
    if (end) send_event(f, "end", end);
    rpc_end(f->st, end ? NULL : &e);
    follower_free(f);
}

static void on_process(void *arg, struct process *p, enum process_event event, struct json_object *json, const void *bytes, size_t n,
                       struct err *e) {
    struct follower *f = arg;
    (void)p;
    if (event == PROCESS_STDOUT || event == PROCESS_STDERR) f->sizes[event == PROCESS_STDERR] += (long long)n;
    switch (event) {
    case PROCESS_START: send_start(f, json); break;
    case PROCESS_STDOUT: send_data(f, f->pty ? "pty" : "stdout", bytes, n); break;
    case PROCESS_STDERR: send_data(f, "stderr", bytes, n); break;
    case PROCESS_STDIN_DRAINED: break;
    case PROCESS_END: send_end(f, json, e); break;
    }
}

static void stream_drained(void *arg) {
    struct follower *f = arg;
    if (f->view) process_pause(f->view, false);
}

static void stream_gone(void *arg) {
    struct follower *f = arg;
    if (f->view) {
        span_fail(span_of(f), "the client hung up, the process goes on");
        process_detach(f->view, false);
    }
    follower_free(f);
}

static struct follower *follower_open(struct request *rq, bool starter, bool pty) {
    static const struct rpc_stream_ops ops = {
        .keepalive = "{\"event\":{\"keepalive\":{}}}", .drained = stream_drained, .gone = stream_gone};
    struct follower *f = calloc(1, sizeof *f);
    if (!f) abort();
    *f = (struct follower){.rq = request_hold(rq), .starter = starter, .pty = pty};
    f->st = rpc_open(rq, !starter, &ops, f);
    if (f->st) return f;
    follower_free(f);
    return NULL;
}

static void follow(struct follower *f, struct cell *cell, const char *id) {
    struct err e;
    f->view = process_attach(cell, id, on_process, f, &e);
    if (f->view) return;
    span_fail(span_of(f), e.code);
    rpc_end(f->st, &e);
    follower_free(f);
}

/* ---- Start ---- */

static int take_command(struct json_object *process, struct json_object *body, struct err *e) {
    const char *cmd;
    struct json_object *args = json_field(process, "args"), *argv;
    if (rpc_text(process, "cmd", &cmd, e) < 0) return -1;
    if (!*cmd) return err_set(e, ERR_INVALID, "\"cmd\" is missing");
    if (args && !json_object_is_type(args, json_type_array)) return err_set(e, ERR_INVALID, "\"args\" must be a list");
    argv = json_object_new_array();
    json_object_array_add(argv, json_object_new_string(cmd));
    for (size_t i = 0; args && i < json_object_array_length(args); i++)
        json_object_array_add(argv, json_object_get(json_object_array_get_idx(args, i)));
    json_set(body, "cmd", argv);
    return 0;
}

static int take_cwd(struct json_object *process, const char *user, struct json_object *body, struct err *e) {
    const char *cwd;
    if (rpc_text(process, "cwd", &cwd, e) < 0) return -1;
    if (!*cwd) return 0;
    char *path = e2b_path(user, cwd, e);
    if (!path) return -1;
    json_set_text(body, "cwd", path);
    free(path);
    return 0;
}

static int take_terminal(struct json_object *message, struct json_object *body, struct e2b_process *r, struct err *e) {
    struct json_object *pty, *size;
    long long rows = 24, cols = 80;
    if (rpc_object(message, "pty", &pty, e) < 0) return -1;
    r->pty = pty != NULL;
    if (!pty) return 0;
    if (rpc_object(pty, "size", &size, e) < 0 || json_get_int(size, "rows", 1, 4096, &rows, e) < 0 ||
        json_get_int(size, "cols", 1, 4096, &cols, e) < 0)
        return -1;
    pty = json_object_new_object();
    json_set_int(pty, "rows", rows);
    json_set_int(pty, "cols", cols);
    json_set(body, "pty", pty);
    return 0;
}

/* stdin is open unless the message says false: that is what it was before clients could say so. */
static int take_input(struct json_object *message, struct json_object *body, struct e2b_process *r, struct err *e) {
    bool open = true;
    if (json_get_flag(message, "stdin", &open, e) < 0) return -1;
    r->stdin_open = open || r->pty;
    json_set_flag(body, "stdin", r->stdin_open);
    return 0;
}

static int take_rest(struct request *rq, struct json_object *process, struct json_object *body, const char *user, struct err *e) {
    struct json_object *envs;
    int64_t ms;
    if (rpc_timeout(request_header(rq, "Connect-Timeout-Ms"), &ms, e) < 0 || rpc_object(process, "envs", &envs, e) < 0) return -1;
    if (ms > YEAR_MS) ms = YEAR_MS;
    if (ms) json_set(body, "timeout_seconds", json_object_new_double((double)ms / 1000));
    if (envs) json_set(body, "env", json_object_get(envs));
    json_set_text(body, "user", user);
    return 0;
}

/* What process_start wants; NULL with *e. */
static struct json_object *start_body(struct request *rq, struct json_object *message, const char *user, struct e2b_process *r, struct err *e) {
    struct json_object *process, *body = json_object_new_object();
    const char *tag;
    if (rpc_object(message, "process", &process, e) < 0 || take_command(process, body, e) < 0 || take_cwd(process, user, body, e) < 0 ||
        take_terminal(message, body, r, e) < 0 || take_input(message, body, r, e) < 0 || take_rest(rq, process, body, user, e) < 0 ||
        rpc_text(message, "tag", &tag, e) < 0) {
        json_object_put(body);
        return NULL;
    }
    if (*tag && !(r->tag = strdup(tag))) abort();
    r->config = json_object_get(process);
    return body;
}

static void start(struct request *rq, struct json_object *message) {
    struct err e;
    trace_start(rq, "cella.exec");
    const char *user = e2b_user(rq);
    if (!user) return;
    struct e2b_process *r = calloc(1, sizeof *r);
    if (!r) abort();
    *r = (struct e2b_process){.cell = rq->cell, .last = &r->first};
    struct json_object *body = start_body(rq, message, user, r, &e);
    struct follower *f = NULL;
    span_code(trace_span(rq), body);
    if (!body)
        reply_err(rq, &e);
    else
        f = follower_open(rq, true, r->pty); /* NULL: nobody is there any more who wants it started */
    if (f && !(r->view = process_start(rq->cell, body, on_record, r, &e))) {
        span_fail(trace_span(rq), e.code);
        rpc_end(f->st, &e);
        follower_free(f);
    }
    json_object_put(body);
    if (!r->view) {
        record_free(r);
        return;
    }
    (void)snprintf(r->id, sizeof r->id, "%s", process_id(r->view));
    r->next = e2b_processes;
    e2b_processes = r;
    follow(f, rq->cell, r->id);
}
void e2b_process_start(struct request *rq) { rpc_streaming(rq, start); }

/* ---- Connect, List ---- */

static void connect_(struct request *rq, struct json_object *message) {
    struct err e;
    struct e2b_process *r = e2b_process_of(rq, message, &e);
    if (!r) {
        reply_err(rq, &e);
        return;
    }
    struct follower *f = follower_open(rq, false, r->pty);
    if (f) follow(f, rq->cell, r->id);
}
void e2b_process_connect(struct request *rq) { rpc_streaming(rq, connect_); }

static void list(struct request *rq, struct json_object *message) {
    struct json_object *out = json_object_new_object(), *all = json_object_new_array();
    (void)message;
    for (struct e2b_process *r = e2b_processes; r; r = r->next) {
        if (!r->pid || r->cell != rq->cell) continue;
        struct json_object *one = json_object_new_object();
        json_set_int(one, "pid", r->pid);
        json_set(one, "config", json_object_get(r->config));
        if (r->tag) json_set_text(one, "tag", r->tag);
        json_object_array_add(all, one);
    }
    json_set(out, "processes", all);
    rpc_answer(rq, out);
}
void e2b_process_list(struct request *rq) { rpc_unary(rq, list); }
