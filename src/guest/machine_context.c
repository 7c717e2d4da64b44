#include "guest/machine_context.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "guest/child.h"
#include "guest/identity.h"
#include "guest/loop.h"
#include "guest/machine_group.h"
#include "guest/machine_relay.h"
#include "guest/machine_zygote.h"
#include "guest/reap.h"
#include "wire/context_proto.h"

enum { EXITED, KILLED, OUT_OF_MEMORY }; /* enum context_fate of driver/driver.h */

struct context {
    enum { EMPTY, STARTING, ALIVE, DRAINING } state;
    bool gated, killed, unborn; /* killed: by the driver's signal; unborn: it never ran, and nobody is told of an end */
    struct reap child;
    struct loop_watch gate; /* a Python context's, until it has passed it */
    int status;
    void (*done)(void *arg, pid_t pid, const struct err *);
    void *arg;
};

static struct context contexts[KEEPER_SLOTS];
static void (*exited_callback)(unsigned, uint32_t, int);
static uint64_t oom_seen; /* kills that were told as some context's fate, or happened before */
static uint32_t open_files;

static unsigned slot_of(const struct context *c) { return (unsigned)(c - contexts); }

static void tell_done(struct context *c, pid_t pid, const struct err *e) {
    void (*done)(void *, pid_t, const struct err *) = c->done;
    c->done = NULL;
    if (done) done(c->arg, pid, e);
}

/* ---- the end ---- */

static void relay_ended(unsigned index) {
    struct context *c = &contexts[index];
    if (index >= KEEPER_SLOTS || c->state != DRAINING) return;
    uint64_t memory, kills;
    uint32_t pids, fate = WIFSIGNALED(c->status) ? KILLED : EXITED;
    group_stats(&memory, &pids, &kills);
    if (fate == KILLED && WTERMSIG(c->status) == SIGKILL && !c->killed && kills > oom_seen) fate = OUT_OF_MEMORY;
    oom_seen = kills;
    const int code = WIFSIGNALED(c->status) ? WTERMSIG(c->status) : WEXITSTATUS(c->status);
    const bool unborn = c->unborn;
    *c = (struct context){.state = EMPTY, .gate = {.fd = -1}};
    if (!unborn) exited_callback(index, fate, code);
}

static void child_ended(void *arg, int status) {
    struct context *c = arg;
    struct err e;
    c->status = status;
    c->state = DRAINING;
    loop_close(&c->gate);
    err_set(&e, ERR_INTERNAL, "the context ended while it was started");
    tell_done(c, 0, &e);
    relay_finish(slot_of(c));
}

/* ---- the start ---- */

struct ends {
    int out[2], err[2], stream[2], gate[2]; /* [0] the guest's */
};

static void ends_close(struct ends *d) {
    int *all = d->out;
    for (size_t i = 0; i < sizeof *d / sizeof(int); i++) close_fd(&all[i]);
}

static int ends_make(struct ends *d, struct err *e) {
    *d = (struct ends){{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    if (pipe2(d->out, O_CLOEXEC) < 0 || pipe2(d->err, O_CLOEXEC) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, d->stream) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, d->gate) < 0) {
        err_sys(e, errno, "descriptors of a context");
        ends_close(d);
        return -1;
    }
    return 0;
}

static int attach(struct context *c, struct ends *d, struct err *e) {
    const struct relay_ends ends = {.inner = steal_fd(&d->stream[0]), .far = fcntl(d->stream[1], F_DUPFD_CLOEXEC, 0), .out = steal_fd(&d->out[0]), .err = steal_fd(&d->err[0])};
    return relay_attach(slot_of(c), &ends, e);
}

static void limit_files(pid_t pid) {
    const struct rlimit files = {open_files, open_files};
    if (open_files && prlimit(pid, RLIMIT_NOFILE, &files, NULL) < 0) log_warn("open files of process %d: %s", pid, strerror(errno));
}

