#include "guest/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "guest/child.h"
#include "guest/drain.h"
#include "guest/loop.h"
#include "guest/pty.h"
#include "guest/reap.h"
#include "guest/stream.h"
#include "wire/guest_proto.h"

#define HUNG_MS 50 /* between two looks at a terminal that its program has closed, but might open again */
#define NO_LIMIT (-1)
#define END_OF_INPUT "\x04" /* what a terminal's line discipline takes for end of file */

struct output {
    struct loop_watch watch;
    struct proc *proc;
    uint16_t frame_type;
    int left; /* bytes still to deliver before the pipe is given up; NO_LIMIT: until its end */
};

struct proc {
    struct channel *channel;
    struct reap child;
    struct loop_watch status, in;
    struct output out, err;
    struct loop_timer grace;
    struct buf input; /* DATA that the pipe has not taken yet */
    bool input_eof, pty, started, reaped, closed;
    bool hung; /* nobody has the terminal open at the moment */
    int wait_status;
};

/* Every descriptor made for one start; whatever is left is closed on the way out. */
struct ends {
    int in[2], out[2], err[2], status[2];
};

static void ends_close(struct ends *d) {
    int *all = d->in;
    for (size_t i = 0; i < sizeof *d / sizeof(int); i++) close_fd(&all[i]);
}

static void proc_flow(struct proc *p) {
    bool room = p->started && !p->hung && p->channel->credit > 0 && !stream_full();
    loop_watch(&p->out.watch, room && p->out.left ? EPOLLIN : 0u);
    loop_watch(&p->err.watch, room && p->err.left ? EPOLLIN : 0u);
    loop_watch(&p->in, p->input.len || p->input_eof ? EPOLLOUT : 0u);
}

/* The channel's end is sent or not wanted: nothing of p is used after this. */
static void proc_free(struct proc *p) {
    reap_remove(&p->child);
    loop_cancel(&p->grace);
    loop_close(&p->status);
    loop_close(&p->in);
    struct output *outs[] = {&p->out, &p->err};
    for (size_t i = 0; i < 2; i++) {
        if (outs[i]->watch.fd < 0) continue;
        loop_watch(&outs[i]->watch, 0);
        drain_add(outs[i]->watch.fd);
    }
    buf_free(&p->input);
    loop_free(p);
}

static void proc_end(struct proc *p) {
    char text[48];
    int n = WIFSIGNALED(p->wait_status)
                ? snprintf(text, sizeof text, "{\"signal\":%d}", WTERMSIG(p->wait_status))
                : snprintf(text, sizeof text, "{\"exit_code\":%d}", WEXITSTATUS(p->wait_status));
    channel_end(p->channel, text, (size_t)n);
    proc_free(p);
}

static void proc_fail(struct proc *p, const struct err *e) {
    channel_fail(p->channel, e);
    proc_free(p);
}

static bool output_done(const struct output *o) { return o->watch.fd < 0 || o->left == 0; }

static void proc_check_end(struct proc *p) {
    if (p->started && p->reaped && (p->closed || (output_done(&p->out) && output_done(&p->err))))
        proc_end(p);
    else
        proc_flow(p);
}

static void output_ready(void *arg, uint32_t events) {
    static char bytes[WIRE_PAYLOAD_MAX];
    struct output *o = arg;
    struct proc *p = o->proc;
    (void)events;
    size_t most = sizeof bytes;
    if (most > p->channel->credit) most = p->channel->credit;
    if (o->left != NO_LIMIT && most > (size_t)o->left) most = (size_t)o->left;
    if (!most || stream_full()) {
        proc_flow(p);
        return;
    }
    ssize_t n = read(o->watch.fd, bytes, most);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        if (o->left == NO_LIMIT) return;
        o->left = 0; /* less was there than counted: nothing to wait for */
    } else if (n < 0 && p->pty && !p->reaped) {
        /* EIO: nobody has it open. To close it now would send SIGHUP to a program that is just about to exit. */
        p->hung = true;
        loop_after(&p->grace, HUNG_MS);
    } else if (n <= 0) {
        loop_close(&o->watch);
    } else {
        channel_send(p->channel, o->frame_type, bytes, (size_t)n);
        if (o->left != NO_LIMIT) o->left -= (int)n;
    }
    proc_check_end(p);
}

