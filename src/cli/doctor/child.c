#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/doctor/report.h"

/* In the child: a process group of its own, so that whatever the probe started goes with it. */
static void in_child(int (*probe)(void *arg, char *why, size_t room), void *arg, int out, size_t room) {
    char why[512] = "";
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int code = probe(arg, why, sizeof why < room ? sizeof why : room);
    if (write(out, why, strlen(why)) < 0) _exit(63);
    _exit(code & 63);
}

int probe_child(int (*probe)(void *arg, char *why, size_t room), void *arg, int timeout_ms, char *why, size_t room) {
    int ends[2];
    why[0] = 0;
    if (pipe2(ends, O_CLOEXEC) < 0) return CHILD_CRASHED;
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return CHILD_CRASHED;
    }
    if (pid == 0) in_child(probe, arg, ends[1], room);
    close(ends[1]);
    size_t used = 0;
    bool late = false;
    for (int64_t until = monotonic_ms() + timeout_ms;;) {
        struct pollfd p = {.fd = ends[0], .events = POLLIN};
        int64_t left = until - monotonic_ms();
        if (left <= 0 || poll(&p, 1, (int)left) == 0) {
            late = true;
            break;
        }
        ssize_t n = read(ends[0], why + used, room - 1 - used);
        if (n <= 0) break; /* the child closed it: done, or dead */
        used += (size_t)n;
    }
    why[used] = 0;
    close(ends[0]);
    /* The pipe may be closed a moment before the child is a zombie; killing the group then hits what it left behind. */
    int status = 0;
    if (late) (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
    (void)kill(-pid, SIGKILL);
    if (late) return CHILD_TIMEOUT;
    return WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_CRASHED;
}

const char *probe_read(const char *path, char *out, size_t room) {
    out[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, room - 1) : -1;
    if (fd >= 0) close(fd);
    out[n > 0 ? n : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    return out;
}