/* A process of the zygote's making, at or before its gate. It may have died already, and been waited for: then nobody would ever say so. */
static void forked(void *arg, pid_t pid, const struct err *failed) {
    struct context *c = arg;
    struct err e;
    if (failed || kill(pid, 0) < 0 || group_add(pid, &e) < 0) {
        if (!failed && pid > 0) (void)kill(pid, SIGKILL);
        if (!failed) err_set(&e, ERR_INTERNAL, "the context ended while it was started");
        c->state = DRAINING; /* until the relay has let go */
        c->unborn = true;
        loop_close(&c->gate);
        tell_done(c, 0, failed ? failed : &e);
        relay_finish(slot_of(c));
        return;
    }
    limit_files(pid);
    c->state = ALIVE;
    c->child = (struct reap){.pid = pid, .ended = child_ended, .arg = c};
    reap_add(&c->child);
    if (!c->gated) tell_done(c, pid, NULL);
}

/* It stands at its gate ('W'), or has passed it and closed its end. */
static void gate_ready(void *arg, uint32_t events) {
    struct context *c = arg;
    char byte = 0;
    (void)events;
    if (recv(c->gate.fd, &byte, 1, MSG_DONTWAIT) == 1 && byte == 'W') {
        if (c->gated && c->state == ALIVE) tell_done(c, c->child.pid, NULL);
    } else
        loop_close(&c->gate);
}

