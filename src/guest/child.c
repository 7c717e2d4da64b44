#include "guest/child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/identity.h"

#define STATUS_FD 3    /* where the child keeps status_fd until exec */
#define SHELL_ARGS 128 /* arguments of a script without a #! line, as execvp(3) runs it */

static struct rlimit nofile;
static bool nofile_known;
static int group_fd = -1;

void child_set_nofile(const struct rlimit *limit) {
    nofile = *limit;
    nofile_known = true;
}

void child_set_group(int procs_fd) { group_fd = procs_fd; }

int child_enter_group(struct err *e) {
    if (group_fd < 0) return 0;
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, "0", 1) == 1;
    if (fd >= 0) close(fd);
    return ok && write(group_fd, "0", 1) == 1 ? 0 : err_sys(e, errno, "cannot join the sandbox");
}

/* 0, 1, 2 and the status pipe in their places, everything else closed: the stream to the daemon and the keeper's socket
 * are gone from here before the child is anybody's but the guest's. */
static int place_descriptors(const struct child_spec *s, struct err *e) {
    /* All sources lie above 2 (the guest keeps 0-2 open), so no dup2 here overwrites one that is still needed.
     * STATUS_FD is the guest's stream until now. */
    if (dup2(s->in_fd, 0) < 0 || dup2(s->out_fd, 1) < 0 || dup2(s->err_fd, 2) < 0 ||
        dup3(s->status_fd, STATUS_FD, O_CLOEXEC) < 0)
        return err_sys(e, errno, "cannot place descriptors");
    if (close_range(STATUS_FD + 1, ~0u, 0) < 0) return err_sys(e, errno, "cannot close descriptors");
    return 0;
}

static int own_session(bool pty, struct err *e) {
    if (setsid() < 0) return err_sys(e, errno, "cannot start a session");
    if (pty && ioctl(0, TIOCSCTTY, 0) < 0) return err_sys(e, errno, "cannot take the terminal");
    return 0;
}

/* The guest handles no signal and ignores only SIGPIPE (main.c resets what it inherited). */
static int default_signals(struct err *e) {
    sigset_t none;
    sigemptyset(&none);
    if (signal(SIGPIPE, SIG_DFL) == SIG_ERR || sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return err_sys(e, errno, "cannot reset signals");
    if (nofile_known && setrlimit(RLIMIT_NOFILE, &nofile) < 0) return err_sys(e, errno, "cannot reset RLIMIT_NOFILE");
    return 0;
}

static int enter_directory(const struct child_spec *s, struct err *e) {
    if (s->cwd) return chdir(s->cwd) < 0 ? err_sys(e, errno, "working directory %s", s->cwd) : 0;
    if (chdir(identity_home(s->as_root)) == 0 || chdir("/") == 0) return 0;
    return err_sys(e, errno, "working directory /");
}

/* A file that is executable but no program: a script without #!, which every shell would run with sh. */
static void run_as_script(const char *file, char **argv, char **envp) {
    char *args[SHELL_ARGS + 3] = {"/bin/sh", (char *)(uintptr_t)file};
    int n = 0;
    while (argv[n] && argv[n + 1] && n < SHELL_ARGS) {
        args[n + 2] = argv[n + 1];
        n++;
    }
    if (argv[0] && argv[n] && argv[n + 1]) {
        errno = E2BIG;
        return;
    }
    execve("/bin/sh", args, envp);
}

static void try_exec(const char *file, const struct child_spec *s) {
    execve(file, s->argv, s->envp);
    if (errno == ENOEXEC) run_as_script(file, s->argv, s->envp);
}

/* Like execvpe(3), with the PATH of the new environment. Returns only on failure, *e filled. */
static int exec_program(const struct child_spec *s, struct err *e) {
    const char *name = s->argv[0];
    int kept = ENOENT;
    if (strchr(name, '/')) {
        try_exec(name, s);
        kept = errno;
    } else {
        for (const char *at = s->path; at && *at;) {
            size_t len = strcspn(at, ":");
            char file[PATH_MAX];
            int n = snprintf(file, sizeof file, "%.*s/%s", len ? (int)len : 1, len ? at : ".", name);
            if (n > 0 && (size_t)n < sizeof file) try_exec(file, s);
            if (errno != ENOENT && errno != ENOTDIR) kept = errno;
            if (kept != ENOENT && kept != EACCES) break;
            at += len + (at[len] == ':');
        }
    }
    if (kept == ENOENT) return err_set(e, ERR_NOT_FOUND, "command not found: %s", name);
    if (kept == E2BIG) return err_set(e, ERR_TOO_LARGE, "arguments and environment are too long for %s", name);
    if (kept == ENOEXEC) return err_set(e, ERR_INVALID, "%s is no program of this machine", name);
    if (kept == EAGAIN || kept == ENOMEM) return err_set(e, ERR_LIMIT, "cannot start %s: %s", name, strerror(kept));
    return err_sys(e, kept, "cannot start %s", name);
}

static int exec_shell(const struct child_spec *s, struct err *e) {
    static const char *const shells[] = {"/bin/bash", "/bin/sh"};
    for (size_t i = 0; i < 2; i++) {
        char *argv[] = {(char *)(uintptr_t)(shells[i] + 5), "-c", (char *)(uintptr_t)s->cmd, NULL};
        execve(shells[i], argv, s->envp);
        if (errno == E2BIG) return err_set(e, ERR_TOO_LARGE, "command and environment are too long");
        if (errno != ENOENT) return err_sys(e, errno, "cannot start %s", shells[i]);
    }
    return err_set(e, ERR_NOT_FOUND, "this template has neither /bin/bash nor /bin/sh");
}

static int child_become(const struct child_spec *s, struct err *e) {
    if (child_enter_group(e) < 0 || place_descriptors(s, e) < 0 || own_session(s->pty, e) < 0 || default_signals(e) < 0 ||
        identity_become(s->as_root, e) < 0 || enter_directory(s, e) < 0)
        return -1;
    umask(022);
    return s->argv ? exec_program(s, e) : exec_shell(s, e);
}

void child_run(const struct child_spec *s) {
    struct err e;
    struct child_failure f = {0};
    int status_fd = s->status_fd;
    child_become(s, &e);
    (void)snprintf(f.code, sizeof f.code, "%s", e.code);
    (void)snprintf(f.text, sizeof f.text, "%s", e.text);
    /* Before place_descriptors() succeeded the pipe is still where the parent made it. */
    if (write(fcntl(status_fd, F_GETFD) >= 0 ? status_fd : STATUS_FD, &f, sizeof f) < 0) _exit(126);
    _exit(127);
}