static void terminal_look(struct proc *p) {
    p->hung = false;
    proc_flow(p);
}

/* The process is dead for PROC_GRACE_MS and somebody still holds a pipe: deliver what is in it now, no more. */
static void grace_over(void *arg) {
    struct proc *p = arg;
    struct output *outs[] = {&p->out, &p->err};
    if (!p->reaped) {
        terminal_look(p);
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        int waiting = 0;
        if (outs[i]->watch.fd < 0) continue;
        if (ioctl(outs[i]->watch.fd, FIONREAD, &waiting) < 0) waiting = 0;
        outs[i]->left = waiting;
    }
    proc_check_end(p);
}

static void input_drop(struct proc *p) {
    loop_close(&p->in);
    channel_consumed(p->channel, p->input.len);
    buf_clear(&p->input);
}

static void child_ended(void *arg, int status) {
    struct proc *p = arg;
    p->reaped = true;
    p->hung = false;
    p->wait_status = status;
    input_drop(p);
    loop_after(&p->grace, PROC_GRACE_MS);
    proc_check_end(p);
}

/* The pipe ends with exec, or carries the reason why there was none. */
static void status_ready(void *arg, uint32_t events) {
    struct proc *p = arg;
    struct child_failure f;
    (void)events;
    ssize_t n = read(p->status.fd, &f, sizeof f);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    loop_close(&p->status);
    if (n == (ssize_t)sizeof f) {
        struct err e;
        f.code[sizeof f.code - 1] = f.text[sizeof f.text - 1] = 0;
        err_set(&e, f.code, "%s", f.text);
        proc_fail(p, &e);
        return;
    }
    char text[32];
    int len = snprintf(text, sizeof text, "{\"pid\":%d}", (int)p->child.pid);
    channel_reply(p->channel, text, (size_t)len);
    p->started = true;
    proc_check_end(p);
}

static void input_push(struct proc *p) {
    while (p->in.fd >= 0 && p->input.len) {
        ssize_t n = write(p->in.fd, p->input.data, p->input.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) { /* nobody reads it any more: that is the program's choice, not an error */
            input_drop(p);
            break;
        }
        buf_consume(&p->input, (size_t)n);
        channel_consumed(p->channel, (size_t)n);
    }
    if (!p->input.len && p->input_eof && p->in.fd >= 0) {
        if (p->pty && write(p->in.fd, END_OF_INPUT, 1) < 0 && errno == EAGAIN) return;
        loop_close(&p->in);
    }
}

static void input_ready(void *arg, uint32_t events) {
    (void)events;
    input_push(arg);
    proc_flow(arg);
}

static void on_data(struct channel *c, const uint8_t *bytes, size_t n, bool eof) {
    struct proc *p = c->impl;
    if (p->in.fd < 0) {
        channel_consumed(c, n);
        return;
    }
    buf_append(&p->input, bytes, n);
    p->input_eof |= eof;
    input_push(p);
    proc_flow(p);
}

static void send_signal(const struct proc *p, int signo, bool group) {
    /* The group may outlive its leader; the leader's own number is free again once it has been waited for. */
    if (group) (void)kill(-p->child.pid, signo);
    if (!p->reaped && (!group || !p->started)) (void)kill(p->child.pid, signo);
}

static void on_control(struct channel *c, json_object *m) {
    struct proc *p = c->impl;
    json_object *v, *rows, *cols;
    if (json_object_object_get_ex(m, "signal", &v)) {
        int signo = json_object_get_int(v);
        bool group = json_object_object_get_ex(m, "group", &v) && json_object_get_boolean(v);
        if (signo > 0 && signo <= SIGRTMAX) send_signal(p, signo, group);
    }
    if (p->pty && p->out.watch.fd >= 0 && json_object_object_get_ex(m, "resize", &v) &&
        json_object_object_get_ex(v, "rows", &rows) && json_object_object_get_ex(v, "cols", &cols))
        (void)pty_resize(p->out.watch.fd, (uint16_t)json_object_get_int(rows), (uint16_t)json_object_get_int(cols));
}

static void on_close(struct channel *c) {
    struct proc *p = c->impl;
    p->closed = true;
    send_signal(p, SIGKILL, true);
    if (!p->reaped) (void)kill(p->child.pid, SIGKILL);
    p->out.left = p->err.left = 0;
    proc_check_end(p);
}

