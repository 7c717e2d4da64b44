#include "cli/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* Field 22 of /proc/PID/stat: clock ticks between boot and start. 0: no such process. The name in field 2 may hold
 * blanks and brackets, so counting starts after the last ')'. */
static unsigned long long start_time(pid_t pid) {
    char path[64], text[4096];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (n <= 0) return 0;
    text[n] = 0;
    char *p = strrchr(text, ')'), state = 0;
    unsigned long long start = 0;
    if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state,
                     &start) != 2)
        return 0;
    return state == 'Z' ? 0 : start;
}

int pidfile_write(const char *path, pid_t pid, struct err *e) {
    char temporary[4200];
    (void)snprintf(temporary, sizeof temporary, "%s.new", path);
    cleanup_file FILE *f = fopen(temporary, "we");
    if (!f) return err_sys(e, errno, "cannot write %s", temporary);
    fprintf(f, "%d %llu\n", (int)pid, start_time(pid));
    if (fflush(f) != 0 || rename(temporary, path) < 0) return err_sys(e, errno, "cannot write %s", path);
    return 0;
}

int pidfile_open(const char *path, pid_t *pid_out) {
    cleanup_file FILE *f = fopen(path, "re");
    int pid = 0;
    unsigned long long start = 0;
    if (!f || fscanf(f, "%d %llu", &pid, &start) != 2 || pid <= 1 || start == 0) return -1;
    cleanup_close int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 || start_time(pid) != start) return -1;
    if (pid_out) *pid_out = pid;
    return steal_fd(&fd);
}

bool pidfd_wait(int pidfd, int timeout_ms) {
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    for (int64_t until = monotonic_ms() + timeout_ms;;) {
        int64_t left = until - monotonic_ms();
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n > 0) return true;
        if (n == 0 || errno != EINTR) return false;
    }
}

int pidfd_signal(int pidfd, int signo) { return (int)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0); }

bool pidfd_end(int pidfd, int grace_ms) {
    if (pidfd_signal(pidfd, SIGTERM) < 0 && errno == ESRCH) return true;
    if (pidfd_wait(pidfd, grace_ms)) return true;
    (void)pidfd_signal(pidfd, SIGKILL);
    return pidfd_wait(pidfd, 5000);
}
