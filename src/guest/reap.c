#include "guest/reap.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/loop.h"

static struct loop_watch signals;
static struct reap *entries;

void reap_add(struct reap *r) {
    r->next = entries;
    entries = r;
}

void reap_remove(struct reap *r) {
    for (struct reap **p = &entries; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            return;
        }
}

static void child_ended(pid_t pid, int status) {
    for (struct reap *r = entries; r; r = r->next)
        if (r->pid == pid) {
            reap_remove(r);
            r->ended(r->arg, status);
            return;
        }
}

/* One SIGCHLD may stand for many children: wait until none is left. */
static void signal_ready(void *arg, uint32_t events) {
    (void)arg;
    (void)events;
    struct signalfd_siginfo info;
    while (read(signals.fd, &info, sizeof info) > 0) continue;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0 || (pid < 0 && errno == EINTR);)
        if (pid > 0) child_ended(pid, status);
}

int reap_open(struct err *e) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_SETMASK, &set, NULL) < 0) return err_sys(e, errno, "cannot block SIGCHLD");
    signals = (struct loop_watch){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = signal_ready};
    if (signals.fd < 0) return err_sys(e, errno, "signalfd");
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) return err_sys(e, errno, "cannot become the reaper of orphans");
    loop_watch(&signals, EPOLLIN);
    return 0;
}