static void open_gate(struct context *c) {
    c->gated = false;
    if (c->gate.fd >= 0 && send(c->gate.fd, "G", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) log_warn("gate of a context: %s", strerror(errno));
}

static int start_python(struct context *c, struct ends *d, struct err *e) {
    const struct zygote_fork ends = {.out = d->out[1], .err = d->err[1], .stream = d->stream[1], .gate = d->gate[1]};
    if (zygote_fork(&ends, forked, c, e) < 0) return -1;
    c->gate = (struct loop_watch){.fd = steal_fd(&d->gate[0]), .ready = gate_ready, .arg = c};
    loop_watch(&c->gate, EPOLLIN);
    if (!c->gated) open_gate(c);
    return 0;
}

static _Noreturn void become_shell(const struct ends *d) {
    static char *const argv[] = {"/bin/bash", "--noprofile", "--norc", "/usr/lib/cella/shell/kernel.sh", NULL};
    static char *environment[16];
    const struct rlimit files = {open_files, open_files};
    size_t n = 0;
    sigset_t none;
    struct err e;
    for (; zygote_environment[n + 1]; n++) environment[n] = zygote_environment[n]; /* all but the last, which is the zygote's own */
    environment[n] = "CELLA_KERNEL_DIRECT=1";
    sigemptyset(&none);
    /* All sources lie above 2, and below 60 only if the table is small: out of the way first. */
    const int stream = fcntl(d->stream[1], F_DUPFD, CONTEXT_FD + 1);
    if (child_enter_group(&e) == 0) {
        if (setsid() < 0 || stream < 0 || dup2(d->out[1], 1) < 0 || dup2(d->err[1], 2) < 0 || dup2(stream, CONTEXT_FD) < 0 || close_range(3, CONTEXT_FD - 1, 0) < 0 ||
            close_range(CONTEXT_FD + 1, ~0u, 0) < 0 || (open_files && setrlimit(RLIMIT_NOFILE, &files) < 0) || signal(SIGPIPE, SIG_DFL) == SIG_ERR ||
            sigprocmask(SIG_SETMASK, &none, NULL) < 0)
            err_sys(&e, errno, "cannot prepare the shell");
        else if (identity_become(false, &e) == 0) {
            umask(022);
            if (chdir(IDENTITY_HOME) < 0 && chdir("/") < 0) _exit(127);
            execve(argv[0], argv, environment);
            err_sys(&e, errno, "cannot start %s", argv[0]);
        }
    }
    log_error("%s", e.text);
    _exit(127);
}

static int start_shell(struct context *c, struct ends *d, struct err *e) {
    const pid_t pid = fork();
    if (pid == 0) become_shell(d);
    if (pid < 0) return err_sys(e, errno, "fork");
    c->state = ALIVE;
    c->child = (struct reap){.pid = pid, .ended = child_ended, .arg = c};
    reap_add(&c->child);
    return 0;
}

/* done() must not come from inside context_start(): a shell's is told by the next round of the loop. */
static void tell_started(void *arg) {
    struct context *c = arg;
    tell_done(c, c->child.pid, NULL);
}

int context_start(unsigned slot, uint32_t language, bool gated, void (*done)(void *, pid_t, const struct err *), void *arg, struct err *e) {
    static struct loop_timer soon[KEEPER_SLOTS];
    struct ends d;
    if (slot >= KEEPER_SLOTS || (language != KEEPER_PYTHON && language != KEEPER_SHELL)) return err_sys(e, EINVAL, "slot %u, language %u", slot, language);
    struct context *c = &contexts[slot];
    if (c->state != EMPTY) return err_sys(e, EEXIST, "slot %u is taken", slot);
    if (!relay_connected(slot)) return err_sys(e, EAGAIN, "slot %u has no connection", slot);
    if (ends_make(&d, e) < 0) return -1;
    *c = (struct context){.state = STARTING, .gated = gated && language == KEEPER_PYTHON, .gate = {.fd = -1}, .done = done, .arg = arg};
    int rc = attach(c, &d, e);
    if (rc == 0) {
        rc = language == KEEPER_PYTHON ? start_python(c, &d, e) : start_shell(c, &d, e);
        if (rc < 0) {
            c->state = DRAINING;
            c->unborn = true;
            c->done = NULL;
            relay_finish(slot);
        }
    } else
        c->state = EMPTY;
    ends_close(&d);
    if (rc == 0 && language == KEEPER_SHELL) {
        soon[slot] = (struct loop_timer){.fire = tell_started, .arg = c};
        loop_after(&soon[slot], 0);
    }
    return rc;
}

/* ---- the rest ---- */

int contexts_open(void (*exited)(unsigned, uint32_t, int), struct err *e) {
    exited_callback = exited;
    for (unsigned i = 0; i < KEEPER_SLOTS; i++) contexts[i].gate.fd = -1;
    return relays_open(relay_ended, e);
}

int context_signal(unsigned slot, int signo, struct err *e) {
    if (slot >= KEEPER_SLOTS || contexts[slot].state != ALIVE) return err_sys(e, ESRCH, "slot %u", slot);
    if (signo <= 0 || signo > SIGRTMAX) return err_sys(e, EINVAL, "signal %d", signo);
    contexts[slot].killed |= signo == SIGKILL;
    return kill(contexts[slot].child.pid, signo) < 0 ? err_sys(e, errno, "signal %d", signo) : 0;
}

uint32_t contexts_alive(void) {
    uint32_t mask = 0;
    for (unsigned i = 0; i < KEEPER_SLOTS; i++) mask |= contexts[i].state == ALIVE ? 1u << i : 0u;
    return mask;
}

void contexts_forked(void) {
    uint64_t memory;
    uint32_t pids;
    group_stats(&memory, &pids, &oom_seen);
    for (unsigned i = 0; i < KEEPER_SLOTS; i++) {
        struct context *c = &contexts[i];
        if (c->state != ALIVE) continue;
        if (c->gated) {
            open_gate(c);
            continue;
        }
        (void)kill(c->child.pid, CONTEXT_FORKED_SIGNAL);
    }
}

void contexts_limit_files(uint32_t files) {
    open_files = files;
    for (unsigned i = 0; i < KEEPER_SLOTS; i++)
        if (contexts[i].state == ALIVE) limit_files(contexts[i].child.pid);
}

bool contexts_quiet(void) {
    for (unsigned i = 0; i < KEEPER_SLOTS; i++)
        if (contexts[i].state == ALIVE && !relay_quiet(i)) return false;
    return true;
}
