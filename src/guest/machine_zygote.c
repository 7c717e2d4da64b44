#include "guest/machine_zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdpass.h"
#include "base/log.h"
#include "guest/identity.h"
#include "guest/loop.h"
#include "guest/machine_group.h"
#include "guest/reap.h"

#define LINK_FD 3
#define OPEN_FILES 65536 /* the hard limit that contexts inherit; each cell lowers it */

/* A fork that somebody waits for; the descriptors are copies of the caller's until they were sent. */
struct wish {
    int fds[4];
    bool sent;
    void (*done)(void *arg, pid_t pid, const struct err *);
    void *arg;
    struct wish *next;
};

static struct wish *wishes; /* oldest first */
static struct reap process;
static struct loop_watch link_watch = {.fd = -1};
static bool ready;
static int64_t started_ms;

char *const zygote_environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/workspace", "USER=user", "LANG=C.UTF-8",
                                    "PYTHONHASHSEED=0", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", "MPLBACKEND=agg", "MPLCONFIGDIR=/var/cache/matplotlib",
                                    "CELLA_KERNEL_FORKS=3", NULL};

pid_t zygote_pid(void) { return process.pid; }

static void wish_end(pid_t pid, const struct err *e) {
    struct wish *w = wishes;
    wishes = w->next;
    for (size_t i = 0; i < 4; i++) close_fd(&w->fds[i]);
    w->done(w->arg, pid, e);
    free(w);
}

static void send_wishes(void) {
    for (struct wish *w = wishes; w && ready; w = w->next) {
        if (w->sent) continue;
        if (fdpass_send(link_watch.fd, "F", 1, w->fds, 4, MSG_DONTWAIT) < 0) return; /* its death will say it, or the next answer makes room */
        for (size_t i = 0; i < 4; i++) close_fd(&w->fds[i]);
        w->sent = true;
    }
}

static void take(const char *text, size_t n) {
    struct err e;
    uint32_t pid;
    if (n == 1 && text[0] == 'Z' && !ready) {
        ready = true;
        log_info("python is warm after %lld ms", (long long)(monotonic_ms() - started_ms));
    } else if (n == 1 + sizeof pid && text[0] == 'P' && wishes && wishes->sent) {
        memcpy(&pid, text + 1, sizeof pid);
        wish_end((pid_t)pid, NULL);
    } else if (n > 1 && text[0] == 'E' && wishes && wishes->sent) {
        err_set(&e, ERR_LIMIT, "cannot start a context: %.*s", (int)(n - 1), text + 1);
        wish_end(0, &e);
    } else {
        log_error("the warm interpreter broke the protocol");
        (void)kill(process.pid, SIGKILL);
    }
    send_wishes();
}

static void link_ready(void *arg, uint32_t events) {
    char text[256];
    (void)arg, (void)events;
    const ssize_t n = recv(link_watch.fd, text, sizeof text, MSG_DONTWAIT);
    if (n > 0)
        take(text, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        loop_close(&link_watch);
}

static void ended(void *arg, int status) {
    struct err e;
    (void)arg;
    log_error("the warm interpreter ended: %s %d", WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    process.pid = 0;
    ready = false;
    loop_close(&link_watch);
    err_set(&e, ERR_INTERNAL, "the template's interpreter ended while it was started (%s %d)", WIFSIGNALED(status) ? "signal" : "status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    while (wishes) wish_end(0, &e);
}

/* ---- the child ---- */

static _Noreturn void become(int link) {
    static char *const argv[] = {"/usr/bin/python3", "-X", "utf8", "/usr/lib/cella/python/kernel.py", NULL};
    const struct rlimit files = {OPEN_FILES, OPEN_FILES};
    sigset_t none;
    struct err e;
    sigemptyset(&none);
    if (setsid() < 0 || dup2(link, LINK_FD) < 0 || close_range(LINK_FD + 1, ~0u, 0) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 ||
        signal(SIGPIPE, SIG_DFL) == SIG_ERR || sigprocmask(SIG_SETMASK, &none, NULL) < 0 || chdir("/") < 0)
        err_sys(&e, errno, "cannot prepare the interpreter");
    else if (identity_become(false, &e) == 0) {
        execve(argv[0], argv, zygote_environment);
        err_sys(&e, errno, "cannot start %s", argv[0]);
    }
    log_error("%s", e.text);
    _exit(127);
}

static int start(struct err *e) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return err_sys(e, errno, "socketpair");
    const pid_t pid = fork();
    if (pid == 0) {
        if (pair[1] != LINK_FD) become(pair[1]);
        _exit(127);
    }
    close(pair[1]);
    if (pid < 0 || group_add_zygote(pid, e) < 0) {
        if (pid < 0) err_sys(e, errno, "fork");
        if (pid > 0) (void)kill(pid, SIGKILL);
        close(pair[0]);
        return -1;
    }
    process = (struct reap){.pid = pid, .ended = ended};
    reap_add(&process);
    link_watch = (struct loop_watch){.fd = pair[0], .ready = link_ready};
    loop_watch(&link_watch, EPOLLIN);
    ready = false;
    started_ms = monotonic_ms();
    return 0;
}

int zygote_fork(const struct zygote_fork *ends, void (*done)(void *, pid_t, const struct err *), void *arg, struct err *e) {
    if (!process.pid && start(e) < 0) return -1;
    struct wish *w = malloc(sizeof *w), **at = &wishes;
    if (!w) abort();
    *w = (struct wish){.done = done, .arg = arg};
    const int from[] = {ends->out, ends->err, ends->stream, ends->gate};
    for (size_t i = 0; i < 4; i++) w->fds[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 0);
    while (*at) at = &(*at)->next;
    *at = w;
    send_wishes();
    return 0;
}
