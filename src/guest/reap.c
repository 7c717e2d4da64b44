#include "guest/reap.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/loop.h"

#define REAPED_AT_ONCE 256

static void reap_some(void *arg);

static struct loop_watch signals;
static struct loop_timer again = {.fire = reap_some};
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

/* Wait for every child that has ended, but not for ever: a process that makes orphans as fast as they can be waited for
 * must not keep the guest from its other work. */
static void reap_some(void *arg) {
    (void)arg;
    int status;
    for (int i = 0; i < REAPED_AT_ONCE; i++) {
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0) return;
        child_ended(pid, status);
    }
    loop_after(&again, 0);
}

/* One SIGCHLD may stand for many children. */
static void signal_ready(void *arg, uint32_t events) {
    struct signalfd_siginfo info;
    (void)events;
    while (read(signals.fd, &info, sizeof info) > 0) continue;
    reap_some(arg);
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