static void on_flow(struct channel *c) { proc_flow(c->impl); }
static void on_forget(struct channel *c) { proc_free(c->impl); }

static const struct channel_ops proc_ops = {
    .data = on_data, .control = on_control, .close = on_close, .flow = on_flow, .forget = on_forget};

static int nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static int ends_make(struct ends *d, const struct request *r, struct err *e) {
    if (pipe2(d->status, O_CLOEXEC) < 0) return err_sys(e, errno, "cannot make a pipe");
    if (r->pty) {
        if (pty_open(r->as_root, r->rows, r->cols, &d->out[0], &d->out[1], e) < 0) return -1;
        d->in[0] = fcntl(d->out[1], F_DUPFD_CLOEXEC, 0);
        d->err[1] = fcntl(d->out[1], F_DUPFD_CLOEXEC, 0);
        d->in[1] = fcntl(d->out[0], F_DUPFD_CLOEXEC, 0); /* epoll wants a second number for the second direction */
        if (d->in[0] < 0 || d->err[1] < 0 || d->in[1] < 0) return err_sys(e, errno, "cannot copy a descriptor");
    } else if (pipe2(d->out, O_CLOEXEC) < 0 || pipe2(d->err, O_CLOEXEC) < 0 ||
               (r->with_stdin && pipe2(d->in, O_CLOEXEC) < 0))
        return err_sys(e, errno, "cannot make a pipe");
    int own[] = {d->status[0], d->out[0], d->err[0], d->in[1]};
    for (size_t i = 0; i < 4; i++)
        if (own[i] >= 0 && nonblocking(own[i]) < 0) return err_sys(e, errno, "cannot make a pipe non-blocking");
    return 0;
}

static pid_t start_child(const struct ends *d, const struct request *r, struct err *e) {
    struct env env = env_for_process(r->as_root, r->pty, &r->env);
    const struct child_spec spec = {
        .as_root = r->as_root,
        .pty = r->pty,
        .in_fd = d->in[0] >= 0 ? d->in[0] : STDIN_FILENO, /* the guest's own is /dev/null */
        .out_fd = d->out[1],
        .err_fd = d->err[1],
        .status_fd = d->status[1],
        .argv = r->argv,
        .envp = env.vars,
        .cmd = r->cmd,
        .cwd = r->cwd,
        .path = env_get(&env, "PATH"),
    };
    pid_t pid = fork();
    if (pid == 0) child_run(&spec);
    if (pid < 0) err_set(e, ERR_LIMIT, "cannot start a process: %s", strerror(errno));
    env_free(&env);
    return pid;
}

void proc_start(struct channel *c, struct request *r) {
    struct err e;
    struct ends d = {{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    pid_t pid = -1;
    if (ends_make(&d, r, &e) == 0) pid = start_child(&d, r, &e);
    if (pid < 0) {
        if (e.sys_errno == EMFILE || e.sys_errno == ENFILE || e.sys_errno == ENOMEM) e.code = ERR_LIMIT;
        ends_close(&d);
        channel_fail(c, &e);
        return;
    }
    struct proc *p = calloc(1, sizeof *p);
    if (!p) abort();
    *p = (struct proc){
        .channel = c,
        .pty = r->pty,
        .child = {.pid = pid, .ended = child_ended, .arg = p},
        .status = {.fd = steal_fd(&d.status[0]), .ready = status_ready, .arg = p},
        .in = {.fd = steal_fd(&d.in[1]), .ready = input_ready, .arg = p},
        .out = {.watch = {.fd = steal_fd(&d.out[0]), .ready = output_ready, .arg = &p->out},
                .proc = p,
                .frame_type = GUEST_DATA,
                .left = NO_LIMIT},
        .err = {.watch = {.fd = steal_fd(&d.err[0]), .ready = output_ready, .arg = &p->err},
                .proc = p,
                .frame_type = GUEST_DATA_ERR,
                .left = NO_LIMIT},
        .grace = {.fire = grace_over, .arg = p},
    };
    ends_close(&d);
    c->ops = &proc_ops;
    c->impl = p;
    reap_add(&p->child);
    loop_watch(&p->status, EPOLLIN);
}
